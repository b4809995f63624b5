"""Checkpoints that hold data and no code. Needs torch alone.

A file by ``torch.save`` is read by a pickle machine of our own (:mod:`.unpickler`), in which
nothing can be called or allocated by a file's word. What is no plain data is refused by name.
"""

from __future__ import annotations

import os
import re
import zipfile
from typing import Any

import torch
import torch.distributed as dist

from shd_vit.checkpoint.containers import read_legacy, read_zip
from shd_vit.checkpoint.plain import Refused
from shd_vit.checkpoint.weights import model_weights, weights_of
from shd_vit.errors import CheckpointError

__all__ = ['is_whole', 'model_weights', 'safe_load', 'weights_of']

# What files are that people take for checkpoints, by how they begin.
_OTHERS = {
    b'version https://git-lfs': "a Git LFS pointer, not the file itself: 'git lfs pull' fetches it",
    b'<': 'a web page or XML',
    b'{': 'JSON',
    b'\x1f\x8b': 'a gzip archive',
    b'\x93NUMPY': 'a numpy array',
    b'\x89HDF': 'an HDF5 file',
}


def safe_load(filename: str | os.PathLike, map_location: Any = 'cpu') -> dict:
    """Load a checkpoint, none of whose content can run.

    Args:
        filename: Local path or http(s) URL, which is downloaded once and kept in torch's cache;
            ``.pth`` by torch, mmengine or timm, or ``.safetensors``.
        map_location: The device that tensors go to.

    Returns:
        Tensors, numbers, text and their containers. What numpy, mmengine's HistoryBuffer and
        argparse.Namespace become: :mod:`shd_vit.checkpoint.values`.

    Raises:
        CheckpointError: If the file is missing, damaged, holds no dict, or asks for more than data.
            None of it has run, and no more memory was used than some times the file's size.
    """
    filename = os.fspath(filename)
    if re.match(r'https?://', filename):
        filename = _download(filename)
    path = os.path.expanduser(filename)
    if not os.path.isfile(path):
        raise CheckpointError(f'checkpoint {filename!r} does not exist')
    try:
        checkpoint = _read(path, torch.device(map_location or 'cpu'))
    except Refused as error:
        reason = _line(error)
        raise CheckpointError(f'checkpoint {filename!r} was not loaded: it {reason}') from None
    except Exception as error:  # of any kind: the file may hold anything
        raise CheckpointError(f'checkpoint {filename!r} is damaged: {_line(error)}') from None
    if not isinstance(checkpoint, dict):
        kind = type(checkpoint).__name__
        raise CheckpointError(
            f'checkpoint {filename!r} holds a {kind}: expected a dict of weights, or one with '
            'them as state_dict or model'
        )
    return checkpoint


def is_whole(path: str) -> bool:
    """Whether a file is there to its end, as far as that is seen without reading all of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith('data.pkl') for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def _read(path: str, device: torch.device) -> Any:
    if path.endswith('.safetensors'):
        from safetensors.torch import load_file

        return load_file(path, device=str(device))
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        start = file.read(512)
        file.seek(0)
        if not start:
            raise Refused('is empty')
        for magic, kind in _OTHERS.items():
            if start.startswith(magic):
                raise Refused(f'is {kind}')
        if start[257:262] == b'ustar':
            raise Refused('is a tar archive')
        return (read_zip if start.startswith(b'PK') else read_legacy)(file, size, device)


def _line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return ' '.join(text.split())[:300]


def _download(url: str) -> str:
    """Local path of a URL's file, fetched by the main process alone."""
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    path = os.path.join(folder, os.path.basename(url.partition('?')[0]))
    is_joined = dist.is_available() and dist.is_initialized()
    if (not is_joined or dist.get_rank() == 0) and not os.path.isfile(path):
        os.makedirs(folder, exist_ok=True)
        # Model zoos put the first digits of the file's SHA-256 at the end of its name.
        digest = re.search(r'-([0-9a-f]{8,})\.\w+$', path)
        try:
            torch.hub.download_url_to_file(url, path, hash_prefix=digest and digest[1])
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f'checkpoint {url!r} could not be downloaded: {_line(error)}'
            ) from None
    if is_joined:
        dist.barrier()
    return path
