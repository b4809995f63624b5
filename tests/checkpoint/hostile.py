"""Files made to harm, and a watch over what their reader does."""

import encodings.cp437  # noqa: F401  (names in zip archives; imported late otherwise)
import os
import sys
import zipfile
from collections import OrderedDict
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def tensor(size, stride=(1,), offset=0):
    """A tensor of four bytes that claims another shape."""
    storage = torch.zeros(1)._typed_storage()
    return Call(
        torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict()
    )


def nested(depth, outer=lambda inner: [inner]):
    value = ()
    for _ in range(depth):
        value = outer(value)
    return value


def laughs():
    value = ['ha']
    for _ in range(40):
        value = [value] * 10
    return value


def cycle():
    value = []
    value.append(value)
    return value


def files(folder):
    """Values by name. Those that run code would make a folder 'exploded' in ``folder``."""
    bomb = Call(os.mkdir, f'{folder}/exploded')
    history = HistoryBuffer([1.0], [1])
    history.bomb = bomb
    objects = np.array([1], dtype=object)
    return dict(
        code=bomb,
        code_in_an_array=np.array([bomb], dtype=object),
        code_in_a_history=history,
        exec=Call(exec, f'import os; os.mkdir({f"{folder}/exploded"!r})'),
        getattr=Call(getattr, HistoryBuffer, '__init__'),
        pointers=Call(np.ndarray, (8,), np.dtype('O'), bytes(64)),
        numbers_from_bytes=Call(np.ndarray, (2,), np.dtype('f8'), bytes(16)),
        object_array=objects,
        text_array=np.array(['a']),
        huge_tensor=tensor((10**12,)),
        outside_of_its_storage=tensor((1,), offset=2),
        negative_stride=tensor((2,), stride=(-1,)),
        expanded=tensor((10**6, 10**6), stride=(0, 0)),
        huge_memory=Call(bytearray, 10**13),
        huge_storage=Call(torch.UntypedStorage, 10**13),
        huge_legacy_tensor=Call(torch.FloatTensor, 10**13),
        huge_array=Call(np._core.multiarray._reconstruct, np.ndarray, (10**12,), b'b'),
        function=torch.nn.functional.relu,
        class_=HistoryBuffer,
        model=torch.nn.Linear(1, 1),
        deep=nested(150),
        deep_key={nested(150, lambda inner: (inner,)): 1},
        laughs=laughs(),
        cycle=cycle(),
    )


def save(value, path, legacy=False):
    torch.save(dict(state_dict={}, value=value), path, _use_new_zipfile_serialization=not legacy)
    return str(path)


def save_pickle(content, path):
    """A file by torch.save whose pickle is this one; its only storage is called 0."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('x/data.pkl', content)
        archive.writestr('x/byteorder', b'little')
        archive.writestr('x/data/0', np.arange(6, dtype='f4').tobytes())
        archive.writestr('x/version', b'3\n')
    return str(path)


_seen: list = []
_is_watching = False
_HARMLESS = (
    'builtins.id',
    'object.__getattr__',
    'object.__setattr__',
    'sys._getframe',
    'array.__new__',
)


def _hook(event, arguments):
    if not _is_watching or event in _HARMLESS:
        return
    if event == 'open' and arguments[1] in ('r', 'rb', None) and not arguments[2] & 3:
        return
    _seen.append((event, str(arguments)[:200]))


@contextmanager
def watch():
    """Python's own audit of what happens inside: files written, code run, modules imported."""
    global _is_watching
    if _hook not in getattr(sys, '_shd_vit_hooks', ()):
        sys._shd_vit_hooks = (_hook,)
        sys.addaudithook(_hook)
    _seen.clear()
    _is_watching = True
    try:
        yield _seen
    finally:
        _is_watching = False
