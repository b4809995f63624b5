"""Tensors from bytes, of shapes that the bytes suffice for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shd_vit.checkpoint.plain import Refused

DTYPES = {
    str(value): value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype) and not name.startswith(('q', 'bits'))
}
STORAGES = {
    'torch.storage.UntypedStorage': torch.uint8,
    **{
        f'torch.{name}Storage': getattr(torch, dtype)
        for name, dtype in dict(
            Double='float64', Float='float32', Half='float16', BFloat16='bfloat16',
            Long='int64', Int='int32', Short='int16', Char='int8', Byte='uint8', Bool='bool',
            ComplexDouble='complex128', ComplexFloat='complex64',
        ).items()
    },
}  # fmt: skip
ARRAYS = {
    'f2': torch.float16, 'f4': torch.float32, 'f8': torch.float64,
    'i1': torch.int8, 'i2': torch.int16, 'i4': torch.int32, 'i8': torch.int64,
    'u1': torch.uint8, 'u2': torch.uint16, 'u4': torch.uint32, 'u8': torch.uint64,
    'b1': torch.bool, 'c8': torch.complex64, 'c16': torch.complex128,
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """Bytes of a file (n,), uint8, and what their file says they are."""

    data: Tensor
    dtype: torch.dtype


@dataclass
class ArrayType:
    """numpy's dtype of an array or scalar."""

    dtype: torch.dtype


def view(
    storage: Storage, dtype: torch.dtype, offset: int, size: tuple, stride: tuple, limit: int
) -> Tensor:
    """A tensor over bytes that are there. torch would enlarge a storage that is too small.

    Args:
        storage: Whose bytes.
        dtype: Of the tensor.
        offset: Of its first element, in elements.
        size: Its shape.
        stride: In elements.
        limit: How many bytes a copy of it may have; an expanded tensor has more than its storage.
    """
    if type(storage) is not Storage or type(dtype) is not torch.dtype:
        raise ValueError('a tensor without a storage')
    if dtype == torch.bool and storage.dtype != dtype:
        raise ValueError('truth values in a storage of others')
    numbers = (offset, *size, *stride)
    if any(type(n) is not int or n < 0 for n in numbers) or len(size) != len(stride):
        raise ValueError(f'a tensor of shape {size} and stride {stride} from {offset}')
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    fits = 0 in size or (last + 1) * dtype.itemsize <= len(storage.data)
    if not fits or math.prod(size) * dtype.itemsize > limit:
        raise ValueError(f'a tensor of shape {tuple(size)} is larger than its bytes')
    bytes_ = storage.data.untyped_storage()
    return torch.empty(0, dtype=dtype, device=storage.data.device).set_(
        bytes_, offset, tuple(size), tuple(stride)
    )


def array(shape: tuple, kind: ArrayType, is_fortran: bool, data: bytes) -> Tensor:
    """A numpy array as a tensor (*shape)."""
    if type(kind) is not ArrayType or type(data) is not bytes:
        raise Refused('asks for an array of objects, which may run code')
    if any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f'an array of shape {shape}')
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise ValueError(f'an array of shape {shape} and {len(data)} bytes')
    flat = from_bytes(data, kind.dtype)
    if not is_fortran:
        return flat.view(shape)
    return flat.view(shape[::-1]).permute(*reversed(range(len(shape))))


def from_bytes(data: bytes | bytearray, dtype: torch.dtype) -> Tensor:
    """Bytes as a tensor (n,) of its own memory."""
    if not data:
        return torch.empty(0, dtype=dtype)
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return flat != 0 if dtype == torch.bool else flat.view(dtype)
