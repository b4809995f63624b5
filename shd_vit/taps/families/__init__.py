"""Attention families that the package knows: one file a library or architecture."""

from shd_vit.taps.families import (  # noqa: F401
    beit,
    diffusers,
    hugging_face,
    mdt,
    mmpretrain,
    swin,
    timm,
    torch_mha,
)
