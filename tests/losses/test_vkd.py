import copy

import pytest
import torch
from losses.taps import Model, bound, leaves, tokens
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.losses import VkDLoss
from shd_vit.taps import FINAL


def reference(weight, student, teacher):
    """Pool the patches, project, standardise the teacher's, Huber's loss; number by number."""
    total, count = 0.0, 0
    for s, t in zip(student.patches, teacher.patches, strict=True):
        projected = weight @ (sum(s) / len(s))
        pooled = sum(t) / len(t)
        mean = sum(pooled) / len(pooled)
        variance = sum((x - mean) ** 2 for x in pooled) / len(pooled)
        for a, b in zip(projected, pooled, strict=True):
            error = (a - (b - mean) / (variance + 1e-5) ** 0.5).abs()
            total = total + (0.5 * error**2 if error < 1 else error - 0.5)
            count += 1
    return total / count


@pytest.mark.parametrize(
    'layers, points',
    [('last', [(FINAL, FINAL)]), ('uniform', [(1, 2), (FINAL, FINAL)]), ([(2, 1)], [(FINAL, 1)])],
)
def test_equals_the_equations_number_by_number(layers, points):
    loss = VkDLoss(4, 6, weight=0.3, layers=layers)
    needs = loss.bind(Model('student', 2, 4), Model('teacher', 3, 6))
    assert [need.tokens for need in needs] == [tuple(p) for p in zip(*points, strict=True)]
    loss.double()
    student, teacher = tokens(4, 2), tokens(6, 3)
    value = loss(student, teacher, None)
    expected = 0.3 * sum(
        reference(projector.weight, student.tokens[s], teacher.tokens[t])
        for (s, t), projector in zip(points, loss.projectors, strict=True)
    )
    assert_close(value, expected)
    learning = [student.tokens[s].x for s, _ in points] + list(loss.parameters())
    assert_close(*(torch.autograd.grad(v, learning) for v in (value, expected)))


def test_models_may_differ_in_tokens_and_the_teacher_gets_no_gradient():
    loss = bound(VkDLoss(4, 6)).double()
    student, teacher = tokens(4, patches=9), tokens(6, patches=16, prefix=2)
    loss(student, teacher, None).backward()
    assert all(x.grad is None for x in leaves(teacher))
    grad = student.tokens[FINAL].x.grad
    assert (grad[:, 0] == 0).all() and (grad[:, 1:].abs().sum(-1) > 0).all()


def gap(loss):
    """How far a projection's shorter side is from orthonormal."""
    weight = loss.projectors[0].weight
    gram = weight.mT @ weight if weight.shape[0] >= weight.shape[1] else weight @ weight.mT
    return (gram - torch.eye(len(gram))).abs().max()


@pytest.mark.parametrize('dims', [(4, 6), (6, 4), (5, 5)])
def test_the_projection_learns_and_stays_orthogonal_under_weight_decay(dims):
    loss = bound(VkDLoss(*dims), *dims)
    student, teacher = (tokens(width, dtype=torch.float32) for width in dims)
    before = loss.projectors[0].weight.detach().clone()
    optimizer = torch.optim.AdamW(loss.parameters(), lr=0.05, weight_decay=0.1)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        values.append(loss(student, teacher, None))
        values[-1].backward()
        optimizer.step()
        assert gap(loss) < 1e-5
    assert values[-1] < values[0]
    assert (loss.projectors[0].weight - before).abs().max() > 0.01


def test_the_projection_survives_state_dict_deepcopy_and_init():
    first, second = (bound(VkDLoss(4, 6)) for _ in range(2))
    outputs = tokens(4, dtype=torch.float32), tokens(6, dtype=torch.float32)
    optimizer = torch.optim.SGD(first.parameters(), lr=1.0)
    first(*outputs, None).backward()
    optimizer.step()
    value = first(*outputs, None)
    assert second(*outputs, None) != value
    second.load_state_dict(first.state_dict())
    assert_close(second(*outputs, None), value, rtol=0, atol=0)
    copied = copy.deepcopy(first)
    assert_close(copied(*outputs, None), value, rtol=0, atol=0)
    optimizer.step()  # the copy does not follow
    assert first(*outputs, None) != value
    assert_close(copied(*outputs, None), value, rtol=0, atol=0)


def test_in_float32_under_autocast():
    loss = bound(VkDLoss(4, 6))
    outputs = tokens(4, dtype=torch.float32), tokens(6, dtype=torch.float32)
    expected = loss(*outputs, None)
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(*outputs, None)
    assert_close(value, expected, rtol=0, atol=0)
    half = tokens(4, dtype=torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16):
        loss(half, outputs[1], None).backward()
    assert half.tokens[FINAL].x.grad.isfinite().all()


def test_widths_that_are_not_the_models_are_named():
    with pytest.raises(ConfigError, match=r'VkDLoss\.teacher_dims=99, but the teacher is 6 wide'):
        bound(VkDLoss(4, 99))
