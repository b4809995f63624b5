"""Nothing that a file asks for is done: no code, no file, no memory beyond the file's own size."""

import os
import pickle
import tracemalloc
import zipfile

import pytest
import torch
from checkpoint.hostile import files, save, save_pickle, watch
from hypothesis import given, settings
from hypothesis import strategies as st

from shd_vit.checkpoint import safe_load
from shd_vit.errors import CheckpointError

KINDS = sorted(files('.'))
LEAVES = (type(None), bool, int, float, complex, str, bytes, bytearray)
TORCH = (torch.Tensor, torch.dtype, torch.device, torch.Size)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('hostile')


def outcome(path):
    """What a load gives, or None if it is refused; in one line, under watch, in little memory."""
    size = os.path.getsize(path)
    tracemalloc.start()
    loaded = None
    try:
        with watch() as seen:
            loaded = safe_load(path)
    except CheckpointError as error:
        assert '\n' not in str(error) and len(str(error)) < 1000
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert not seen
    assert peak < 2e6 + 200 * size
    if loaded is not None:
        check_tree(loaded, size)
    return loaded


def check_tree(value, size):
    """Plain data alone, and no tensor that has more than the file's bytes."""
    if isinstance(value, torch.Tensor):
        assert type(value) is torch.Tensor
        assert value.untyped_storage().nbytes() <= size
        assert value.numel() * value.element_size() <= size
        value.clone()  # can be read to its end
    elif isinstance(value, dict):
        for key, part in value.items():
            check_tree(key, size)
            check_tree(part, size)
    elif isinstance(value, (list, tuple, set)) and not isinstance(value, torch.Size):
        for part in value:
            check_tree(part, size)
    else:
        assert type(value) in LEAVES + TORCH


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_what_is_more_than_data_is_refused(kind, legacy, tmp_path):
    path = save(files(tmp_path)[kind], tmp_path / 'x.pth', legacy)
    assert outcome(path) is None
    assert [p.name for p in tmp_path.iterdir()] == ['x.pth']


def test_the_watch_sees_code(tmp_path):
    """The tests here can fail: torch's unsafe reader makes the folder, and the watch sees it."""
    path = save(files(tmp_path)['code'], tmp_path / 'x.pth')
    with watch() as seen:
        torch.load(path, weights_only=False)
    assert 'os.mkdir' in [event for event, _ in seen]


def test_depth_that_would_overflow_the_stack(tmp_path):
    """Hashing a tuple in a tuple in ... recurses in C without a limit."""
    depth = 10**5
    key = b'\x80\x02})' + depth * b'\x85' + b'Ns.'
    assert outcome(save_pickle(key, tmp_path / 'x.pth')) is None
    depth = 10**4
    lists = b'\x80\x02' + depth * b']' + (depth - 1) * b'a' + b'.'
    assert outcome(save_pickle(lists, tmp_path / 'x.pth')) is None


def test_parts_of_an_archive_that_are_larger_than_it(tmp_path):
    content = pickle.dumps(dict(state_dict=dict(weight=1)), protocol=2)
    path = tmp_path / 'x.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('x/data.pkl', content + 10**7 * b'\0')
    assert outcome(str(path)) is None


PIECES = [
    *(bytes([code]) for code in b'(}])]Nttuase\x81Rb\x85\x86\x87\x88\x89\x8f\x90\x94Q.0'),
    *(b'q' + bytes([i]) for i in range(4)), *(b'h' + bytes([i]) for i in range(4)),
    *(b'c%s\n%s\n' % tuple(part.encode() for part in name.rsplit('.', 1)) for name in (
        'collections.OrderedDict', 'collections.Counter', 'torch._utils._rebuild_tensor_v2',
        'torch._utils._rebuild_tensor_v3', 'torch._utils._rebuild_parameter',
        'torch._tensor._rebuild_from_type_v2', 'torch.FloatStorage', 'torch.BoolStorage',
        'torch.storage.UntypedStorage', 'torch.Size', 'torch.float64', 'torch.bool',
        'torch.Tensor', 'torch.nn.parameter.Parameter', 'torch.device', '_codecs.encode',
        '__builtin__.bytearray', '__builtin__.set', '__builtin__.complex', '__builtin__.getattr',
        'numpy.core.multiarray._reconstruct', 'numpy.core.multiarray.scalar', 'numpy.ndarray',
        'numpy.dtype', 'argparse.Namespace', 'os.mkdir', '__builtin__.exec',
        'mmengine.logging.history_buffer.HistoryBuffer')),
    *(b'X' + len(t).to_bytes(4, 'little') + t for t in (
        b'storage', b'0', b'cpu', b'latin1', b'f8', b'O8', b'<', b'min', b'_log_history')),
    b'J\xff\xff\xff\x7f', b'J\xff\xff\xff\xff', b'K\x00', b'K\x01', b'K\x06', b'M\x00\x01',
    b'G\x7f\xf8\x00\x00\x00\x00\x00\x00', b'\x8a\x09' + 8 * b'\xff' + b'\x00',
]  # fmt: skip


def base_pickle(folder):
    """The pickle of a checkpoint with a little of everything, whose one storage has 6 floats."""
    import argparse
    from collections import OrderedDict

    import numpy as np
    from mmengine.logging import HistoryBuffer

    torch.save(
        dict(state_dict=OrderedDict(a=torch.arange(6.0)), args=argparse.Namespace(lr=0.1),
             meta=dict(array=np.arange(3), scalar=np.float64(1.5), data=b'\xff', set={1}),
             hub=HistoryBuffer([1.0], [1])),
        folder / 'base',
    )  # fmt: skip
    with zipfile.ZipFile(folder / 'base') as archive:
        return archive.read('base/data.pkl')


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=30))
def test_random_programs(folder, pieces):
    outcome(save_pickle(b'\x80\x02' + b''.join(pieces) + b'.', folder / 'program.pth'))


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_random_damage_of_the_pickle(folder, data):
    content = bytearray(base_pickle(folder))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.one_of(st.sampled_from(PIECES), st.binary(min_size=1, max_size=2)))
        until = at + data.draw(st.sampled_from([0, len(piece)]))  # put in, or written over
        content[at:until] = piece
    outcome(save_pickle(bytes(content), folder / 'damaged.pth'))


@pytest.mark.parametrize('legacy', [False, True])
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_random_damage_of_the_file(folder, legacy, data):
    path = folder / f'file{legacy}.pth'
    value = dict(state_dict=dict(a=torch.arange(6.0), b=torch.tensor([True])), meta=dict(epoch=3))
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([None, at]))])
    outcome(str(path))
