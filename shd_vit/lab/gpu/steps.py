"""A training step of DeiT3-Small -> DeiT-Tiny on one GPU, with and without SHD."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import timm
import torch
from torch import nn

from shd_vit.functional.triton import choice
from shd_vit.hosts.timm.task import SHDDistillationTask
from shd_vit.lab.gpu import Goal, Outcome
from shd_vit.lab.gpu.timing import error_of, in_turns, kernel_milliseconds, peak_mib

TEACHER, STUDENT = 'deit3_small_patch16_224', 'deit_tiny_patch16_224'
PLAIN, OTHERS = 'teacher + student', '+ ViTKD + NKD'
BACKENDS = 'auto', 'triton', 'compile', 'torch'
TIME, MEMORY = 1.10, 1.15  # of the step with ViTKD and NKD
Step = Callable[[], object]


def measure(batch: int, rounds: int, dtype: torch.dtype = torch.bfloat16) -> Outcome:
    """Milliseconds, images a second and memory of each variant, in turns.

    Args:
        batch: Images in a step.
        rounds: Turns of each, of five steps.
        dtype: Of autocast; weights are in float32.
    """
    images = torch.randn(batch, 3, 224, 224, device='cuda')
    labels = torch.randint(1000, (batch,), device='cuda')
    models = {PLAIN: _plain(images, labels, dtype), OTHERS: _distilled(images, labels, dtype)}
    for backend in BACKENDS:
        models[f'{OTHERS} + SHD, {backend}'] = _distilled(
            images, labels, dtype, shd=dict(backend=backend)
        )
    models['+ SHD alone, auto'] = _distilled(images, labels, dtype, vitkd=False, nkd=False, shd={})
    wrong, steps, peaks = [], {}, {}
    for name, step in models.items():
        error = error_of(partial(_thrice, step))
        if error:
            wrong.append(f'a step of {name}: {error}')
        else:
            steps[name], peaks[name] = step, peak_mib(step)
    times = in_turns(steps, rounds, 5)
    kernels = {name: kernel_milliseconds(step) for name, step in steps.items()}
    ratio = f'/ {OTHERS}'
    rows = [
        ['', 'ms a step', ratio, 'images/s', 'ms of kernels', ratio, 'peak MiB of a step', ratio]
    ]
    ratios = {}
    for name, own in times.items():
        ratios[name] = found = (
            median(mine / base for mine, base in zip(own, times[OTHERS], strict=True)),
            kernels[name] / kernels[OTHERS],
            peaks[name] / peaks[OTHERS],
        )
        ms = median(own)
        row = [name, f'{ms:.2f}', f'{found[0]:.3f}', f'{1e3 * batch / ms:,.0f}']
        row += [f'{kernels[name]:.2f}', f'{found[1]:.3f}', f'{peaks[name]:,.0f}']
        rows.append([*row, f'{found[2]:.3f}'])
    found = ratios.get(f'{OTHERS} + SHD, auto', 3 * (float('nan'),))
    names = 'time of a step with SHD', 'its kernels alone', 'its peak'
    goals = tuple(map(Goal, names, found, (TIME, TIME, MEMORY)))
    title = f'Training step, {TEACHER} -> {STUDENT}, batch {batch}, {dtype}'
    return Outcome(((title, rows), _choices()), goals, tuple(wrong))


def _thrice(step: Step) -> None:
    for _ in range(3):  # compiles, finds out what is fastest, makes the optimiser's state
        step()


def _choices() -> tuple[str, list[list[str]]]:
    """What 'auto' has found out."""
    rows = [['maps (up to 2^b samples, 2^n tokens)', 'Triton kernels', 'auto takes']]
    for key, error in choice._errors.items():
        fastest = choice._fastest.get(key, 'not asked')
        rows.append([str(key[1]), error or 'agree', 'others' if fastest == 'auto' else fastest])
    return 'Choices of backend="auto"', rows


def _plain(images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype) -> Step:
    """What a step costs in which the teacher is run, and nothing is learned from it."""
    student, teacher = _model(STUDENT).train(), _model(TEACHER).eval()
    optimiser = torch.optim.AdamW(student.parameters(), 1e-4, fused=True)

    def step() -> None:
        with torch.autocast('cuda', dtype):
            with torch.no_grad():
                teacher(images)
            loss = nn.functional.cross_entropy(student(images), labels)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def _distilled(
    images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype, **losses: bool | dict
) -> Step:
    chosen: dict[str, Any] = {**dict(shd=False, vitkd=True, nkd=True), **losses}
    task = SHDDistillationTask(
        *(_model(STUDENT), _model(TEACHER), nn.CrossEntropyLoss()),
        device=torch.device('cuda'), verbose=False, **chosen,
    ).train()  # fmt: skip
    optimiser = torch.optim.AdamW(task.get_clip_parameters(), 1e-4, fused=True)

    def step() -> None:
        with torch.autocast('cuda', dtype):
            loss = task(images, labels)['loss']
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name).cuda()
