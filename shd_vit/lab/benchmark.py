"""What SHD costs: time and memory of a training step, and growth with tokens and heads."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from rich.progress import track
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shd_vit.functional.compiler import compiler_error
from shd_vit.lab.models import record
from shd_vit.lab.report import in_turns
from shd_vit.lab.yardstick import LiteralSHDLoss
from shd_vit.losses import ModelOutput, SHDLoss
from shd_vit.shipped import shipped
from shd_vit.taps import AttentionTap

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
TOKENS = (65, 197, 401, 577, 785)
HEADS = ((6, 3), (12, 3), (16, 6), (25, 16))
MIB = 2**20


# --- Time and memory of a training step, forward and backward ---------------------------

VARIANTS: dict[str, Callable[[], SHDLoss | None]] = {
    'ViTKD + NKD': lambda: None,
    '+ SHD': SHDLoss,
    '+ SHD, plain torch': lambda: SHDLoss(backend='torch'),
    '+ SHD, literal': LiteralSHDLoss,
}


def _runnable_variants() -> list[str]:
    return [n for n in VARIANTS if n != '+ SHD' or compiler_error(DEVICE) is None]


def step(batch: int, rounds: int) -> dict[str, dict]:
    """DeiT3-Small -> DeiT-Tiny at 224 px: each variant in turn, and whether they agree."""
    names = _runnable_variants()
    models = {name: _distiller(VARIANTS[name]()) for name in names}
    images, samples = _batch(batch)

    def run(name: str) -> None:
        models[name].zero_grad()
        sum(models[name](images, samples, mode='loss').values()).backward()

    values = {name: _loss_and_gradient(models[name], images) for name in names[1:]}
    # Until the heap has grown to what all of them need, single steps wait for the kernel's pages.
    runs = {name: partial(run, name) for name in names}
    times = in_turns(runs, rounds, 'step', warm_up=4)
    base = times['ViTKD + NKD']
    return {
        name: dict(
            seconds=median(times[name]),
            fastest=min(times[name]),
            ratio=median(t / b for t, b in zip(times[name], base, strict=True)),
            **(_differences(values[name], values['+ SHD, literal']) if name in values else {}),
        )
        for name in names
    }


def memory(batch: int, rounds: int) -> dict[str, dict]:
    """What is kept for backward, the largest temporary, and the peak of a process."""
    results = {}
    for name in ('+ SHD, plain torch', '+ SHD, literal'):
        model = _distiller(VARIANTS[name]())
        for size in (8, batch):
            outputs = record(model, _batch(size)[0])
            kept, largest = _kept_and_largest(model.losses['shd'], outputs)
            qk = sum(t.nbytes for tap in outputs[0].attention.values() for t in tap[:2])
            results[f'{name} at batch {size}'] = dict(
                kept_mib=kept / MIB, kept_over_qk=kept / qk, largest_mib=largest / MIB
            )
    tool = shipped('tools') / 'benchmark.py'
    for name in _runnable_variants():
        command = [sys.executable, str(tool), '--peak-of', name, '--batch', str(batch)]
        quiet = {**os.environ, 'PYTHONWARNINGS': 'ignore'}
        done = subprocess.run(command, env=quiet, stdout=subprocess.PIPE, text=True, check=True)
        peak = float(done.stdout.split()[-1])
        results.setdefault(f'{name} at batch {batch}', {})['peak_mib'] = peak
    return results


def peak_memory(name: str, batch: int) -> float:
    """MiB that two steps of a variant need at most, in a process of its own."""
    model, (images, samples) = _distiller(VARIANTS[name]()), _batch(batch)
    for _ in range(2):
        model.zero_grad()
        sum(model(images, samples, mode='loss').values()).backward()
    if DEVICE == 'cuda':
        return torch.cuda.max_memory_allocated() / MIB
    status = Path('/proc/self/status')
    if status.exists():  # ru_maxrss would be the parent's, if that was larger when it forked
        lines = dict(line.split(':', 1) for line in status.read_text().splitlines())
        return int(lines['VmHWM'].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _kept_and_largest(loss: SHDLoss, outputs: tuple) -> tuple[int, int]:
    """Bytes that autograd saves, and of the largest tensor that is made on the way."""
    kept: dict[int, int] = {}
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            inputs = {t.data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
            made = (t for t in tree_leaves(out) if isinstance(t, Tensor))
            sizes.extend(t.nbytes for t in made if t.data_ptr() not in inputs)
            return out

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), Watch():
        value = loss(*outputs, None)  # noqa: F841  (alive while its graph is measured)
    return sum(kept.values()), max(sizes)


def _distiller(shd: SHDLoss | None) -> Any:
    """The paper's pair with ViTKD and NKD, and this SHD loss if there is one."""
    cfg = Config.fromfile(shipped('configs') / 'deit_tiny_vitkd_nkd.py').model
    cfg.teacher.checkpoint = cfg.train_cfg = None
    if shd is not None:
        cfg.losses.shd = dict(type='SHDLoss')
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    if shd is not None:
        shd.pairs = model.losses['shd'].pairs
        model.losses['shd'] = shd
    return model.to(DEVICE).train()


