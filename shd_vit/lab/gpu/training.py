"""Two hundred steps on synthetic images: the losses fall."""

from __future__ import annotations

import timm
import torch
from torch import nn

from shd_vit.hosts.timm.task import SHDDistillationTask
from shd_vit.lab.gpu import Outcome

STEPS, BATCH, CLASSES = 200, 64, 10
WINDOW = 20  # steps that a figure is a mean of
FALL = 0.8  # the last steps' part of the first steps' loss, at most
LOSSES = 'loss', 'task_loss', 'shd_loss'


def measure(dtype: torch.dtype = torch.bfloat16) -> Outcome:
    """Means of the first and the last steps.

    Images are noise around a pattern of their class. The teacher has random weights, with queries
    and keys larger than they begin, so that its maps are not uniform.
    """
    torch.manual_seed(0)
    student, teacher = (
        timm.create_model(name, num_classes=CLASSES).cuda()
        for name in ('deit_tiny_patch16_224', 'deit3_small_patch16_224')
    )
    with torch.no_grad():
        for block in teacher.blocks:
            block.attn.qkv.weight[: 2 * teacher.embed_dim].mul_(3)
    task = SHDDistillationTask(
        *(student, teacher, nn.CrossEntropyLoss()),
        shd={}, vitkd=True, nkd=True, device=torch.device('cuda'), verbose=False,
    ).train()  # fmt: skip
    optimiser = torch.optim.AdamW(task.get_clip_parameters(), 3e-4, fused=True)
    patterns = torch.randn(CLASSES, 3, 224, 224, device='cuda')
    history = []
    for _ in range(STEPS):
        labels = torch.randint(CLASSES, (BATCH,), device='cuda')
        images = patterns[labels] + torch.randn(BATCH, 3, 224, 224, device='cuda')
        with torch.autocast('cuda', dtype):
            result = task(images, labels)
        result['loss'].backward()
        nn.utils.clip_grad_norm_(task.get_clip_parameters(), 5.0)
        optimiser.step()
        optimiser.zero_grad()
        history.append(torch.stack([result[name].detach().float() for name in LOSSES]))
    first, last = (
        torch.stack(part).mean(0).tolist() for part in (history[:WINDOW], history[-WINDOW:])
    )
    rows = [['', f'first {WINDOW} steps', f'last {WINDOW} of {STEPS}']]
    rows += [[name, f'{a:.4f}', f'{b:.4f}'] for name, a, b in zip(LOSSES, first, last, strict=True)]
    wrong = tuple(
        f'{name} does not fall: {a:.4f} to {b:.4f}'
        for name, a, b in zip(LOSSES, first, last, strict=True)
        if not b < FALL * a
    )
    return Outcome(((f'Training on synthetic images, batch {BATCH}, {dtype}', rows),), (), wrong)
