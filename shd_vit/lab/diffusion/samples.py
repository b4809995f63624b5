"""Pictures with labels in .npz files, in the form that ADM's evaluator reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shd_vit.errors import DatasetError
from shd_vit.files import write_whole


def save_samples(
    path: Path, images: Tensor, labels: Tensor, classes: Sequence[str] | None = None
) -> None:
    """Pictures (n, h, w, channels) and labels as .npz, in the form that ADM's evaluator reads.

    Args:
        path: Of the file.
        images: uint8.
        labels: (n,).
        classes: Names of the labels, which go into the file too.
    """
    names: dict[str, Any] = {} if classes is None else {'classes': np.array(classes)}
    with write_whole(path) as part, open(part, 'wb') as file:
        np.savez(file, arr_0=images.numpy(), arr_1=labels.numpy(), **names)


def load_samples(path: str | Path) -> tuple[Tensor, Tensor | None]:
    """What :func:`save_samples` wrote, or ADM's reference files hold.

    Raises:
        DatasetError: If it is no such file.
    """
    try:
        with np.load(path) as arrays:
            images = arrays['arr_0']
            labels = torch.from_numpy(arrays['arr_1']) if 'arr_1' in arrays else None
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f'{path} is no .npz of samples (arr_0): {error}') from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DatasetError(
            f'{path}: arr_0 is {images.dtype} {images.shape}, expected uint8 (n, h, w, 1 or 3)'
        )
    return torch.from_numpy(images), labels
