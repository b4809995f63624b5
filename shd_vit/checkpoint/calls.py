"""The calls that a checkpoint's pickle may ask for, by name, and what is done instead."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shd_vit.checkpoint.plain import KEYS, Refused
from shd_vit.checkpoint.tensors import ARRAYS, ArrayType, Storage, array, view

if TYPE_CHECKING:
    from shd_vit.checkpoint.values import Values

HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
RECORDS = (HISTORY, 'argparse.Namespace')
_NUMPY = [f'numpy.{core}.multiarray.' for core in ('core', '_core')]


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names. Nothing is looked up by it but the tables here."""

    path: str


def _tensor(
    values: Values, storage: Storage, offset: int, size: tuple, stride: tuple, *_: Any
) -> Tensor:
    return view(storage, storage.dtype, offset, size, stride, values.size)


def _tensor_v2(
    values: Values, storage: Storage, offset: int, size: tuple, stride: tuple,
    requires_grad: bool, hooks: Any, metadata: Any = None,
) -> Tensor:  # fmt: skip
    return _tensor_v3(
        values, storage, offset, size, stride, requires_grad, hooks, storage.dtype, metadata
    )


def _tensor_v3(
    values: Values, storage: Storage, offset: int, size: tuple, stride: tuple,
    requires_grad: bool, hooks: Any, dtype: torch.dtype, metadata: Any = None,
) -> Tensor:  # fmt: skip
    if metadata:
        raise Refused('has a conjugated or negated view, which is not supported')
    return view(storage, dtype, offset, size, stride, values.size)


def _array_type(values: Values, code: Any, *_: Any) -> ArrayType:
    if type(code) is not str or code not in ARRAYS:
        kind = 'objects' if str(code).startswith('O') else f'dtype {code!r}'
        raise Refused(f'asks for an array of {kind}, which may run code')
    return ArrayType(ARRAYS[code])


def _empty_array(values: Values, cls: Any, shape: Any, kind: Any) -> Tensor:
    """What :meth:`Values.build` fills."""
    if cls != Name('numpy.ndarray') or shape != (0,):
        raise Refused(f'asks for a {getattr(cls, "path", cls)} of shape {shape}')
    return values.unfilled_array()


def _scalar(values: Values, kind: Any, data: Any = None) -> Any:
    return array((), kind, False, data).item()


def _encode(values: Values, text: str, encoding: str = 'latin1') -> bytes:
    """Bytes, as protocol 2 writes them."""
    if encoding not in ('latin1', 'latin-1'):
        raise Refused(f'has bytes in the encoding {encoding!r}')
    values.spend(len(text))
    return str.encode(text, 'latin1')


def _mapping(cls: type) -> Callable:
    def build(values: Values, items: Any = ()) -> dict:
        values.spend(len(items))
        pairs = items.items() if isinstance(items, dict) else items
        result = cls()
        for key, value in pairs:
            if type(key) not in KEYS:
                raise Refused(f'has a key of type {type(key).__name__}, which is not plain data')
            result[key] = value
        return result

    return build


def _set(values: Values, items: list = []) -> set:  # noqa: B006
    values.spend(len(items))
    if any(type(item) not in KEYS for item in items):
        raise Refused('has a set of what is not plain data')
    return set(items)


def _no_bytes(values: Values) -> bytes:
    """How protocol 2 writes them; others are encoded text."""
    return b''


def _bytearray(values: Values, data: Any = b'', encoding: str = 'latin1') -> bytearray:
    data = _encode(values, data, encoding) if type(data) is str else data
    if type(data) is not bytes:
        raise Refused('asks for memory')
    values.spend(len(data))
    return bytearray(data)


def _complex(values: Values, real: float, imaginary: float) -> complex:
    return complex(float(real), float(imaginary))


def _size(values: Values, sizes: tuple) -> torch.Size:
    values.spend(len(sizes))
    return torch.Size(sizes)


def _device(values: Values, kind: str, index: int | None = None) -> torch.device:
    return torch.device(kind) if index is None else torch.device(kind, index)


def _statistic(values: Values, owner: Any, name: Any) -> Name:
    """HistoryBuffer pickles its methods min, max, mean and current through getattr."""
    if owner != Name(HISTORY) or name not in ('min', 'max', 'mean', 'current'):
        raise Refused('asks for builtins.getattr, which may run code')
    return Name(f'{HISTORY}.{name}')


def _parameter(values: Values, data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError('a parameter that is no tensor')
    return data


def _of_type(values: Values, function: Any, cls: Any, arguments: tuple, state: Any) -> Tensor:
    """A tensor that had attributes, without them."""
    if cls not in (Name('torch.Tensor'), Name('torch.nn.parameter.Parameter')):
        raise Refused(f'has a tensor of the class {getattr(cls, "path", cls)}')
    tensor = values.call(function, arguments)
    return _parameter(values, tensor)


# Named as arguments only.
CLASSES = dict.fromkeys(('numpy.ndarray', 'torch.Tensor', 'torch.nn.parameter.Parameter'))
CALLS: dict[str, Callable[..., Any]] = {
    'collections.OrderedDict': _mapping(OrderedDict),
    'collections.Counter': _mapping(Counter),
    'builtins.set': _set,
    'builtins.bytes': _no_bytes,
    'builtins.bytearray': _bytearray,
    'builtins.complex': _complex,
    'builtins.getattr': _statistic,
    '_codecs.encode': _encode,
    'torch.Size': _size,
    'torch.device': _device,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor_v2,
    'torch._utils._rebuild_tensor_v3': _tensor_v3,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch._tensor._rebuild_from_type_v2': _of_type,
    'numpy.dtype': _array_type,
    **{f'{module}_reconstruct': _empty_array for module in _NUMPY},
    **{f'{module}scalar': _scalar for module in _NUMPY},
}
