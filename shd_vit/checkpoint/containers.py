"""What torch.save writes: zip archives, and before torch 1.6 a row of pickles.

Every byte of a tensor comes from the file, once.
"""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import Any, BinaryIO

import torch

from shd_vit.checkpoint.plain import Refused, check_plain
from shd_vit.checkpoint.tensors import Storage, from_bytes
from shd_vit.checkpoint.unpickler import Unpickler
from shd_vit.checkpoint.values import Values

_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_COPIES = 16  # of a value, through references; real checkpoints share a tuple here and there


def read_zip(file: BinaryIO, size: int, device: torch.device) -> Any:
    """What a zip archive by torch.save holds.

    Args:
        file: At its beginning.
        size: Of the file, in bytes.
        device: Where tensors go.

    Raises:
        Refused: If it asks for more than data.
        Exception: Of any kind, if it is damaged.
    """
    archive = zipfile.ZipFile(file)
    entries = {entry.filename.partition('/')[2]: entry for entry in archive.infolist()}
    if 'constants.pkl' in entries:
        raise Refused('is a TorchScript archive, which is code')
    if 'data.pkl' not in entries:
        raise Refused('is a zip archive, but not of torch.save')

    def read(name: str) -> bytes:
        entry = entries[name]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise Refused('is compressed, which torch.save does not do')
        values.spend(entry.file_size)
        data = archive.read(entry)
        if len(data) != entry.file_size:
            raise EOFError(f'{name} ends too early')
        return data

    storages: dict[str, Storage] = {}

    def read_storage(dtype: torch.dtype, saved: tuple) -> Storage:
        key, _, count = saved
        if key not in storages:
            storages[key] = Storage(_bytes(read(f'data/{key}'), dtype).to(device), dtype)
        return _checked(storages[key], dtype, count)

    values = Values(size, read_storage)
    if 'byteorder' in entries and read('byteorder') != b'little':
        raise Refused('was written on a big-endian machine')
    content = read('data.pkl')
    value = Unpickler(BytesIO(content), len(content), values).load()
    check_plain(value, _COPIES * len(content))
    return value


def read_legacy(file: BinaryIO, size: int, device: torch.device) -> Any:
    """What a file by torch.save before 1.6 holds. As :func:`read_zip`."""
    storages: dict[str, Storage] = {}

    def read_storage(dtype: torch.dtype, saved: tuple) -> Storage:
        key, _, count, view = saved
        if view is not None:
            raise Refused('holds views of storages, as torch wrote them before 0.4')
        if key not in storages:  # its bytes follow after the pickle
            values.spend(count * dtype.itemsize)
            bytes_ = torch.empty(count * dtype.itemsize, dtype=torch.uint8, device=device)
            storages[key] = Storage(bytes_, dtype)
        return _checked(storages[key], dtype, count)

    values = Values(size, read_storage)

    def unpickle() -> Any:
        return Unpickler(file, size, values).load()

    if unpickle() != _LEGACY_MAGIC or unpickle() != _LEGACY_PROTOCOL:
        raise Refused('is a pickle, but not of torch.save')
    if not unpickle()['little_endian']:
        raise Refused('was written on a big-endian machine')
    value = unpickle()
    check_plain(value, _COPIES * file.tell())
    for key in unpickle():
        storage = storages.pop(str(key))
        count = int.from_bytes(file.read(8), 'little', signed=True)
        if count * storage.dtype.itemsize != len(storage.data):
            raise ValueError(f'storage {key} has another size than it says')
        storage.data.copy_(_bytes(file.read(len(storage.data)), storage.dtype))
    if storages:
        raise EOFError('it ends too early')
    return value


def _bytes(data: bytes, dtype: torch.dtype) -> torch.Tensor:
    """Bytes (n,) as a storage of that type has them."""
    flat = from_bytes(data, torch.uint8)
    return flat.ne(0).view(torch.uint8) if dtype == torch.bool else flat  # else undefined


def _checked(storage: Storage, dtype: torch.dtype, count: int) -> Storage:
    if dtype != storage.dtype or count * dtype.itemsize != len(storage.data):
        raise ValueError('a storage has another type or size than it says')
    return storage
