"""What the names in a checkpoint's pickle stand for: plain data, built here and nowhere else.

Tensors, and what checkpoints by stock mmengine and timm hold beside them:

| in the file | becomes |
| --- | --- |
| a numpy array | a tensor |
| a numpy scalar | a number |
| mmengine's HistoryBuffer | dict(log_history=tensor, count_history=tensor, max_length=int) |
| argparse.Namespace | a dict |
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KEYS = (type(None), bool, int, float, str, bytes)
_LEAVES = (*KEYS, complex, bytearray, Tensor, torch.dtype, torch.device, torch.Size)
_CONTAINERS = (dict, OrderedDict, Counter, list, tuple, set)
_DEPTH = 100  # of containers in containers; real checkpoints have about 6

_DTYPES = {
    str(value): value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype) and not name.startswith(('q', 'bits'))
}
_STORAGES = {
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
_ARRAYS = {
    'f2': torch.float16, 'f4': torch.float32, 'f8': torch.float64,
    'i1': torch.int8, 'i2': torch.int16, 'i4': torch.int32, 'i8': torch.int64,
    'u1': torch.uint8, 'u2': torch.uint16, 'u4': torch.uint32, 'u8': torch.uint64,
    'b1': torch.bool, 'c8': torch.complex64, 'c16': torch.complex128,
}  # fmt: skip
_HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
_RECORDS = (_HISTORY, 'argparse.Namespace')
_NUMPY = [f'numpy.{core}.multiarray.' for core in ('core', '_core')]


class Refused(Exception):
    """A file holds more than plain data. The message goes on from 'it'."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names. Nothing is looked up by it but the tables here."""

    path: str


@dataclass
class _ArrayType:
    """numpy's dtype, while it is read."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """Bytes of a file (n,), uint8, and what their file says they are."""

    data: Tensor
    dtype: torch.dtype


class Values:
    """Builds the values of one file, of which they may be no larger.

    Args:
        size: Bytes of the file.
        read_storage: From a dtype and the rest of a persistent id, (key, location, number of
            elements, ...), to a storage.
    """

    def __init__(self, size: int, read_storage: Callable[[torch.dtype, tuple], Storage]) -> None:
        self.size = size
        self.left = 4 * size  # of bytes that may be copied: text, array and tensor of one datum
        self._read_storage = read_storage
        self._records: dict[int, tuple[str, dict]] = {}
        self._arrays: dict[int, Tensor] = {}

    def spend(self, count: int) -> None:
        """Account for bytes or entries that are about to be copied."""
        self.left -= count
        if count < 0 or self.left < 0:
            raise ValueError('its parts are larger than the whole file')

    def find(self, module: str, name: str) -> Any:
        """What a pickle may name: a dtype, or something of the tables."""
        if type(module) is not str or type(name) is not str:
            raise ValueError('a name that is no text')
        module = 'builtins' if module == '__builtin__' else module
        path = f'{module}.{name}'
        if path in _DTYPES:
            return _DTYPES[path]
        if path.rpartition('.')[0] == _HISTORY:  # its statistics, by qualified name
            return Name(path)
        if path not in _CALLS and path not in _RECORDS and path not in _STORAGES | _CLASSES:
            raise Refused(f'asks for {path}, which may run code')
        return Name(path)

    def call(self, name: Any, arguments: tuple) -> Any:
        """What a pickled call gives: never a call by the file's name."""
        if type(name) is not Name or name.path not in _CALLS or type(arguments) is not tuple:
            raise Refused(f'calls {getattr(name, "path", name)!r}, which may run code')
        return _CALLS[name.path](self, *arguments)

    def new(self, name: Any, arguments: tuple) -> dict:
        """A record that :meth:`build` fills."""
        if type(name) is not Name or name.path not in _RECORDS or arguments:
            raise Refused(f'makes a {getattr(name, "path", name)!r}, which may run code')
        record: dict = {}
        self._records[id(record)] = (name.path, record)
        return record

    def build(self, value: Any, state: Any) -> None:
        """Give a record, an array or numpy's dtype its content."""
        if id(value) in self._records:
            path, record = self._records[id(value)]
            if type(state) is not dict:
                raise ValueError(f'{path} with a state that is no dict')
            self.spend(len(state))
            record.update(_history(state) if path == _HISTORY else state)
        elif id(value) in self._arrays:
            _, shape, kind, is_fortran, data = state
            value.data = self.array(shape, kind, is_fortran, data)
        elif type(value) is _ArrayType:
            if state[1] not in ('<', '|'):
                raise Refused(f'has arrays in byte order {state[1]!r}, expected little endian')
        elif type(value) is not OrderedDict:  # of a state dict: versions of its modules
            raise Refused(f'sets the state of a {type(value).__name__}, which may run code')

    def storage(self, saved: Any) -> Storage:
        """The storage of a persistent id."""
        kind, name, key, *rest = saved
        if type(key) is not str:
            raise ValueError('a storage whose key is no text')
        if kind != 'storage' or type(name) is not Name or name.path not in _STORAGES:
            raise Refused(f'stores a {getattr(name, "path", kind)!r}, which is no tensor')
        return self._read_storage(_STORAGES[name.path], (key, *rest))

    def tensor(self, storage: Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
        return self._view(storage, storage.dtype, offset, size, stride)

    def tensor_v2(
        self, storage: Storage, offset: int, size: tuple, stride: tuple,
        requires_grad: bool, hooks: Any, metadata: Any = None,
    ) -> Tensor:  # fmt: skip
        if metadata:
            raise Refused('has a conjugated or negated view, which is not supported')
        return self._view(storage, storage.dtype, offset, size, stride)

    def tensor_v3(
        self, storage: Storage, offset: int, size: tuple, stride: tuple,
        requires_grad: bool, hooks: Any, dtype: torch.dtype, metadata: Any = None,
    ) -> Tensor:  # fmt: skip
        if metadata:
            raise Refused('has a conjugated or negated view, which is not supported')
        return self._view(storage, dtype, offset, size, stride)

    def _view(
        self, storage: Storage, dtype: torch.dtype, offset: int, size: tuple, stride: tuple
    ) -> Tensor:
        """A tensor over bytes that are there. torch would enlarge a storage that is too small."""
        if type(storage) is not Storage or type(dtype) is not torch.dtype:
            raise ValueError('a tensor without a storage')
        if dtype == torch.bool and storage.dtype != dtype:
            raise ValueError('truth values in a storage of others')
        numbers = (offset, *size, *stride)
        if any(type(n) is not int or n < 0 for n in numbers) or len(size) != len(stride):
            raise ValueError(f'a tensor of shape {size} and stride {stride} from {offset}')
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        fits = 0 in size or (last + 1) * dtype.itemsize <= len(storage.data)
        if not fits or math.prod(size) * dtype.itemsize > self.size:
            raise ValueError(f'a tensor of shape {tuple(size)} is larger than its bytes')
        bytes_ = storage.data.untyped_storage()
        return torch.empty(0, dtype=dtype, device=storage.data.device).set_(
            bytes_, offset, tuple(size), tuple(stride)
        )

    def array(self, shape: tuple, kind: _ArrayType, is_fortran: bool, data: bytes) -> Tensor:
        """A numpy array as a tensor (*shape)."""
        if type(kind) is not _ArrayType or type(data) is not bytes:
            raise Refused('asks for an array of objects, which may run code')
        if any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f'an array of shape {shape}')
        self.spend(len(data))
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


