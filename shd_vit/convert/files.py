"""Writing weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.files import write_whole

SUFFIXES = ('.pth', '.pt', '.safetensors')


def save_weights(
    state: dict[str, Tensor],
    out: str | Path,
    meta: dict | None = None,
    check: Callable[[dict[str, Tensor]], object] | None = None,
) -> None:
    """Write a state dict, whole or not at all; folders on the way are made.

    Args:
        state: The weights.
        out: ``.pth`` or ``.pt``, which gets ``dict(state_dict=..., meta=...)`` as mmpretrain and
            timm read it; or ``.safetensors``, which gets the weights alone.
        meta: Plain data.
        check: Gets the weights as they were written; ``out`` stays as it was if it raises.

    Raises:
        ConfigError: If the file's name ends otherwise, or it cannot be written.
    """
    with output_file(out, SUFFIXES) as part:
        if Path(out).suffix == '.safetensors':
            from safetensors.torch import load_file, save_file

            contiguous = {name: weight.contiguous() for name, weight in state.items()}
            save_file(contiguous, part, metadata={'format': 'pt'})  # transformers asks for it
            written = load_file(part) if check else {}
        else:
            torch.save(dict(state_dict=state, meta=meta or {}), part)
            written = torch.load(part, weights_only=True)['state_dict'] if check else {}
        if check:
            check(written)


@contextmanager
def output_file(out: str | Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """As :func:`shd_vit.files.write_whole`, for a file that the user named.

    Raises:
        ConfigError: If its name does not end in one of ``suffixes``, or it cannot be written.
    """
    out = Path(out)
    if out.suffix not in suffixes:
        *most, last = suffixes
        ends = f'{", ".join(most)} or {last}' if most else last
        raise ConfigError(f'out={str(out)!r} must end in {ends}')
    if out.is_dir():
        raise ConfigError(f'out={str(out)!r} cannot be written: it is a folder')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(out) as part:
            part.touch()  # libraries have errors of their own for what cannot be written
            yield part
    except OSError as error:
        reason = f'{error.strerror} ({error.filename})' if error.strerror else str(error)
        raise ConfigError(f'out={str(out)!r} cannot be written: {reason}') from None


def plain_meta(checkpoint: dict) -> dict[str, Any]:
    """Of ``meta``, what goes with the weights: the epoch and the names of the classes."""
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    about = meta.get('dataset_meta')
    classes = about.get('classes') if isinstance(about, dict) else None
    kept: dict[str, Any] = {}
    if isinstance(meta.get('epoch'), int):
        kept['epoch'] = meta['epoch']
    if isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes):
        kept['dataset_meta'] = dict(classes=list(classes))
    return kept
