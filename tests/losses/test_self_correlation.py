import pytest
import torch
from losses.taps import bound, leaves, tokens
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.losses import SelfCorrelationLoss


def reference(student, teacher):
    """Eq. 12 of arXiv 2502.07436 for a pair of layers, by torch's own cosines."""
    flat = []
    for x in (student, teacher):
        B, N, _ = x.shape
        cosines = [
            torch.cosine_similarity(x[b, i], x[b, j], dim=0)
            for b in range(B)
            for i in range(N)
            for j in range(N)
        ]
        flat.append(torch.stack(cosines).view(B, N * N))
    return sum(1 - torch.cosine_similarity(s, t, dim=0) for s, t in zip(*flat, strict=True)) / B


@pytest.mark.parametrize('layers, pairs', [('uniform', [(1, 2), (2, 3)]), ('last', [(2, 3)])])
def test_equals_the_sum_of_eq_12_over_pairs(layers, pairs):
    loss = bound(SelfCorrelationLoss(weight=0.7, layers=layers), 4, 6, 2, 3)
    student, teacher = tokens(4, 2, patches=4), tokens(6, 3, patches=4)
    value = loss(student, teacher, None)
    expected = 0.7 * sum(reference(student.tokens[s].x, teacher.tokens[t].x) for s, t in pairs)
    assert_close(value, expected)
    learning = [student.tokens[s].x for s, _ in pairs]
    assert_close(*(torch.autograd.grad(v, learning) for v in (value, expected)))


def test_equal_models_cost_nothing_and_nothing_is_learned():
    loss = bound(SelfCorrelationLoss(), 4, 4)
    student = tokens(4)
    assert_close(loss(student, student, None).item(), 0.0)
    assert not list(loss.parameters())


def test_the_teacher_gets_no_gradient_and_the_class_token_counts():
    loss = bound(SelfCorrelationLoss())
    student, teacher = tokens(4), tokens(6)
    loss(student, teacher, None).backward()
    assert all(x.grad is None for x in leaves(teacher))
    assert all(student.tokens[n].x.grad[:, 0].abs().sum() > 0 for n in (1, 2))


def test_tokens_that_do_not_pair_up_are_counted():
    with pytest.raises(ConfigError, match='1 prefix and 9 patch tokens, teacher 1 and 4: SelfCorr'):
        bound(SelfCorrelationLoss())(tokens(4), tokens(6, patches=4), None)
