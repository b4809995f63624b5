import copy
import re
import subprocess
import sys
from pathlib import Path

import fashion
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import ExponentialMovingAverage
from models import all_losses, batch, build_distiller, distiller_config
from torch._dynamo.utils import counters
from torch.testing import assert_close

from shd_vit.distillation.schedule import LossSchedule, factor, read_schedule
from shd_vit.distillation.summary import summary
from shd_vit.errors import ConfigError

FIELD = 'model.losses.shd.schedule'


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    return fashion.write_images(tmp_path_factory.mktemp('fashion'))


def scheduled(**schedules):
    losses = all_losses()
    for name, schedule in schedules.items():
        losses[name]['schedule'] = schedule
    return build_distiller(losses=losses).train()


BY_HAND = {
    'nothing': (dict(), {0: 1, 7.5: 1, 1e6: 1}),
    'warm-up': (dict(warm_up=4), {0: 0, 1: 0.25, 3: 0.75, 4: 1, 99: 1}),
    'stop': (dict(stop=2), {0: 1, 1.999: 1, 2: 0, 3: 0}),
    'never': (dict(stop=0), {0: 0, 5: 0}),
    'linear': (
        dict(decay_from=10, stop=20, decay='linear'),
        {9: 1, 10: 1, 12.5: 0.75, 15: 0.5, 20: 0, 21: 0},
    ),
    # 1 - (1 - cos(pi / 4)) / 2 and the like
    'cosine': (
        dict(decay_from=10, stop=20),
        {10: 1, 12.5: 0.8535533906, 15: 0.5, 17.5: 0.1464466094, 20: 0, 30: 0},
    ),
    'a floor': (
        dict(decay_from=0, stop=10, decay='linear', final=0.2),
        {0: 1, 5: 0.6, 10: 0.2, 11: 0.2},
    ),
    'all': (
        dict(warm_up=5, decay_from=100, stop=200, final=0.5),
        {0: 0, 2.5: 0.5, 5: 1, 100: 1, 150: 0.75, 200: 0.5, 300: 0.5},
    ),
    'at one point': (dict(warm_up=3, decay_from=3, stop=3), {1.5: 0.5, 2.999: 0.999667, 3: 0}),
}


@pytest.mark.parametrize('case', BY_HAND)
def test_factors_by_hand(case):
    schedule, expected = BY_HAND[case]
    schedule = read_schedule(schedule, FIELD)
    for epoch, value in expected.items():
        assert factor(schedule, epoch) == pytest.approx(value, abs=1e-6), epoch


@pytest.mark.parametrize('decay', ['cosine', 'linear'])
def test_decays_are_those_of_torchs_learning_rates(decay):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = (
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7, eta_min=0.3)
        if decay == 'cosine'
        else torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, end_factor=0.3, total_iters=7)
    )
    ours = LossSchedule(decay_from=2, stop=9, decay=decay, final=0.3)
    for epoch in range(8):
        assert factor(ours, 2 + epoch) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


