import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from mmengine.logging import HistoryBuffer
from models import build_distiller, mmpretrain_classifier
from torch.testing import assert_close

from shd_vit.errors import CheckpointError
from shd_vit.hosts.mmpretrain.checkpoint import fit_names, load_weights, safe_load
from shd_vit.hosts.mmpretrain.hooks import PlainCheckpointHook, plain


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def bombs(tmp_path):
    """Ways to make an unpickler call mkdir: by name, through getattr, inside mmengine's types."""
    target = tmp_path / 'exploded'

    class ThroughGetattr:
        def __reduce__(self):
            return getattr, (HistoryBuffer, '__init__')

    history = HistoryBuffer([1.0], [1])
    history.bomb = Bomb(target)
    return target, dict(
        direct=dict(state_dict=dict(weight=torch.zeros(1)), meta=Bomb(target)),
        getattr=dict(state_dict={}, meta=ThroughGetattr()),
        history=dict(state_dict={}, message_hub=history),
        array=dict(state_dict={}, meta=np.array([Bomb(target)], dtype=object)),
    )


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('kind', ['direct', 'getattr', 'history', 'array'])
def test_a_checkpoint_that_carries_code_is_refused_and_does_not_run(kind, legacy, tmp_path):
    target, checkpoints = bombs(tmp_path)
    path = tmp_path / 'evil.pth'
    torch.save(checkpoints[kind], path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r'evil\.pth.*may run code') as caught:
        safe_load(str(path))
    assert not target.exists()
    assert '\n' not in str(caught.value)
    if kind != 'getattr':  # the file is a real bomb: the unsafe unpickler sets it off
        torch.load(path, weights_only=False)
        assert target.exists()


def test_a_plain_pickle_bomb_is_refused(tmp_path):
    path = tmp_path / 'evil.pth'
    path.write_bytes(pickle.dumps(Bomb(tmp_path / 'exploded')))
    with pytest.raises(CheckpointError):
        safe_load(str(path))
    assert not (tmp_path / 'exploded').exists()


@pytest.mark.parametrize('content', [b'', b'not a checkpoint', b'PK\x03\x04' + 100 * b'\0'])
def test_damaged_files_are_named(content, tmp_path):
    path = tmp_path / 'broken.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken\.pth'") as caught:
        safe_load(str(path))
    assert '\n' not in str(caught.value)


def test_a_truncated_checkpoint_is_named(tmp_path):
    path = tmp_path / 'broken.pth'
    torch.save(dict(weight=torch.zeros(1000)), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match='damaged'):
        safe_load(str(path))


def test_missing_file_is_named():
    with pytest.raises(CheckpointError, match=r"'/no/such\.pth' does not exist"):
        safe_load('/no/such.pth')


def test_checkpoints_of_stock_mmengine_are_read(tmp_path):
    history = HistoryBuffer([1.0, 0.5], [1, 1])
    stock = dict(
        state_dict=dict(weight=torch.ones(2)),
        message_hub=dict(log_scalars={'train/loss': history}, runtime_info=dict(x=np.float64(3))),
        meta=dict(array=np.arange(3), flag=np.bool_(True), count=np.int64(4)),
    )
    path = tmp_path / 'stock.pth'
    torch.save(stock, path)
    loaded = safe_load(str(path))
    PlainCheckpointHook().after_load_checkpoint(None, loaded)
    read = loaded['message_hub']['log_scalars']['train/loss']
    assert isinstance(read, HistoryBuffer) and read.mean() == history.mean()
    assert loaded['meta']['array'].tolist() == [0, 1, 2]
    assert loaded['message_hub']['runtime_info']['x'] == 3.0


def test_plain_needs_no_allow_list_and_keeps_the_values(tmp_path):
    history = HistoryBuffer([1.0, 0.5], [1, 1], max_length=7)
    value = dict(a=[history, (np.float64(2.5), 'x')], b=np.arange(3), c={np.int64(1): None})
    path = tmp_path / 'plain.pth'
    torch.save(plain(value), path)
    loaded = torch.load(path, weights_only=True)
    assert loaded['a'][0]['log_history'].tolist() == [1.0, 0.5]
    assert loaded['a'][0]['max_length'] == 7
    assert loaded['a'][1] == (2.5, 'x')
    assert loaded['b'].tolist() == [0, 1, 2]
    assert loaded['c'] == {1: None}


def test_safetensors_are_read(tmp_path):
    path = str(tmp_path / 'weights.safetensors')
    safetensors.torch.save_file(dict(weight=torch.arange(3)), path)
    assert safe_load(path)['weight'].tolist() == [0, 1, 2]


def test_downloads_are_fetched_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    asked = []

    def download(url, path, hash_prefix=None):
        asked.append((url, hash_prefix))
        torch.save(dict(weight=torch.ones(1)), path)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    for _ in range(2):
        assert safe_load('https://zoo.example/deit-0f7c70cf.pth')['weight'] == 1
    assert asked == [('https://zoo.example/deit-0f7c70cf.pth', '0f7c70cf')]
    safe_load('https://zoo.example/deit-small.pth')
    assert asked[1][1] is None


def test_a_failed_download_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))

    def download(*args, **kwargs):
        raise OSError('no route to host')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    with pytest.raises(CheckpointError, match=r'zoo.example/a\.pth.*no route to host'):
        safe_load('https://zoo.example/a.pth')


def test_names_fit_with_and_without_the_students_prefix():
    ours = {'student.a': 1, 'losses.b': 2}
    assert fit_names(ours, ['a']) == {'a': 1}
    assert fit_names({'a': 1}, ['student.a']) == {'student.a': 1}
    assert fit_names(ours, ours) == ours


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = str(tmp_path / 'x.pth')
    distiller = build_distiller()
    state = distiller.state_dict()
    torch.save({k: v for k, v in state.items() if 'cls_token' not in k}, path)
    with pytest.raises(
        CheckpointError, match=r'1 weights missing \(first: student.backbone.cls_token\)'
    ):
        load_weights(distiller, path)
    torch.save({**state, 'student.backbone.cls_token': torch.zeros(1, 1, 5)}, path)
    with pytest.raises(CheckpointError, match=r'does not fit: size mismatch.*cls_token'):
        load_weights(distiller, path)


def test_any_form_loads_into_a_classifier(tmp_path):
    from mmpretrain.registry import MODELS

    source = MODELS.build(mmpretrain_classifier(3))
    state = source.state_dict()
    for form in (state, dict(state_dict=state), dict(model=state)):
        path = str(tmp_path / 'x.pth')
        torch.save(form, path)
        model = MODELS.build(mmpretrain_classifier(3))
        load_weights(model, path)
        for name, weight in model.state_dict().items():
            assert_close(weight, state[name])
