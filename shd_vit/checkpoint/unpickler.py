"""A pickle machine that builds data, and can do nothing else.

``torch.load(weights_only=True)`` lets a file call the real classes of its allow-list and set their
state. Some of those allocate what a number in the file says: a tensor of four bytes may claim to be
terabytes. Here a name in a pickle stays a name (:class:`Name`); what it stands for is built by
:mod:`shd_vit.checkpoint.values`, from values that were checked.
"""

from __future__ import annotations

import pickle
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

from shd_vit.checkpoint.plain import KEYS, Refused
from shd_vit.checkpoint.values import Values

_CONSTANTS: dict[bytes, Callable[[], Any]] = {
    pickle.NONE: lambda: None,
    pickle.NEWTRUE: lambda: True,
    pickle.NEWFALSE: lambda: False,
    pickle.EMPTY_TUPLE: tuple,
    pickle.EMPTY_LIST: list,
    pickle.EMPTY_DICT: dict,
    pickle.EMPTY_SET: set,
}
_NUMBERS = {pickle.BININT: '<i', pickle.BININT1: '<B', pickle.BININT2: '<H', pickle.BINFLOAT: '>d'}


def _text(data: bytes) -> str:
    return data.decode('utf-8', 'surrogatepass')


def _integer(data: bytes) -> int:
    return int.from_bytes(data, 'little', signed=True)


# How the length of what follows is written, and what becomes of it.
_SIZED: dict[bytes, tuple[str, Callable[[bytes], Any]]] = {
    pickle.BINUNICODE: ('<I', _text),
    pickle.SHORT_BINUNICODE: ('<B', _text),
    pickle.BINUNICODE8: ('<Q', _text),
    pickle.BINSTRING: ('<I', _text),  # Python 2's
    pickle.SHORT_BINSTRING: ('<B', _text),
    pickle.BINBYTES: ('<I', bytes),
    pickle.SHORT_BINBYTES: ('<B', bytes),
    pickle.BINBYTES8: ('<Q', bytes),
    pickle.BYTEARRAY8: ('<Q', bytearray),
    pickle.LONG1: ('<B', _integer),
}
_PUT = {pickle.BINPUT: '<B', pickle.LONG_BINPUT: '<I'}
_GET = {pickle.BINGET: '<B', pickle.LONG_BINGET: '<I'}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
_IGNORED = {pickle.PROTO: 1, pickle.FRAME: 8}  # and how many bytes follow


class Unpickler:
    """Reads one pickle of tensors, numbers, text and their containers.

    Args:
        file: Read from where it stands to the end of the pickle.
        size: Bytes of the file at most; no instruction may ask for more.
        values: Builds what names stand for.
    """

    def __init__(self, file: BinaryIO, size: int, values: Values) -> None:
        self.file, self.size, self.values = file, size, values
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below each mark
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The pickle's value.

        Raises:
            Refused: If it asks for more than data.
            Exception: Of any kind, if it is damaged.
        """
        while (instruction := self.read(1)) != pickle.STOP:
            self.step(instruction)
        (value,) = self.stack
        return value

    def read(self, count: int) -> bytes:
        data = self.file.read(count) if count <= self.size else b''
        if len(data) < count:
            raise EOFError('it ends too early')
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.read(struct.calcsize(form)))[0]

    def line(self) -> str:
        return self.file.readline(1000).decode('ascii').removesuffix('\n')

    def step(self, instruction: bytes) -> None:
        if instruction in _CONSTANTS:
            self.stack.append(_CONSTANTS[instruction]())
        elif instruction in _NUMBERS:
            self.stack.append(self.number(_NUMBERS[instruction]))
        elif instruction in _SIZED:
            form, decode = _SIZED[instruction]
            self.stack.append(decode(self.read(self.number(form))))
        elif instruction in _PUT:
            self.memo[self.number(_PUT[instruction])] = self.stack[-1]
        elif instruction in _GET:
            self.stack.append(self.memo[self.number(_GET[instruction])])
        elif instruction in _TUPLES:
            count = _TUPLES[instruction]
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif instruction in _IGNORED:
            self.read(_IGNORED[instruction])
        elif instruction in _ACTIONS:
            _ACTIONS[instruction](self)
        else:
            raise ValueError(f'it has no pickle instruction {instruction!r}')

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def make_tuple(self) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items))

    def append(self) -> None:
        item = self.stack.pop()
        self.target(list).append(item)

    def extend(self) -> None:
        items = self.since_mark()
        self.target(list).extend(items)

    def add(self) -> None:
        items = self.since_mark()
        self.target(set).update(map(_key, items))

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.target(dict, OrderedDict, Counter)[_key(key)] = value

    def set_items(self) -> None:
        items = self.since_mark()
        pairs = zip(map(_key, items[::2]), items[1::2], strict=True)
        self.target(dict, OrderedDict, Counter).update(dict(pairs))

    def target(self, *types: type) -> Any:
        """The container on top of the stack, of one of these types exactly."""
        if type(self.stack[-1]) not in types:
            raise ValueError(f'it puts items into a {type(self.stack[-1]).__name__}')
        return self.stack[-1]

    def name(self) -> None:
        module, name = self.line(), self.line()
        self.stack.append(self.values.find(module, name))

    def name_on_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.values.find(module, name))

    def call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        self.stack.append(self.values.call(name, arguments))

    def new(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        self.stack.append(self.values.new(name, arguments))

    def build(self) -> None:
        state = self.stack.pop()
        self.values.build(self.stack[-1], state)

    def storage(self) -> None:
        self.stack.append(self.values.storage(self.stack.pop()))


_ACTIONS: dict[bytes, Callable[[Unpickler], None]] = {
    pickle.MARK: Unpickler.mark,
    pickle.MEMOIZE: Unpickler.memoize,
    pickle.TUPLE: Unpickler.make_tuple,
    pickle.APPEND: Unpickler.append,
    pickle.APPENDS: Unpickler.extend,
    pickle.ADDITEMS: Unpickler.add,
    pickle.SETITEM: Unpickler.set_item,
    pickle.SETITEMS: Unpickler.set_items,
    pickle.GLOBAL: Unpickler.name,
    pickle.STACK_GLOBAL: Unpickler.name_on_stack,
    pickle.REDUCE: Unpickler.call,
    pickle.NEWOBJ: Unpickler.new,
    pickle.BUILD: Unpickler.build,
    pickle.BINPERSID: Unpickler.storage,
}


def _key(value: Any) -> Any:
    """A key as it is. Only scalars and tuples of them: Python hashes deep tuples recursively."""
    parts = value if type(value) is tuple else (value,)
    if any(type(part) not in KEYS for part in parts):
        raise Refused(f'has a key of type {type(value).__name__}, which is not plain data')
    return value
