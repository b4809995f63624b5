"""Distillation in the modes of real training: the same gradients, however they are computed."""

import os
import subprocess
import sys

import fashion
import pytest
import timm
import torch
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper
from models import batch, build_distiller, mmpretrain_classifier, timm_classifier
from taps.zoo import hugging_face, timm_swin, timm_vit
from torch import nn
from torch.testing import assert_close

from shd_vit.errors import UnsupportedAttention
from shd_vit.functional import native, shd
from shd_vit.hosts.mmpretrain import BFloat16OptimWrapper
from shd_vit.losses import ModelOutput, SHDLoss
from shd_vit.taps import Anatomy, AttentionTap, TapBank

# ViTKD draws a mask, so that two runs of it differ.
LOSSES = dict(nkd=dict(type='NKDLoss'), shd=dict(type='SHDLoss'))
PLAIN = dict(mean=[0.0] * 3, std=[1.0] * 3)


def distiller(seed=0, **kwargs):
    torch.manual_seed(seed)
    return build_distiller(losses=LOSSES, data_preprocessor=PLAIN, **kwargs).train()


def gradients(model, images, samples):
    model.zero_grad()
    losses = model(images, samples, mode='loss')
    sum(losses.values()).backward()
    return losses, [p.grad.clone() for p in model.parameters()]


