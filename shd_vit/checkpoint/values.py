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

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shd_vit.checkpoint.calls import CALLS, CLASSES, HISTORY, RECORDS, Name
from shd_vit.checkpoint.plain import Refused
from shd_vit.checkpoint.tensors import DTYPES, STORAGES, ArrayType, Storage, array


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
        if path in DTYPES:
            return DTYPES[path]
        if path.rpartition('.')[0] == HISTORY:  # its statistics, by qualified name
            return Name(path)
        if path not in CALLS and path not in RECORDS and path not in STORAGES | CLASSES:
            raise Refused(f'asks for {path}, which may run code')
        return Name(path)

    def call(self, name: Any, arguments: tuple) -> Any:
        """What a pickled call gives: never a call by the file's name."""
        if type(name) is not Name or name.path not in CALLS or type(arguments) is not tuple:
            raise Refused(f'calls {getattr(name, "path", name)!r}, which may run code')
        return CALLS[name.path](self, *arguments)

    def new(self, name: Any, arguments: tuple) -> dict:
        """A record that :meth:`build` fills."""
        if type(name) is not Name or name.path not in RECORDS or arguments:
            raise Refused(f'makes a {getattr(name, "path", name)!r}, which may run code')
        record: dict = {}
        self._records[id(record)] = (name.path, record)
        return record

    def unfilled_array(self) -> Tensor:
        """An array that :meth:`build` fills."""
        unfilled = torch.empty(0)
        self._arrays[id(unfilled)] = unfilled
        return unfilled

    def build(self, value: Any, state: Any) -> None:
        """Give a record, an array or numpy's dtype its content."""
        if id(value) in self._records:
            path, record = self._records[id(value)]
            if type(state) is not dict:
                raise ValueError(f'{path} with a state that is no dict')
            self.spend(len(state))
            record.update(_history(state) if path == HISTORY else state)
        elif id(value) in self._arrays:
            _, shape, kind, is_fortran, data = state
            self.spend(len(data))
            value.data = array(shape, kind, is_fortran, data)
        elif type(value) is ArrayType:
            if state[1] not in ('<', '|'):
                raise Refused(f'has arrays in byte order {state[1]!r}, expected little endian')
        elif type(value) is not OrderedDict:  # of a state dict: versions of its modules
            raise Refused(f'sets the state of a {type(value).__name__}, which may run code')

    def storage(self, saved: Any) -> Storage:
        """The storage of a persistent id."""
        kind, name, key, *rest = saved
        if type(key) is not str:
            raise ValueError('a storage whose key is no text')
        if kind != 'storage' or type(name) is not Name or name.path not in STORAGES:
            raise Refused(f'stores a {getattr(name, "path", kind)!r}, which is no tensor')
        return self._read_storage(STORAGES[name.path], (key, *rest))


def _history(state: dict) -> dict:
    return dict(
        log_history=state['_log_history'],
        count_history=state['_count_history'],
        max_length=state['max_length'],
    )
