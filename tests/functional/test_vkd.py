import torch
from torch.testing import assert_close

from shd_vit.functional import vkd_distance


def reference(projected, teacher):
    """Standardise each sample over its channels, then Huber's loss at 1, number by number."""
    total, count = 0.0, 0
    for p, t in zip(projected.double(), teacher.double(), strict=True):
        mean = sum(t) / len(t)
        variance = sum((x - mean) ** 2 for x in t) / len(t)
        for a, b in zip(p, t, strict=True):
            error = (a - (b - mean) / (variance + 1e-5) ** 0.5).abs()
            total = total + (0.5 * error**2 if error < 1 else error - 0.5)
            count += 1
    return total / count


def test_equals_the_equation_number_by_number():
    projected = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    teacher = 5 + 3 * torch.randn(4, 6, dtype=torch.float64)
    value, expected = vkd_distance(projected, teacher), reference(projected, teacher)
    assert_close(value, expected)
    assert_close(*(torch.autograd.grad(v, projected) for v in (value, expected)))
    assert torch.autograd.gradcheck(vkd_distance, (projected, teacher))


def test_by_hand():
    """(1, 3) is (-1, 1) standardised; errors 0.5 and 2 cost 0.125 and 1.5."""
    value = vkd_distance(torch.tensor([[-0.5, 3.0]]), torch.tensor([[1.0, 3.0]]))
    assert_close(value.item(), (0.125 + 1.5) / 2, rtol=1e-4, atol=0)


def test_the_teachers_scale_and_offset_do_not_count_the_students_do():
    projected, teacher = torch.randn(2, 4, 6, dtype=torch.float64).unbind(0)
    value = vkd_distance(projected, teacher)
    assert_close(vkd_distance(projected, 7 * teacher + 3), value, rtol=1e-4, atol=1e-5)
    assert (vkd_distance(2 * projected, teacher) - value).abs() > 0.01


def test_constant_teacher_features_are_zeros():
    projected = torch.full((2, 3), 0.5, requires_grad=True)
    value = vkd_distance(projected, torch.full((2, 3), 4.0))
    assert_close(value.item(), 0.125)
