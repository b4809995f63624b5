"""Attention families that the package knows: one file a library or architecture."""

from shd_vit.taps.families import (  # noqa: F401
    beit,
    diffusers,
    hiera,
    hugging_face,
    mmpretrain,
    no_maps,
    parallel,
    relpos,
    sam,
    swin,
    swin_v2,
    timm,
    tiny_vit,
    torch_mha,
)
