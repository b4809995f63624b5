"""What images a vision model reads: of which channels, size and type."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from shd_vit.errors import ConfigError


def first_convolution(model: nn.Module) -> Any:
    """What reads the images."""
    return next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)


def fixed_size(model: nn.Module) -> tuple[int, int] | None:
    """(height, width) of the only images that a model takes; None if it takes any, or says none."""
    for module in model.modules():
        if getattr(module, 'strict_img_size', False):  # timm
            size: Any = getattr(module, 'img_size', None)
        elif hasattr(module, 'patch_embeddings') and _interpolates_on_request(module):
            size = getattr(module.patch_embeddings, 'image_size', None)  # transformers
        else:
            continue
        if size is not None:
            return checked_size(size)
    return None


def image_shape(model: nn.Module, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
    """(C, h, w) of the images that a vision transformer was built for.

    Args:
        model: Of any library.
        size: (h, w), where it is known already.

    Raises:
        ConfigError: If none of its modules says so.
    """
    names = ('img_size', 'image_size')  # timm and mmpretrain; Hugging Face
    sizes = (getattr(module, name, None) for module in model.modules() for name in names)
    found = size or next((size for size in sizes if size is not None), None)
    first = first_convolution(model)
    if first is None or found is None:
        raise ConfigError(
            f'the size of the images that {type(model).__name__} takes cannot be told, none of its '
            'modules has image_size or img_size: pass --image-size'
        )
    return first.in_channels, *checked_size(found)


def checked_size(size: Any) -> tuple[int, int]:
    """(height, width) of a side, or of both.

    Raises:
        ConfigError: If it is no size.
    """
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ConfigError(f'image_size={size!r} must be a number of pixels, or (height, width)')
    return sides


def _interpolates_on_request(module: nn.Module) -> bool:
    return 'interpolate_pos_encoding' in inspect.signature(type(module).forward).parameters
