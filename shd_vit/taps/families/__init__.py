"""Attention families that the package knows: one file a library."""

from shd_vit.taps.families import hugging_face, mmpretrain, timm, torch_mha  # noqa: F401
