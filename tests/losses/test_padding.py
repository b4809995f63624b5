"""Tokens that do not count have no part in losses on tokens, whatever is in them."""

import math

import pytest
import torch
from losses.taps import Model, tokens
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.losses import FeatureProjectorLoss, SelfCorrelationLoss, ViTKDLoss, VkDLoss
from shd_vit.taps import FINAL

MASK = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 1, 1, 1], [1, 0, 0, 0, 0]]).bool()
MASKS = (MASK, MASK), (MASK, None), (None, MASK)


def projected(loss, student, teacher):
    """The mean of squared errors, one counted token at a time."""
    total = count = 0
    projector = loss.projectors[0]
    for b, n in MASK.nonzero().tolist():
        for e in range(teacher.shape[-1]):
            ours = (projector.weight[e] * student[b, n]).sum() + projector.bias[e]
            total, count = total + (ours - teacher[b, n, e]) ** 2, count + 1
    return total / count


def correlated(loss, student, teacher):
    """Eq. 12 of each sample's counted tokens alone."""
    total = 0
    for s, t, mask in zip(student, teacher, MASK, strict=True):
        dot = square_s = square_t = 0
        for i in mask.nonzero().flatten():
            for j in mask.nonzero().flatten():
                a, b = (torch.cosine_similarity(x[i], x[j], dim=0) for x in (s, t))
                dot, square_s, square_t = dot + a * b, square_s + a**2, square_t + b**2
        total = total + 1 - dot / (square_s * square_t).sqrt()
    return total / len(MASK)


def pooled(loss, student, teacher):
    """Means of counted patches (not of the class token), then Huber's loss at 1."""
    weight, total, count = loss.projectors[0].weight, 0, 0
    for s, t, mask in zip(student, teacher, MASK, strict=True):
        patches = [n for n in range(1, 5) if mask[n]]
        mean_s, mean_t = (
            sum([x[n] for n in patches], 0 * x[1]) / max(len(patches), 1) for x in (s, t)
        )
        centred = mean_t - mean_t.mean()
        errors = weight @ mean_s - centred / (centred.square().mean() + 1e-5).sqrt()
        for error in errors.abs():
            total = total + (0.5 * error**2 if error < 1 else error - 0.5)
            count += 1
    return total / count


def outputs(masks):
    torch.manual_seed(0)
    return [tokens(d, patches=4, mask=m, grid=(2, 2)) for d, m in zip((4, 6), masks, strict=True)]


@pytest.mark.parametrize(
    'cls, reference, layer, masks',
    [
        *((FeatureProjectorLoss, projected, 2, masks) for masks in MASKS),
        *((SelfCorrelationLoss, correlated, 2, masks) for masks in MASKS),
        (VkDLoss, pooled, FINAL, MASKS[0]),  # the tokens of its models may differ
    ],
)
def test_padding_has_no_part(cls, reference, layer, masks):
    """Equal to a loop over the tokens that count, with anything, NaN included, in the others."""
    loss = cls(weight=1.0, layers='last')
    loss.bind(Model('student', dim=4), Model('teacher', dim=6))
    loss.double()
    student, teacher = outputs(masks)
    x_s, x_t = student.tokens[layer].x, teacher.tokens[layer].x
    expected = reference(loss, x_s, x_t.detach())
    learning = [x_s, *loss.parameters()]
    expected_grads = torch.autograd.grad(expected, learning)
    for padding in (0.0, 1e3, math.nan):
        with torch.no_grad():
            for x in (x_s, x_t):
                x[~MASK] = padding
        value = loss(student, teacher, None)
        assert_close(value, expected)
        grads = torch.autograd.grad(value, learning)
        assert_close(grads, expected_grads)
        assert (grads[0][~MASK] == 0).all()


@pytest.mark.parametrize('cls', [FeatureProjectorLoss, SelfCorrelationLoss])
def test_a_mask_of_nothing_costs_nothing(cls):
    loss = cls()
    loss.bind(Model('student', dim=4), Model('teacher', dim=6))
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    value = loss.double()(*outputs([nothing, nothing]), None)
    value.backward()
    assert value == 0


def test_a_mask_that_counts_all_changes_nothing():
    everything = torch.ones(3, 5, dtype=torch.bool)
    for cls in (FeatureProjectorLoss, SelfCorrelationLoss, VkDLoss):
        loss = cls()
        loss.bind(Model('student', dim=4), Model('teacher', dim=6))
        loss.double()
        masked, plain = (loss(*outputs([mask] * 2), None) for mask in (everything, None))
        assert_close(masked, plain)


def test_vitkd_has_no_place_for_padding():
    loss = ViTKDLoss()
    loss.bind(Model('student', dim=4), Model('teacher', dim=6))
    with pytest.raises(ConfigError, match='the teacher has a mask of tokens that count'):
        loss.double()(*outputs([None, MASK]), None)