def check_plain(value: Any, limit: int) -> None:
    """Refuse what is no tree of plain data, or would grow far beyond its file when copied.

    Args:
        value: Of an unpickler.
        limit: How many values the tree may have, shared ones counted where they stand.
    """
    sizes: dict[int, tuple[int, int]] = {}  # values and depth below, by id
    under_way: set[int] = set()
    todo = [(value, False)]
    while todo:
        node, is_done = todo.pop()
        if type(node) in _LEAVES:
            continue
        if type(node) not in _CONTAINERS:
            name = getattr(node, 'path', type(node).__name__)
            raise Refused(f'holds {name} itself, which is not plain data')
        children = list(node.values() if isinstance(node, dict) else node)
        if is_done:
            below = [sizes.get(id(child), (1, 0)) for child in children]
            count, depth = 1 + sum(c for c, _ in below), 1 + max((d for _, d in below), default=0)
            if count > limit or depth > _DEPTH:
                raise Refused('repeats or nests its values beyond measure')
            sizes[id(node)] = count, depth
            under_way.discard(id(node))
        elif id(node) in under_way:
            raise Refused('holds a container that contains itself')
        elif id(node) not in sizes:
            under_way.add(id(node))
            todo.append((node, True))
            todo.extend((child, False) for child in children)


def _history(state: dict) -> dict:
    return dict(
        log_history=state['_log_history'],
        count_history=state['_count_history'],
        max_length=state['max_length'],
    )


def _array_type(values: Values, code: Any, *_: Any) -> _ArrayType:
    if type(code) is not str or code not in _ARRAYS:
        kind = 'objects' if str(code).startswith('O') else f'dtype {code!r}'
        raise Refused(f'asks for an array of {kind}, which may run code')
    return _ArrayType(_ARRAYS[code])


def _empty_array(values: Values, cls: Any, shape: Any, kind: Any) -> Tensor:
    """What :meth:`Values.build` fills."""
    if cls != Name('numpy.ndarray') or shape != (0,):
        raise Refused(f'asks for a {getattr(cls, "path", cls)} of shape {shape}')
    array = torch.empty(0)
    values._arrays[id(array)] = array
    return array


def _scalar(values: Values, kind: Any, data: Any = None) -> Any:
    return values.array((), kind, False, data).item()


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
    if owner != Name(_HISTORY) or name not in ('min', 'max', 'mean', 'current'):
        raise Refused('asks for builtins.getattr, which may run code')
    return Name(f'{_HISTORY}.{name}')


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
_CLASSES = dict.fromkeys(('numpy.ndarray', 'torch.Tensor', 'torch.nn.parameter.Parameter'))
_CALLS: dict[str, Callable[..., Any]] = {
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
    'torch._utils._rebuild_tensor': Values.tensor,
    'torch._utils._rebuild_tensor_v2': Values.tensor_v2,
    'torch._utils._rebuild_tensor_v3': Values.tensor_v3,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch._tensor._rebuild_from_type_v2': _of_type,
    'numpy.dtype': _array_type,
    **{f'{module}_reconstruct': _empty_array for module in _NUMPY},
    **{f'{module}scalar': _scalar for module in _NUMPY},
}
