"""Data that is stored for speed and read with checks."""
