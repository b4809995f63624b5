"""Writing weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from shd_vit.errors import ConfigError


def save_weights(state: dict[str, Tensor], out: str | Path, meta: dict | None = None) -> None:
    """Write a state dict; folders on the way are made.

    Args:
        state: The weights.
        out: ``.pth`` or ``.pt``, which gets ``dict(state_dict=..., meta=...)`` as mmpretrain and
            timm read it; or ``.safetensors``, which gets the weights alone.
        meta: Plain data.

    Raises:
        ConfigError: If the file's name ends otherwise.
    """
    out = Path(out)
    if out.suffix not in ('.pth', '.pt', '.safetensors'):
        raise ConfigError(f'out={str(out)!r} must end in .pth, .pt or .safetensors')
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == '.safetensors':
        from safetensors.torch import save_file

        contiguous = {name: weight.contiguous() for name, weight in state.items()}
        save_file(contiguous, out, metadata={'format': 'pt'})  # transformers asks for the format
    else:
        torch.save(dict(state_dict=state, meta=meta or {}), out)
