"""What checkpoints hold, as the unsafe unpickler has it."""

import argparse
from collections import Counter

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from shd_vit.checkpoint import is_whole, safe_load, weights_of
from shd_vit.errors import CheckpointError

_DTYPES = (
    'float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8',
    'uint16', 'uint32', 'bool', 'complex64', 'float8_e4m3fn',
)  # fmt: skip
_KINDS = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'c8')


def tensors():
    ten = torch.arange(10.0)
    marked = nn.Parameter(torch.ones(3))
    marked.note = 'x'
    return dict(
        whole=ten, part=ten[2:5], parameter=nn.Parameter(ten), marked=marked, scalar=ten[3],
        turned=ten.view(2, 5).t(), empty=torch.zeros(0, 3), steps=ten[::3],
        expanded=torch.ones(2, 1).expand(2, 3),
        **{name: torch.tensor([0, 1, 1]).to(getattr(torch, name)) for name in _DTYPES},
    )  # fmt: skip


@pytest.mark.parametrize('protocol', [2, 3, 4])
@pytest.mark.parametrize('legacy', [False, True])
def test_values_are_those_of_torchs_own_reader(legacy, protocol, tmp_path):
    saved = dict(
        **tensors(), model=nn.Linear(2, 2).state_dict(), counts=Counter({3: 2}), none=None,
        text='é', data=b'ab\xff', nothing=b'', memory=bytearray(b'xy'), some={1, 2}, big=2**80,
        complex=1 + 2j, size=torch.Size([1, 2]), dtype=torch.float16, pair=(1.5, [True, -70000]),
        device=torch.device('cuda', 1),
    )  # fmt: skip
    if legacy:  # torch writes these, but cannot read them
        saved = {k: v for k, v in saved.items() if k not in ('uint16', 'uint32', 'float8_e4m3fn')}
    torch.save(
        saved, tmp_path / 'x', pickle_protocol=protocol,
        _use_new_zipfile_serialization=not legacy,
    )  # fmt: skip
    expected = torch.load(tmp_path / 'x', weights_only=False)
    loaded = safe_load(tmp_path / 'x')
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert loaded[name].dtype == value.dtype, name
            assert loaded[name].stride() == value.stride(), name
            bits = [t.detach().clone().contiguous().view(-1) for t in (loaded[name], value)]
            assert torch.equal(*(b.view(torch.uint8) for b in bits)), name
        elif name == 'model':
            assert all(torch.equal(loaded[name][k], weight) for k, weight in value.items())
        else:
            assert type(loaded[name]) is type(value) and loaded[name] == value, name
    assert (
        loaded['part'].untyped_storage().data_ptr() == loaded['whole'].untyped_storage().data_ptr()
    )


def test_what_mmengine_and_timm_store_becomes_plain(tmp_path):
    history = HistoryBuffer([1.0, 0.5], [1, 2], max_length=7)
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    arrays = [np.arange(6, dtype=k).reshape(2, 3) for k in _KINDS]
    saved = dict(
        args=argparse.Namespace(lr=0.1, sizes=[1, 2]), history=history, again=history,
        arrays=[*arrays, fortran, np.array([True, False]), np.zeros((0, 3)), np.array(2.5)],
        scalars=[np.float64(2.5), np.float32(0.5), np.int64(-3), np.uint8(7), np.bool_(True)],
    )  # fmt: skip
    torch.save(saved, tmp_path / 'x')
    loaded = safe_load(tmp_path / 'x')
    assert type(loaded['args']) is dict and loaded['args'] == dict(lr=0.1, sizes=[1, 2])
    for array, tensor in zip(saved['arrays'], loaded['arrays'], strict=True):
        assert isinstance(tensor, torch.Tensor)
        assert tensor.numpy().dtype == array.dtype and np.array_equal(tensor.numpy(), array)
    assert loaded['scalars'] == [2.5, 0.5, -3, 7, True]
    assert all(type(s) in (float, int, bool) for s in loaded['scalars'])
    assert loaded['history'] is loaded['again'] and loaded['history'].pop('max_length') == 7
    parts = {name: part.tolist() for name, part in loaded['history'].items()}
    assert parts == dict(log_history=[1.0, 0.5], count_history=[1, 2])


@pytest.mark.parametrize(
    'content, message',
    [
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'is a Git LFS pointer'),
        (b'<!DOCTYPE html><html>', 'is a web page'),
        (b'{"a": 1}', 'is JSON'),
        (b'', 'is empty'),
        (257 * b'\0' + b'ustar' + 250 * b'\0', 'is a tar archive'),
    ],
)
def test_what_is_no_checkpoint_is_called_by_its_name(content, message, tmp_path):
    path = tmp_path / 'x.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.pth'.* {message}") as caught:
        safe_load(path)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'content, message',
    [
        ([1, 2], r"x\.pth' holds a list: expected a dict of weights"),
        (torch.ones(2), r"x\.pth' holds a Tensor: expected"),
        (dict(state_dict=None), r"state_dict of checkpoint '.*x\.pth' is None: expected"),
        (dict(model=[1]), r"model of checkpoint '.*x\.pth' is a list: expected"),
        (dict(epoch=3, net={}), r"'epoch' is a int, expected a tensor"),
        (dict(state_dict={}), r"state_dict of checkpoint '.*x\.pth' is no dict .*: it is empty"),
        (dict(state_dict={3: torch.ones(1)}), r'3 is a Tensor, expected'),
    ],
)
def test_what_holds_no_weights_says_what_it_holds(content, message, tmp_path):
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=message):
        weights_of(safe_load(tmp_path / 'x.pth'), str(tmp_path / 'x.pth'))


def test_what_wraps_a_model_is_no_part_of_its_names():
    """DDP, torch.compile, and one in the other; a module of that name inside stays."""
    names = ['module.a', '_orig_mod.b', '_orig_mod.module.c', 'd.module.e']
    weights = {name: torch.ones(1) for name in names}
    for checkpoint in (weights, dict(state_dict=weights), dict(model=weights)):
        assert list(weights_of(checkpoint, 'x.pth')) == ['a', 'b', 'c', 'd.module.e']


def test_safetensors_that_are_none(tmp_path):
    path = tmp_path / 'x.safetensors'
    for content in (b'', b'not this', bytes(100), b'version https://git-lfs.github.com/spec/v1\n'):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.safetensors'") as caught:
            safe_load(path)
        assert '\n' not in str(caught.value)


def test_torchscript_is_code(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), str(tmp_path / 'x.pt'))
    with pytest.raises(CheckpointError, match='is a TorchScript archive, which is code'):
        safe_load(tmp_path / 'x.pt')


def test_wholeness_is_seen(tmp_path):
    torch.save(dict(weight=torch.ones(1000)), tmp_path / 'x')
    assert is_whole(str(tmp_path / 'x'))
    (tmp_path / 'x').write_bytes((tmp_path / 'x').read_bytes()[:3000])
    assert not is_whole(str(tmp_path / 'x'))
    assert not is_whole(str(tmp_path / 'gone'))
    assert not is_whole(str(tmp_path))
