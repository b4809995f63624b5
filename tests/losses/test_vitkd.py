import math

import pytest
import torch
import torch.nn.functional as F
from losses.taps import bound
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.losses import ModelOutput, ViTKDLoss
from shd_vit.taps import FINAL, TokenTap


def outputs(student_dims=4, teacher_dims=6, grid=(3, 3), B=3):
    def tokens(dims):
        x = torch.randn(3, B, 1 + math.prod(grid or (9,)), dims)
        return {n: TokenTap(t, 1, grid=grid) for n, t in zip((1, 2, FINAL), x, strict=True)}

    return [ModelOutput(None, {}, tokens(dims)) for dims in (student_dims, teacher_dims)]


def reference(loss, student, teacher, mask):
    """From the paper's equations 2 to 4, one token at a time, with the module's own weights."""
    B = len(mask)
    mimicking = 0.0
    for block, align in zip((1, 2), loss.align_shallow, strict=True):
        s, t = student.tokens[block].x, teacher.tokens[block].x
        for b in range(B):
            for n in range(1, s.shape[1]):
                mimicking += ((align(s[b, n]) - t[b, n]) ** 2).sum().item() / B
    generation = 0.0
    for b in range(B):
        s, t = student.tokens[FINAL].x[b, 1:], teacher.tokens[FINAL].x[b, 1:]
        rows, columns = student.tokens[FINAL].grid
        grid = torch.stack(
            [loss.mask_token if mask[b, n] else loss.align_deep(s[n]) for n in range(len(s))]
        ).view(rows, columns, -1)
        first, second = loss.generation[0], loss.generation[2]
        hidden = F.conv2d(grid.permute(2, 0, 1)[None], first.weight, first.bias, padding=1).relu()
        out = F.conv2d(hidden, second.weight, second.bias, padding=1)[0]
        for n in range(len(s)):
            if mask[b, n]:
                generation += ((out[:, n // columns, n % columns] - t[n]) ** 2).sum().item() / B
    return loss.alpha * mimicking + loss.beta / loss.mask_ratio * generation


@pytest.mark.parametrize('ratio, grid', [(0.5, (3, 3)), (0.8, (3, 3)), (0.5, (2, 8))])
def test_equals_the_equations_token_by_token(ratio, grid, monkeypatch):
    """Patches of 2 x 8 are not 4 x 4: their neighbours are others."""
    loss = bound(ViTKDLoss(4, 6, alpha=0.3, beta=0.2, mask_ratio=ratio))
    torch.nn.init.normal_(loss.mask_token)
    student, teacher = outputs(grid=grid)
    masks = []
    module = 'shd_vit.losses.vitkd.random_token_mask'
    from shd_vit.functional import random_token_mask

    monkeypatch.setattr(module, lambda *args: masks.append(random_token_mask(*args)) or masks[-1])
    value = loss(student, teacher, None)
    assert_close(value.item(), reference(loss, student, teacher, masks[0]), rtol=1e-5, atol=1e-5)


def test_all_weights_learn_and_start_as_published():
    loss = bound(ViTKDLoss(4, 6))
    assert (loss.alpha, loss.beta, loss.mask_ratio) == (3e-5, 3e-6, 0.5)
    assert (loss.mask_token == 0).all()
    loss(*outputs(), None).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.parameters())


def test_models_of_one_width_need_no_aligners():
    loss = bound(ViTKDLoss(6, 6), 6, 6)
    names = {name.split('.')[0] for name, _ in loss.named_parameters()}
    assert names == {'mask_token', 'generation'}
    loss(*outputs(6, 6), None)


def test_prefix_tokens_do_not_count():
    loss = bound(ViTKDLoss(4, 6))
    values = []
    student, teacher = outputs()
    for shift in (0.0, 100.0):
        for tap in student.tokens.values():
            tap.x[:, 0] += shift
        torch.manual_seed(0)
        values.append(loss(student, teacher, None))
    assert_close(*values)


def test_bad_grids_and_ratios_are_named():
    with pytest.raises(ConfigError, match='mask_ratio=0'):
        ViTKDLoss(4, 6, mask_ratio=0)
    loss = bound(ViTKDLoss(4, 6))
    with pytest.raises(ConfigError, match='how the 9 patch tokens of the student stand in rows'):
        loss(*outputs(grid=None), None)
    student, teacher = outputs(grid=(2, 8))[0], outputs(grid=(4, 4))[1]
    with pytest.raises(ConfigError, match=r'student has \(2, 8\) patch tokens.*teacher \(4, 4\)'):
        loss(student, teacher, None)
