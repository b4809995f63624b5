"""Checkpoints that hold data and no code."""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, is_main_process
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor, nn

from shd_vit.errors import CheckpointError


def _statistic(cls: type, name: str) -> Callable:
    """What `getattr` may do in a checkpoint: name the methods that HistoryBuffer pickles."""
    if cls is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError('GLOBAL builtins.getattr')
    return getattr(cls, name)


_multiarray = (np._core if hasattr(np, '_core') else np.core).multiarray  # numpy 2, numpy 1

# What checkpoints by stock mmengine hold beside tensors and plain types: log histories as numpy
# arrays. All of these build data only. Nothing that looks up or calls by name may join them.
_MMENGINE_GLOBALS = [
    HistoryBuffer,
    (_statistic, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ('f4', 'f8', 'i4', 'i8', 'u1', '?')},
    *(
        (function, f'numpy.{core}.multiarray.{name}')
        for name, function in (
            ('_reconstruct', _multiarray._reconstruct),
            ('scalar', _multiarray.scalar),
        )
        for core in ('core', '_core')
    ),
]


def safe_load(filename: str, map_location: Any = 'cpu') -> dict:
    """Load a checkpoint through torch's safe unpickler.

    Args:
        filename: Local path or http(s) URL, which is downloaded once and kept in torch's cache;
            ``.pth`` by torch, mmengine or timm, or ``.safetensors``.
        map_location: As in ``torch.load``.

    Raises:
        CheckpointError: If the file is missing, damaged, or would run code. None of it has run.
    """
    if re.match(r'https?://', filename):
        filename = _download(filename)
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise CheckpointError(f'checkpoint {filename!r} does not exist')
    if filename.endswith('.safetensors'):
        from safetensors.torch import load_file

        return load_file(filename)
    try:
        with torch.serialization.safe_globals(_MMENGINE_GLOBALS):
            return torch.load(filename, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)|<class '([\w.]+)'>", str(error))
        reason = f'asks for {wanted[1] or wanted[2]}, which may run' if wanted else 'may hold'
        raise CheckpointError(f'checkpoint {filename!r} was not loaded: it {reason} code') from None
    except (RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f'checkpoint {filename!r} is damaged: {reason}') from None


def load_weights(model: nn.Module, filename: str) -> None:
    """Load the weights that a model starts from. Weights that it has no use for are only logged.

    A distiller's checkpoint fits a plain classifier (its student's weights are taken), and a plain
    classifier's fits a distiller's student.

    Raises:
        CheckpointError: If a weight of the model is missing, or a shape differs.
    """
    insert_weights(model, safe_load(filename), filename, allow=('unexpected',))


def insert_weights(
    model: nn.Module, checkpoint: dict, filename: str, allow: tuple[str, ...] = ()
) -> None:
    """Put a loaded checkpoint's weights into a model.

    Args:
        model: Where they go.
        checkpoint: What :func:`safe_load` gave: ``state_dict`` or ``model`` inside, or bare.
        filename: How errors name it.
        allow: Which of 'missing' and 'unexpected' weights are logged instead of refused.

    Raises:
        CheckpointError: If weights are missing or left over, or a shape differs.
    """
    state = checkpoint.get('state_dict', checkpoint.get('model', checkpoint))
    state = fit_names(state, model.state_dict().keys())
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        lines = str(error).splitlines()
        reason = lines[1].strip() if len(lines) > 1 else lines[0]
        raise CheckpointError(f'checkpoint {filename!r} does not fit: {reason}') from None
    for kind, names in (('missing', missing), ('unexpected', unexpected)):
        if names:
            problem = (
                f'checkpoint {filename!r} does not fit {type(model).__name__}: '
                f'{len(names)} weights {kind} (first: {names[0]})'
            )
            if kind not in allow:
                raise CheckpointError(problem)
            print_log(problem, logger='current', level=logging.WARNING)


def fit_names(state: dict[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Names of a checkpoint's weights as the model has them: with or without 'student.'."""
    state = {re.sub(r'^module\.', '', name): weight for name, weight in state.items()}
    distiller_wanted = any(name.startswith('student.') for name in wanted)
    distiller_given = any(name.startswith('student.') for name in state)
    if distiller_given and not distiller_wanted:
        return student_weights(state)
    if distiller_wanted and not distiller_given:
        return {f'student.{name}': weight for name, weight in state.items()}
    return state


def student_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The student's weights of a distiller's state dict, named as the student alone has them."""
    return {
        name.removeprefix('student.'): weight
        for name, weight in state.items()
        if name.startswith('student.')
    }


def _download(url: str) -> str:
    """Local path of a URL's file, fetched by the main process alone."""
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    path = os.path.join(folder, os.path.basename(url.partition('?')[0]))
    if is_main_process() and not os.path.isfile(path):
        os.makedirs(folder, exist_ok=True)
        # Model zoos put the first digits of the file's SHA-256 at the end of its name.
        digest = re.search(r'-([0-9a-f]{8,})\.\w+$', path)
        try:
            torch.hub.download_url_to_file(url, path, hash_prefix=digest and digest[1])
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f'checkpoint {url!r} could not be downloaded: {error}') from None
    barrier()
    return path
