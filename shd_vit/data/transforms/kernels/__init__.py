"""Compiled loops over pixels. They hold no GIL, draw nothing and know nothing of configs."""
