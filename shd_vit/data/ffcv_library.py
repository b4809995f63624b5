"""What a plain install of shd_vit leaves out."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from shd_vit.errors import DatasetError


def require_ffcv() -> None:
    """Import FFCV, or say how to install it. That takes seconds (numba).

    Raises:
        DatasetError: If ffcv, or a library that it needs, cannot be loaded.
    """
    threads = torch.get_num_threads()
    try:
        import ffcv  # noqa: F401
    except (ImportError, OSError) as error:
        raise _missing(error) from error
    finally:
        torch.set_num_threads(threads)  # importing FFCV leaves torch with one


def ffcv_library() -> Path:
    """FFCV's compiled library, found without importing FFCV.

    Raises:
        DatasetError: If FFCV is not installed.
    """
    spec = importlib.util.find_spec('ffcv')
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in Path(folder).glob('_libffcv*.so'):
            return file
    raise _missing('it is not installed')


def _missing(why: object) -> DatasetError:
    return DatasetError(
        f'FFCV cannot be loaded ({why}): pip install "shd_vit[ffcv]", on Debian after '
        'apt-get install pkg-config libturbojpeg0-dev libopencv-dev'
    )
