import pytest
import torch
from torch.testing import assert_close

from shd_vit.functional import self_correlation, self_correlation_loss


def reference(student, teacher):
    """Eq. 12 of arXiv 2502.07436, one pair of tokens at a time, in float64."""
    total = 0.0
    for s, t in zip(student.double(), teacher.double(), strict=True):
        dot = square_s = square_t = 0.0
        for i in range(len(s)):
            for j in range(len(s)):
                a, b = (
                    (f[i] * f[j]).sum() / ((f[i] ** 2).sum() * (f[j] ** 2).sum()).sqrt()
                    for f in (s, t)
                )
                dot, square_s, square_t = dot + a * b, square_s + a**2, square_t + b**2
        total = total + 1 - dot / (square_s * square_t).sqrt()
    return total / len(student)


def features(B=3, N=5, widths=(4, 6), dtype=torch.float64):
    return [torch.randn(B, N, E, dtype=dtype, requires_grad=True) for E in widths]


def test_equals_eq_12_pair_by_pair():
    student, teacher = features()
    value, expected = self_correlation_loss(student, teacher), reference(student, teacher)
    assert_close(value, expected)
    assert_close(*(torch.autograd.grad(v, (student, teacher)) for v in (value, expected)))
    assert torch.autograd.gradcheck(self_correlation_loss, (student, teacher))


def test_by_hand():
    """Two tokens at 60 degrees against two at 90: (2 + 0) / (sqrt(2.5) sqrt(2))."""
    student = torch.tensor([[[2.0, 0.0], [0.5, 0.75**0.5]]])
    teacher = torch.tensor([[[0.0, 3.0, 0.0], [1.0, 0.0, 0.0]]])
    assert_close(self_correlation(student), torch.tensor([[[1.0, 0.5], [0.5, 1.0]]]))
    assert_close(self_correlation_loss(student, teacher).item(), 1 - 2 / 5**0.5)


def test_neither_scale_nor_rotation_counts():
    student = features()[0].detach()
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    scale = 0.1 + torch.rand(3, 5, 1, dtype=torch.float64)
    assert_close(self_correlation_loss(student, student).item(), 0.0, rtol=0, atol=1e-12)
    assert self_correlation_loss(student, scale * student @ rotation).abs() < 1e-12


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_in_float32_whatever_autocast_says(dtype):
    student, teacher = features(N=16, dtype=dtype)
    expected = reference(student, teacher)
    with torch.autocast('cpu', torch.bfloat16):
        value = self_correlation_loss(student, teacher)
    assert value.dtype == torch.float32
    assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_token_of_zeros_is_like_none_and_has_no_gradient():
    student, teacher = features()
    with torch.no_grad():
        student[0, 1] = 0
    correlation = self_correlation(student)
    assert (correlation[0, 1] == 0).all() and (correlation[0, :, 1] == 0).all()
    value = self_correlation_loss(student, teacher)
    grad = torch.autograd.grad(value, student)[0]
    assert value.isfinite() and grad.isfinite().all() and (grad[0, 1] == 0).all()
    assert grad[0, 0].abs().sum() > 0
