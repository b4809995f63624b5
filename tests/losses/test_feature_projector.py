import pytest
import torch
from losses.taps import Model, bound, leaves, tokens
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.losses import FeatureProjectorLoss, ModelOutput


def reference(loss, student, teacher, pairs):
    """Mean squared error after the projection, one channel at a time, summed over pairs."""
    total = 0.0
    for projector, (s, t) in zip(loss.projectors, pairs, strict=True):
        features_s, features_t = student.tokens[s].x, teacher.tokens[t].x
        B, N, width = features_t.shape
        for b in range(B):
            for n in range(N):
                for e in range(width):
                    projected = (projector.weight[e] * features_s[b, n]).sum() + projector.bias[e]
                    total = total + (projected - features_t[b, n, e]) ** 2 / (B * N * width)
    return loss.weight * total


@pytest.mark.parametrize(
    'layers, depths, pairs',
    [
        ('uniform', (2, 4), [(1, 2), (2, 4)]),
        ('last', (2, 3), [(2, 3)]),
        ([(1, 2), (1, 1)], (2, 2), [(1, 2), (1, 1)]),
    ],
)
def test_equals_the_equation_channel_by_channel(layers, depths, pairs):
    loss = bound(FeatureProjectorLoss(4, 6, weight=0.3, layers=layers), 4, 6, *depths).double()
    student, teacher = tokens(4, depths[0], patches=3), tokens(6, depths[1], patches=3)
    value, expected = loss(student, teacher, None), reference(loss, student, teacher, pairs)
    assert_close(value, expected)
    learning = [student.tokens[s].x for s in {s for s, _ in pairs}] + list(loss.parameters())
    assert_close(*(torch.autograd.grad(v, learning) for v in (value, expected)))


def test_it_says_which_blocks_it_reads():
    loss = FeatureProjectorLoss(4, 6, layers=[(2, 3), (1, 1)])
    needs = loss.bind(Model('student', 2, 4), Model('teacher', 3, 6))
    assert [need.tokens for need in needs] == [(2, 1), (3, 1)]
    assert [need.attention for need in needs] == [(), ()]


def test_every_projector_learns_and_the_teacher_does_not():
    loss = bound(FeatureProjectorLoss(4, 6)).double()
    student, teacher = tokens(4), tokens(6)
    loss(student, teacher, None).backward()
    assert len(list(loss.parameters())) == 4
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())
    assert all(x.grad is None for x in leaves(teacher))


def test_a_student_that_is_a_linear_map_away_costs_nothing():
    loss = bound(FeatureProjectorLoss(4, 6)).double()
    student = tokens(4)
    teacher = ModelOutput(
        None,
        {},
        {
            n: student.tokens[n]._replace(x=projector(student.tokens[n].x).detach())
            for n, projector in enumerate(loss.projectors, 1)
        },
    )
    assert_close(loss(student, teacher, None).item(), 0.0)


def test_widths_that_are_not_the_models_are_named():
    with pytest.raises(ConfigError, match=r'Loss\.student_dims=5, but the student is 4 wide'):
        bound(FeatureProjectorLoss(5, 6))
    with pytest.raises(ConfigError, match='teacher_dims=7, but the teacher is 6 wide'):
        bound(FeatureProjectorLoss(4, 7))


@pytest.mark.parametrize('other', [dict(patches=4), dict(prefix=2), dict(patches=8, prefix=2)])
def test_tokens_that_do_not_pair_up_are_counted(other):
    loss = bound(FeatureProjectorLoss(4, 6)).double()
    counts = {'patches': 9, 'prefix': 1} | other
    message = (
        f'student has 1 prefix and 9 patch tokens, teacher {counts["prefix"]} and '
        f'{counts["patches"]}: FeatureProjectorLoss needs equal numbers'
    )
    with pytest.raises(ConfigError, match=message):
        loss(tokens(4), tokens(6, **other), None)