def is_close(ours, exact, tolerance):
    """Relative to the largest entry of each gradient."""
    for a, b in zip(ours, exact, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max() + 1e-9


@pytest.mark.parametrize('student', [mmpretrain_classifier, timm_classifier])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(student, dtype):
    model, (images, samples) = distiller(student=student()), batch(8)
    exact, exact_grads = gradients(model, images, samples)
    with torch.autocast('cpu', dtype):
        losses, grads = gradients(model, images, samples)
        bank = TapBank(model.student)
        tap = ModelOutput.of(bank, model.student, images).attention[1]
    assert tap.q.dtype == dtype  # the loss does see half precision
    assert losses['loss_shd'].dtype == torch.float32
    for name in exact:
        assert_close(losses[name], exact[name], rtol=0.05, atol=0.01)
    flat, exact_flat = (torch.cat([g.flatten() for g in gs]) for gs in (grads, exact_grads))
    assert flat.isfinite().all()
    assert torch.cosine_similarity(flat, exact_flat, dim=0) > 0.99


def test_bfloat16_optim_wrapper_autocasts_forward_and_trains_in_float32():
    model, (images, samples) = distiller(), batch()
    seen = []
    model.student.backbone.layers[0].attn.qkv.register_forward_hook(
        lambda module, args, output: seen.append(output.dtype)
    )
    wrapper = BFloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    before = [p.clone() for p in model.student.parameters()]
    model.train_step(dict(inputs=list(images), data_samples=samples), wrapper)
    assert seen == [torch.bfloat16]
    after = list(model.student.parameters())
    assert all(p.dtype == torch.float32 for p in after)
    assert any((a != b).any() for a, b in zip(after, before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize('core', ['torch', 'auto'])
def test_whole_step_through_torch_compile(core, dynamo):
    """As mmengine's `compile` setting does it. The loss may be compiled inside as well."""
    results = []
    for options in (None, dict(backend='aot_eager')):
        model, (images, samples) = distiller(), batch()
        model.losses['shd'].backend = core if options else 'torch'
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        data = dict(inputs=list(images), data_samples=samples)
        step = model.train_step if options is None else torch.compile(model.train_step, **options)
        logs = [step(data, wrapper)['loss_shd'].item() for _ in range(3)]
        results.append((torch.tensor(logs), [p.detach() for p in model.parameters()]))
    assert_close(*results)
    assert len(set(results[0][0].tolist())) == 3  # it did train


def test_the_core_through_inductor(dynamo, monkeypatch):
    """Loss and gradients of the compiled core are those of the eager one, for any batch size."""
    monkeypatch.setattr(native, 'kernel_error', lambda: 'not in this test')
    losses = [SHDLoss(compile=False), SHDLoss(), SHDLoss(compile=True), SHDLoss(backend='compile')]
    model = distiller()
    for size in (4, 3):
        images, _ = batch(size)
        results = []
        for loss in losses:
            loss.pairs = [(1, 1), (2, 2)]
            student = ModelOutput.of(TapBank(model.student), model.student, images)
            with torch.no_grad():
                teacher = ModelOutput.of(TapBank(model.teacher), model.teacher, images)
            leaves = [p for n, p in model.student.named_parameters() if 'qkv.weight' in n]
            value = loss(student, teacher, None)
            results.append((value, torch.autograd.grad(value, leaves)))
        for result in results[1:]:
            assert_close(result, results[0], rtol=1e-5, atol=1e-7)


def test_what_does_not_compile_runs_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(native, 'kernel_error', lambda: 'no kernel')
    monkeypatch.setattr(shd, 'compiler_error', lambda device: 'CppCompileError: /no/compiler')
    shd._warn.cache_clear()
    q, k, v = torch.randn(3, 1, 4, 5, 8)
    maps = [{1: AttentionTap(x, k[:, : x.shape[1]], v, torch.eye(32), 1.0)} for x in (q[:, :2], q)]
    values = []
    for backend in ('torch', 'auto', 'auto'):
        loss = SHDLoss(backend=backend)
        loss.pairs = [(1, 1)]
        values.append(loss(*(ModelOutput(q[:, 0, 0], tap, {}) for tap in maps), None).item())
    assert values[0] == values[1] == values[2] > 0
    said = [record.getMessage() for record in caplog.records]
    assert said == ['SHD runs without torch.compile: CppCompileError: /no/compiler']
    shd._warn.cache_clear()


@pytest.mark.slow
def test_without_a_compiler_the_loss_runs_and_says_so(tmp_path):
    """As it happens: in an environment that names no compiler."""
    code = (
        'import torch; from shd_vit.losses import SHDLoss, ModelOutput\n'
        'from shd_vit.taps import AttentionTap\n'
        'q = torch.randn(1, 2, 4, 8)\n'
        'tap = {1: AttentionTap(q, q, q, torch.randn(16, 16), 1.0)}\n'
        'loss = SHDLoss(); loss.pairs = [(1, 1)]\n'
        'print(loss(*[ModelOutput(q, tap, {})] * 2, None).item())\n'
    )
    env = dict(
        os.environ, CXX='/no/compiler', TORCHDYNAMO_DISABLE='0', TORCHINDUCTOR_CACHE_DIR=tmp_path
    )
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert abs(float(done.stdout)) < 1e-6
    assert done.stderr.count('SHD runs without torch.compile: ') == 1
    assert '/no/compiler' in done.stderr


def pair_loss(student, images):
    """SHD between a model and a fixed copy of its maps, sharpened: gradients of the weights."""
    bank = TapBank(student, role='student')
    output = ModelOutput.of(bank, student, images)
    loss = SHDLoss(compile=False)
    loss.bind(Anatomy(student, 'student'), Anatomy(student, 'teacher'))
    sharp = {
        n: tap._replace(
            q=2 * tap.q.detach(),
            k=tap.k.detach(),
            v=tap.v.detach(),
            bias=None if tap.bias is None else tap.bias.detach(),
        )
        for n, tap in output.attention.items()
    }
    loss(output, ModelOutput(None, sharp, {}), None).backward()
    return [p.grad for p in student.parameters() if p.grad is not None]


class Logits(nn.Module):
    """A Hugging Face model that takes images alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(pixel_values=images).last_hidden_state


CHECKPOINTED = {
    'timm ViT': (timm_vit, lambda model: model.set_grad_checkpointing(True), 32),
    'timm Swin': (timm_swin, lambda model: model.set_grad_checkpointing(True), 64),
    'Hugging Face ViT': (
        lambda: Logits(hugging_face('ViT').model),
        lambda model: model.model.gradient_checkpointing_enable(dict(use_reentrant=False)),
        32,
    ),
}


@pytest.mark.parametrize('family', CHECKPOINTED)
def test_activation_checkpointing_gives_the_same_gradients(family):
    build, enable, size = CHECKPOINTED[family]
    model, images = build().train(), torch.randn(2, 3, size, size)
    model.requires_grad_(True)
    torch.manual_seed(0)
    expected = [g.clone() for g in pair_loss(model, images)]
    model.zero_grad()
    enable(model)
    torch.manual_seed(0)
    assert_close(pair_loss(model, images), expected)


def test_reentrant_checkpointing_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(timm.layers.config, '_USE_REENTRANT_CKPT', True)
    model = timm_vit().train()
    model.set_grad_checkpointing(True)
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    with pytest.raises(UnsupportedAttention, match=r"'blocks.0.attn'.*use_reentrant=False"):
        pair_loss(model, images)


def test_accumulated_gradients_are_those_of_the_joint_batch():
    images, samples = batch(8)
    joint, parts = distiller(), distiller()
    for model, size in ((joint, 8), (parts, 4)):
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        wrapper = OptimWrapper(wrapper.optimizer, accumulative_counts=8 // size)
        wrapper.initialize_count_status(model, 0, 8 // size)
        for start in range(0, 8, size):
            part = slice(start, start + size)
            data = dict(inputs=list(images[part]), data_samples=samples[part])
            model.train_step(data, wrapper)
    assert_close(list(parts.parameters()), list(joint.parameters()), rtol=1e-5, atol=1e-6)


class Runner:
    """What EMAHook asks of a runner."""

    def __init__(self, model):
        self.model = model
        self.iter = self.epoch = 0


def test_ema_averages_the_student_alone():
    model, (images, samples) = distiller(), batch()
    runner, hook = Runner(model), EMAHook(momentum=0.5)
    hook.before_run(runner)
    averaged = hook.ema_model.module
    assert averaged.teacher is model.teacher
    assert not any('teacher' in name for name in hook.ema_model.state_dict())
    hook.after_train_iter(runner, 0)  # the first is a copy
    before = [p.clone() for p in model.student.parameters()]
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.5))
    model.train_step(dict(inputs=list(images), data_samples=samples), wrapper)
    hook.after_train_iter(runner, 1)
    after = list(model.student.parameters())
    for average, a, b in zip(averaged.student.parameters(), before, after, strict=True):
        assert_close(average, (a + b) / 2, rtol=1e-4, atol=1e-5)
    # The copy's forward writes into its own taps.
    with model.distillation.student_bank.record():
        averaged(images, samples, mode='loss')
        model.student(images)
    assert len(model.distillation.student_bank.collect().attention) == 2


DDP = """
import sys, torch, torch.distributed as dist
sys.path[:0] = ['tests', '.']
from mmengine.model import MMDistributedDataParallel
from hosts.mmpretrain.test_modes import distiller
from models import batch
from shd_vit.command import leave_group
torch.set_num_threads(1)
dist.init_process_group('gloo')
rank, model = dist.get_rank(), distiller()
torch.manual_seed(1)
images, samples = batch(8)
part = slice(4 * rank, 4 * rank + 4)
wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
if {amp}:
    torch.autocast('cpu', torch.bfloat16).__enter__()
sum(wrapped(images[part], samples[part], mode='loss').values()).backward()
if rank == 0:
    torch.save([p.grad for p in model.parameters()], sys.argv[1])
leave_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize('amp', [False, True])
def test_two_processes_have_the_gradients_of_the_joint_batch(amp, tmp_path):
    script, out = tmp_path / 'ddp.py', tmp_path / 'grads.pth'
    script.write_text(DDP.format(amp=amp))
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    done = subprocess.run([*command, script, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    model = distiller()
    torch.manual_seed(1)
    images, samples = batch(8)
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        _, expected = gradients(model, images, samples)
    is_close(torch.load(out), expected, 0.05 if amp else 1e-5)


@pytest.mark.parametrize('compiles', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_all_modes_from_a_config(compiles, tmp_path, request):
    """mmengine's own settings, one run: bfloat16, accumulation, EMA, and `compile` of the step."""
    data = fashion.write_images(tmp_path / 'data')
    if compiles:
        request.getfixturevalue('dynamo')
    options = {
        'optim_wrapper.type': 'BFloat16OptimWrapper',
        'optim_wrapper.accumulative_counts': 2,
        'custom_hooks': [dict(type='EMAHook')],
        'compile': dict(backend='eager') if compiles else False,
    }
    runner = fashion.runner('shd', tmp_path, data, options, epochs=1, batch_size=8)
    runner.train()
    assert hasattr(runner.model.train_step, '_torchdynamo_orig_callable') == compiles
    losses = runner.message_hub.get_scalar('train/loss_shd').data[0]
    assert len(losses) == fashion.TRAIN // 8
    assert losses[-1] < losses[0]
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    assert not any('teacher' in name for name in (*saved['state_dict'], *saved['ema_state_dict']))


def test_together_bfloat16_checkpointing_accumulation_and_ema():
    """A few steps in all modes at once bring the losses down."""
    torch.manual_seed(0)
    model = build_distiller(
        student=timm_classifier(),
        teacher=timm_classifier(6),
        losses=LOSSES,
        data_preprocessor=PLAIN,
    ).train()
    model.student.model.set_grad_checkpointing(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    wrapper = BFloat16OptimWrapper(optimizer, accumulative_counts=2)
    runner, hook = Runner(model), EMAHook()
    hook.before_run(runner)
    wrapper.initialize_count_status(model, 0, 40)
    images, samples = batch(8)
    logs = []
    for step in range(40):
        part = slice(0, 4) if step % 2 == 0 else slice(4, 8)
        logs.append(
            model.train_step(dict(inputs=list(images[part]), data_samples=samples[part]), wrapper)
        )
        hook.after_train_iter(runner, step)
    for name in ('loss_shd', 'loss_cls'):
        values = [log[name].item() for log in logs]
        assert sum(values[-4:]) < 0.8 * sum(values[:4]), name