def _batch(size: int) -> tuple[Tensor, list[DataSample]]:
    images = torch.randn(size, 3, 224, 224, device=DEVICE)
    return images, [DataSample().set_gt_label(i).to(DEVICE) for i in range(size)]


def _loss_and_gradient(model: Any, images: Tensor) -> tuple[float, Tensor]:
    value = model.losses['shd'](*record(model, images), None)
    leaves = [p for n, p in model.student.named_parameters() if n.endswith('qkv.weight')]
    return value.item(), torch.cat([g.flatten() for g in torch.autograd.grad(value, leaves)])


def _differences(ours: tuple[float, Tensor], exact: tuple[float, Tensor]) -> dict[str, float]:
    """Relative, of the loss and of the gradient as a vector."""
    return dict(
        loss_difference=abs(ours[0] / exact[0] - 1),
        gradient_difference=((ours[1] - exact[1]).norm() / exact[1].norm()).item(),
    )


# --- Growth with tokens and heads -------------------------------------------------------


def growth(batch: int, rounds: int) -> dict[str, dict]:
    """Time of SHDLoss for one layer and image, forward and backward, against N and heads."""
    cases = [(n, 6, 3) for n in TOKENS] + [(197, *heads) for heads in HEADS]
    losses: dict[str, SHDLoss] = {
        'plain torch': SHDLoss(backend='torch'),
        'literal': LiteralSHDLoss(),
    }
    if compiler_error(DEVICE) is None:
        losses = {'auto': SHDLoss(), **losses}
    results = {}
    for tokens, teacher_heads, student_heads in track(cases, 'growth', transient=True):
        images = max(2, min(32, 32 * 197**2 // tokens**2))
        student = _tap(images, tokens, student_heads, True)
        teacher = _tap(images, tokens, teacher_heads, False)
        runs = {name: partial(_layer_step, loss, student, teacher) for name, loss in losses.items()}
        times = in_turns(runs, rounds)
        results[f'{tokens} tokens, {teacher_heads} -> {student_heads} heads'] = dict(
            tokens=tokens,
            teacher_heads=teacher_heads,
            student_heads=student_heads,
            milliseconds={n: 1e3 * median(t) / images for n, t in times.items()},
        )
    return results


def _layer_step(loss: SHDLoss, student: AttentionTap, teacher: AttentionTap) -> None:
    logits = student.q[:, 0, 0]  # have no part in it
    outputs = [ModelOutput(logits, {1: tap}, {}) for tap in (student, teacher)]
    loss.pairs = [(1, 1)]
    torch.autograd.grad(loss(*outputs, None), student[:2])


def _tap(batch: int, tokens: int, heads: int, learns: bool) -> AttentionTap:
    qkv = torch.randn(batch, tokens, 3, heads, 64, device=DEVICE)
    q, k, v = (x.transpose(1, 2).requires_grad_(learns) for x in qkv.unbind(2))
    return AttentionTap(q, k, v, torch.randn(64 * heads, 64 * heads, device=DEVICE), 0.125)
