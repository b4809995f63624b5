"""Runs of the real Fashion-MNIST configs, small, in this process."""

import os

import fashion
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from torch.testing import assert_close

from shd_vit.errors import CheckpointError, ConfigError


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    return fashion.write_images(tmp_path_factory.mktemp('fashion'))


def final_weights(work_dir, epochs):
    return torch.load(work_dir / f'epoch_{epochs}.pth', weights_only=True)['state_dict']


@pytest.mark.parametrize(
    'workers, seed',
    [
        (0, 0),
        (2, None),
        pytest.param(0, None, marks=pytest.mark.slow),
        pytest.param(2, 0, marks=pytest.mark.slow),
    ],
)
def test_interrupted_and_resumed_is_bit_identical(workers, seed, data, tmp_path):
    options = {'randomness.seed': seed}
    stopped = fashion.runner('shd', tmp_path / 'b', data, options, workers=workers, epochs=3)
    stopped.register_hook(fashion.StopAt(iteration=6))  # 4 steps an epoch: in the second
    with pytest.raises(fashion.Interrupted):
        stopped.train()
    assert not (tmp_path / 'b/epoch_2.pth').exists()
    resumed = fashion.runner(
        'shd', tmp_path / 'b', data, {**options, 'resume': True}, workers=workers, epochs=3
    )
    resumed.train()
    assert resumed.iter == 12
    options['randomness.seed'] = stopped.seed
    whole = fashion.runner('shd', tmp_path / 'a', data, options, workers=workers, epochs=3)
    whole.train()
    expected, weights = (final_weights(tmp_path / d, 3) for d in 'ab')
    assert expected.keys() == weights.keys()
    for name in expected:
        assert torch.equal(weights[name], expected[name]), name


def test_without_the_seed_hook_a_resumed_run_differs(data, tmp_path, monkeypatch):
    """The test above can fail."""
    monkeypatch.setattr(
        'shd_vit.hosts.mmpretrain.hooks.EpochSeedHook.before_train_epoch', lambda *a: None
    )
    with pytest.raises(AssertionError):
        test_interrupted_and_resumed_is_bit_identical(0, 0, data, tmp_path)


def test_epochs_and_workers_draw_different_augmentations(data, tmp_path):
    run = fashion.runner('baseline', tmp_path, data, workers=2, epochs=2)
    seen = []

    class Keep(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append(data_batch['inputs'].float().mean().item())

    run.register_hook(Keep())
    run.train()
    assert len(set(seen)) == len(seen) == 8


def test_checkpoints_are_plain_and_whole(data, tmp_path):
    fashion.runner('shd', tmp_path, data, epochs=3).train()
    files = sorted(f for f in os.listdir(tmp_path) if f.endswith(('.pth', '.part')))
    assert [f for f in files if f.startswith('epoch')] == ['epoch_2.pth', 'epoch_3.pth']
    assert not [f for f in files if f.endswith('.part')]
    checkpoint = torch.load(tmp_path / 'epoch_3.pth', weights_only=True)
    assert {k.split('.')[0] for k in checkpoint['state_dict']} == {'student', 'losses'}
    assert len(checkpoint['message_hub']['log_scalars']['train/loss_shd']['log_history']) == 12
    resumed = fashion.runner('shd', tmp_path, data, {'resume': True}, epochs=4)
    resumed.train()
    history = resumed.message_hub.log_scalars['train/loss_shd']
    assert isinstance(history, HistoryBuffer)
    assert len(history.data[0]) == 16


def test_a_kill_while_writing_leaves_the_last_checkpoint_whole(data, tmp_path, monkeypatch):
    fashion.runner('baseline', tmp_path, data, epochs=1).train()
    before = (tmp_path / 'epoch_1.pth').read_bytes()

    def killed(out_dir, filename, *args, **kwargs):
        with open(os.path.join(out_dir, filename), 'wb') as file:
            file.write(b'half')
        raise fashion.Interrupted

    run = fashion.runner('baseline', tmp_path, data, {'resume': True}, epochs=2)
    monkeypatch.setattr('mmengine.runner.Runner.save_checkpoint', lambda self, *a, **k: killed(*a))
    with pytest.raises(fashion.Interrupted):
        run.train()
    assert (tmp_path / 'epoch_1.pth').read_bytes() == before
    assert not (tmp_path / 'epoch_2.pth').exists()
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_1.pth')


def test_resuming_refuses_weights_that_do_not_fit(data, tmp_path):
    fashion.runner('baseline', tmp_path, data, epochs=1).train()
    run = fashion.runner('teacher', tmp_path, data, {'resume': True})
    with pytest.raises(CheckpointError, match=r'epoch_1\.pth.* does not fit'):
        run.train()


def test_load_from_may_leave_weights_out(data, tmp_path):
    fashion.runner('baseline', tmp_path / 'a', data, epochs=1).train()
    start = {'load_from': str(tmp_path / 'a/epoch_1.pth')}
    run = fashion.runner('shd', tmp_path / 'b', data, start, epochs=1)
    run.load_or_resume()
    expected = final_weights(tmp_path / 'a', 1)
    for name, weight in run.model.student.state_dict().items():
        assert_close(weight, expected[name])


@pytest.mark.parametrize('use', ['resume', 'load_from', 'test'])
def test_a_checkpoint_with_code_is_refused_everywhere(use, data, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'exploded'),)

    torch.save(dict(state_dict={}, meta=Bomb()), tmp_path / 'evil.pth')
    options = {'load_from': str(tmp_path / 'evil.pth'), 'resume': use == 'resume'}
    run = fashion.runner('baseline', tmp_path, data, options, epochs=1)
    with pytest.raises(CheckpointError, match='may run code'):
        run.test() if use == 'test' else run.train()
    assert not (tmp_path / 'exploded').exists()


def test_the_test_set_is_the_test_set(data, tmp_path):
    """mmpretrain's FashionMNIST reads training images for split='test' unless in test mode."""
    run = fashion.runner('baseline', tmp_path, data)
    for name, count in (('train', fashion.TRAIN), ('val', fashion.TEST), ('test', fashion.TEST)):
        loader = run.build_dataloader(run.cfg[f'{name}_dataloader'], seed=0)
        assert len(loader.dataset) == count


def test_a_missing_data_folder_is_named(tmp_path):
    run = fashion.runner('baseline', tmp_path, tmp_path / 'nowhere')
    with pytest.raises(ConfigError, match=r"data_root='.*nowhere' of FashionMNIST does not exist"):
        run.train()


def test_a_batch_that_does_not_fit_the_schedule_is_refused(data, tmp_path):
    run = fashion.runner('baseline', tmp_path, data, batch_size=8)
    message = r'batch_size=8 x 1 processes = 8 images.*base_batch_size=16.*--auto-scale-lr'
    with pytest.raises(ConfigError, match=message):
        run.train()


@pytest.mark.parametrize(
    'options, lr',
    [
        ({'auto_scale_lr.enable': True}, 1e-3),
        ({'optim_wrapper.accumulative_counts': 2}, 2e-3),
        ({'auto_scale_lr': None}, 2e-3),
    ],
)
def test_ways_to_make_another_batch_size_fit(options, lr, data, tmp_path):
    options = {**options, 'optim_wrapper.optimizer.lr': 2e-3}
    run = fashion.runner('baseline', tmp_path, data, options, batch_size=8, epochs=1)
    run.optim_wrapper = run.build_optim_wrapper(run.optim_wrapper)
    run.scale_lr(run.optim_wrapper, run.auto_scale_lr)
    assert all(rate == pytest.approx(lr) for rate in run.optim_wrapper.get_lr()['lr'])