REFUSED = {
    'a number': (5, 'must be a dict of warm_up, decay_from, stop, decay, final'),
    'an unknown key': (dict(warmup=5), r'schedule\.warmup is unknown; allowed are warm_up'),
    'a negative epoch': (dict(warm_up=-1), r'schedule\.warm_up=-1 must be a finite number, not'),
    'no epoch': (dict(stop='ten'), r"schedule\.stop='ten' must be a finite number"),
    'no warm-up': (dict(warm_up=None), r'schedule\.warm_up=None must be a finite number'),
    'true': (dict(stop=True), r'schedule\.stop=True must be a finite number'),
    'not a number': (dict(stop=float('nan')), r'schedule\.stop=nan must be a finite number'),
    'infinity': (dict(stop=float('inf')), r'schedule\.stop=inf must be a finite number'),
    'a stop too early': (
        dict(decay_from=9, stop=5),
        r'schedule\.stop=5 must not be before decay_from=9',
    ),
    'a decay too early': (
        dict(warm_up=5, decay_from=4, stop=9),
        r'schedule\.decay_from=4 must not be before warm_up=5',
    ),
    'a stop in the warm-up': (
        dict(warm_up=5, stop=3),
        r'schedule\.stop=3 must not be before warm_up=5',
    ),
    'a decay without end': (dict(decay_from=9), r'schedule\.decay_from=9 needs stop'),
    'a decay without end from the start': (dict(decay_from=0), r'decay_from=0 needs stop'),
    'a floor without end': (dict(final=0.5), r'schedule\.final=0.5 needs stop'),
    'a shape': (dict(stop=5, decay='exp'), r"schedule\.decay='exp' must be 'cosine' or 'linear'"),
    'more than all': (dict(stop=5, final=2), r'schedule\.final=2 must be a finite .* at most 1'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_meant_is_refused_at_the_start_in_one_line(case):
    schedule, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as caught:
        scheduled(shd=schedule)
    assert str(caught.value).startswith(FIELD) and '\n' not in str(caught.value)


def values_and_gradients(distiller, seed=1):
    torch.manual_seed(seed)
    images, samples = batch()
    losses = distiller(images, samples, mode='loss')
    weights = list(distiller.student.parameters())
    return losses, {
        name: torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        for name, loss in losses.items()
    }


def test_value_and_gradient_are_multiplied_and_other_losses_left_alone():
    torch.manual_seed(0)
    plain = scheduled()
    torch.manual_seed(0)
    distiller = scheduled(shd=dict(warm_up=4), kd=dict(decay_from=0, stop=4, decay='linear'))
    distiller.schedules.set_epoch(1)
    (ours, our_grads), (theirs, their_grads) = map(values_and_gradients, (distiller, plain))
    by_hand = dict(loss_shd=0.25, loss_kd=0.75)
    for name, loss in theirs.items():
        times = by_hand.get(name, 1)
        exact = dict(rtol=0, atol=0) if times == 1 else {}
        assert_close(ours[name], times * loss, **exact)
        for grad, whole in zip(our_grads[name], their_grads[name], strict=True):
            assert (grad is None) == (whole is None)
            if grad is not None:
                assert_close(grad, times * whole, **exact)
    assert ours['loss_kd'] > 0


def test_a_loss_that_is_over_is_not_computed_but_has_gradients_of_zero(monkeypatch):
    distiller = scheduled(shd=dict(stop=2), vitkd=dict(stop=2))
    distiller.schedules.set_epoch(2)
    for name in ('shd', 'vitkd'):
        monkeypatch.setattr(distiller.losses[name], 'forward', None)
    losses = distiller(*batch(), mode='loss')
    assert losses['loss_shd'] == losses['loss_vitkd'] == 0
    total, logged = distiller.parse_losses(losses)
    assert logged['loss_vitkd'].item() == 0 and losses['loss_kd'] > 0
    total.backward()
    assert all((p.grad == 0).all() for p in distiller.losses.vitkd.parameters())


def test_at_a_floor_or_in_warm_up_a_loss_is_computed():
    distiller = scheduled(shd=dict(stop=2, final=0.1), kd=dict(warm_up=1))
    distiller.schedules.set_epoch(5)
    assert distiller(*batch(), mode='loss')['loss_shd'] > 0
    distiller.schedules.set_epoch(0)
    losses = distiller(*batch(), mode='loss')
    assert losses['loss_kd'] == 0 and losses['loss_kd'].requires_grad


def test_the_teacher_rests_when_all_losses_are_over(monkeypatch):
    distiller = scheduled(**{name: dict(stop=1) for name in all_losses()})
    monkeypatch.setattr(distiller.teacher, 'forward', None)
    distiller.schedules.set_epoch(1)
    losses = distiller(*batch(), mode='loss')
    assert [name for name, loss in losses.items() if loss > 0] == ['loss_cls']
    assert not distiller.distillation.student_bank._store.kept
    distiller.schedules.set_epoch(0.5)  # resumed from an earlier checkpoint, in one process
    with pytest.raises(TypeError):
        distiller(*batch(), mode='loss')


def test_checkpoints_are_as_without_schedules():
    plain, distiller = scheduled(), scheduled(shd=dict(warm_up=3))
    distiller.schedules.set_epoch(1)
    assert list(distiller.state_dict()) == list(plain.state_dict())
    distiller.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(distiller.state_dict(), strict=True)
    assert distiller.schedules.factors == dict(shd=pytest.approx(1 / 3))


@pytest.mark.parametrize('update_buffers', [False, True])
def test_ema_copies_have_a_factor_of_their_own(update_buffers):
    distiller = scheduled(shd=dict(warm_up=4))
    distiller.schedules.set_epoch(1)
    ema = ExponentialMovingAverage(distiller, update_buffers=update_buffers)
    distiller.schedules.set_epoch(2)
    assert ema.module.schedules.factor_shd == 0.25
    ema.update_parameters(distiller)
    assert distiller.schedules.factor_shd == 0.5
    assert ema.module.schedules.factor_shd == (0.25 if update_buffers else 0.5)
    assert not any('factor' in name for name in ema.state_dict())


def test_the_config_keeps_its_schedule():
    cfg = distiller_config(losses=dict(shd=dict(type='SHDLoss', schedule=dict(stop=3))))
    before = copy.deepcopy(cfg)
    build_distiller(losses=cfg['losses'])
    assert cfg == before
    build_distiller(losses=dict(shd=dict(type='SHDLoss', schedule=None)))(*batch(), mode='loss')


def test_the_summary_says_when():
    schedule = dict(warm_up=5, decay_from=100, stop=200)
    text = summary(scheduled(shd=schedule, kd=dict(stop=2.5, final=0.1)).distillation)
    text = re.sub(r'[│\s]+', ' ', text)  # the table wraps long lines
    expected = 'schedule: 0 to 1 until epoch 5, cosine from epoch 100 to 200, off from epoch 200'
    assert expected in text
    assert 'schedule: x 0.1 from epoch 2.5' in text
    assert text.count('schedule:') == 2


@pytest.mark.slow
def test_a_changing_factor_compiles_one_graph(monkeypatch):
    monkeypatch.delenv('TORCHDYNAMO_DISABLE')
    torch._dynamo.reset()
    counters.clear()
    losses = dict(kd=dict(type='KDLoss', schedule=dict(warm_up=8, stop=9)))
    distiller, (images, samples) = build_distiller(losses=losses).train(), batch()
    values, graphs = [], []
    with torch._dynamo.config.patch(disable=False):
        compiled = torch.compile(lambda: distiller.loss(images, samples), backend='eager')
        for epoch in (1, 2, 3.5, 6, 8, 9, 9.5):
            distiller.schedules.set_epoch(epoch)
            values.append(compiled()['loss_kd'].item())
            graphs.append(counters['stats']['unique_graphs'])
    torch._dynamo.reset()
    whole = distiller.losses.kd.weight * values[4]
    assert values == pytest.approx([whole * x for x in (1 / 8, 2 / 8, 3.5 / 8, 6 / 8, 1, 0, 0)])
    assert values[4] > 0 < graphs[0]
    assert graphs[0] == graphs[4], 'a factor that changes is no new graph'
    assert graphs[5] == graphs[6], 'nor is a loss that stays off'


DDP = """
import sys, torch, torch.distributed as dist
sys.path[:0] = ['tests', '.']
from mmengine.model import MMDistributedDataParallel
from models import all_losses, batch, build_distiller
from shd_vit.command import leave_group
torch.set_num_threads(1)
dist.init_process_group('gloo')
losses = all_losses()
losses['vitkd']['schedule'] = losses['shd']['schedule'] = dict(warm_up=2, stop=3)
torch.manual_seed(0)
model = build_distiller(losses=losses).train()
wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
torch.manual_seed(dist.get_rank())
for epoch, over in ((0, False), (1, False), (3, True), (4, True)):
    model.schedules.set_epoch(epoch)
    model.zero_grad()
    values = wrapped(*batch(), mode='loss')
    assert (values['loss_vitkd'] == 0) == (over or epoch == 0)
    sum(values.values()).backward()
    for parameter in model.parameters():
        grads = [torch.empty_like(parameter.grad) for _ in range(2)]
        dist.all_gather(grads, parameter.grad)
        assert torch.equal(*grads)
    assert over == all((p.grad == 0).all() for p in model.losses.vitkd.parameters()) or epoch == 0
leave_group()
"""


@pytest.mark.slow
def test_two_processes_agree_while_losses_come_and_go(tmp_path):
    script = tmp_path / 'ddp.py'
    script.write_text(DDP)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    done = subprocess.run([*command, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


class Factors(Hook):
    """Keeps the factor of loss_shd at every iteration, and fails as a kill does."""

    def __init__(self, stop_at=None):
        self.seen = {}
        self.stop_at = stop_at

    def after_train_iter(self, runner, **kwargs):
        self.seen[runner.iter] = runner.model.schedules.factor_shd.item()
        if runner.iter == self.stop_at:
            raise fashion.Interrupted


SCHEDULE = {f'{FIELD}.warm_up': 1, f'{FIELD}.decay_from': 1.5, f'{FIELD}.stop': 2.5}
# Four iterations an epoch: up in the first, half a cosine in iterations 6 to 10.
EXPECTED = [0, 0.25, 0.5, 0.75, 1, 1, 1, 0.8535534, 0.5, 0.1464466, 0, 0]


def weights(folder):
    return torch.load(folder / 'epoch_3.pth', weights_only=True)['state_dict']


@pytest.mark.slow
def test_a_run_follows_its_schedule_and_a_resumed_one_ends_alike(data, tmp_path):
    whole, factors = fashion.runner('shd', tmp_path / 'a', data, SCHEDULE, epochs=3), Factors()
    whole.register_hook(factors)
    whole.train()
    assert list(factors.seen.values()) == pytest.approx(EXPECTED)
    logged = whole.message_hub.get_scalar('train/loss_shd').data[0]
    assert logged[0] == logged[10] == logged[11] == 0 < logged[9] < logged[4]

    stopped = fashion.runner('shd', tmp_path / 'b', data, SCHEDULE, epochs=3)
    stopped.register_hook(Factors(stop_at=9))
    with pytest.raises(fashion.Interrupted):
        stopped.train()
    resumed = fashion.runner('shd', tmp_path / 'b', data, {**SCHEDULE, 'resume': True}, epochs=3)
    factors = Factors()
    resumed.register_hook(factors)
    resumed.train()
    assert list(factors.seen) == [8, 9, 10, 11]
    assert list(factors.seen.values()) == pytest.approx(EXPECTED[8:])
    expected, ours = weights(tmp_path / 'a'), weights(tmp_path / 'b')
    assert all(torch.equal(ours[name], weight) for name, weight in expected.items())


def test_loops_by_iteration_count_passes_over_the_data(data, tmp_path):
    cfg = fashion.config('shd', tmp_path, data)
    cfg.merge_from_dict(SCHEDULE)
    cfg.train_cfg = dict(by_epoch=False, max_iters=12, val_interval=100)
    cfg.param_scheduler = None
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler')
    runner, factors = fashion.RUNNERS.build(cfg), Factors()
    runner.register_hook(factors)
    runner.train()
    assert list(factors.seen.values()) == pytest.approx(EXPECTED)


def test_a_runner_without_the_hook_is_refused_at_the_first_step(data, tmp_path):
    cfg = fashion.config('shd', tmp_path, data)
    cfg.merge_from_dict({**SCHEDULE, 'runner_type': 'Runner'})
    with pytest.raises(ConfigError, match=r"schedule of shd would .*'DistillRunner'.*LossSched"):
        fashion.RUNNERS.build(cfg).train()
    cfg.merge_from_dict({'custom_hooks': [dict(type='LossScheduleHook')]})
    cfg.experiment_name += 'hooked'
    runner, factors = fashion.RUNNERS.build(cfg), Factors()
    runner.register_hook(factors)
    runner.train()
    assert list(factors.seen.values()) == pytest.approx(EXPECTED[:8])


def test_a_schedule_after_the_end_of_training_is_told(data, tmp_path):
    runner = fashion.runner('shd', tmp_path, data, {f'{FIELD}.stop': 30}, epochs=1)
    told = []
    runner.logger.warning = told.append
    runner.train()
    assert told == [f'{FIELD}.stop=30 is after the end of training, at epoch 1']


def test_the_guides_schedule_reads():
    guide = (Path(__file__).parents[3] / 'docs/guide.md').read_text()
    (written,) = re.findall(r'`schedule=(dict\([^`]*\))`', guide)
    assert read_schedule(eval(written), FIELD) == LossSchedule(5, 100, 200, 'cosine', 0.0)
