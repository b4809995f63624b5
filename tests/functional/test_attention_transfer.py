import torch
from torch.testing import assert_close

from shd_vit.functional import mean_map_kl


def maps(heads, B=2, N=4, dtype=torch.float64):
    return torch.randn(B, heads, N, N, dtype=dtype).softmax(-1)


def reference(student, teacher, rows=None):
    """The mean over heads, then KL, one number at a time."""
    total, count = 0.0, 0
    B, _, N, _ = student.shape
    for b in range(B):
        for i in range(N):
            if rows is not None and not rows[b, i]:
                continue
            count += 1
            for j in range(N):
                s = sum(student[b, :, i, j]) / student.shape[1]
                t = sum(teacher[b, :, i, j]) / teacher.shape[1]
                if t > 0:
                    total = total + t * (t.log() - s.log())
    return total / max(count, 1)


def test_equals_the_equation_number_by_number():
    student, teacher = maps(3).requires_grad_(), maps(5)
    rows = torch.tensor([[True, False, True, True], [False, False, True, False]])
    for counted in (None, rows):
        value, expected = (f(student, teacher, counted) for f in (mean_map_kl, reference))
        assert_close(value, expected)
        assert_close(*(torch.autograd.grad(v, student) for v in (value, expected)))
        assert torch.autograd.gradcheck(lambda s, r=counted: mean_map_kl(s, teacher, r), student)


def test_by_hand():
    """Heads (1, 0) and (0, 1) are (1/2, 1/2) on average: against (1/4, 3/4), log 2 - log(3) / 2."""
    teacher = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])[None]
    student = torch.tensor([[[0.25, 0.75], [0.25, 0.75]]])[None]
    assert_close(mean_map_kl(student, teacher).item(), 0.14384103622589)


def test_zeros_cost_nothing_in_the_teacher_and_no_infinity_in_the_student():
    teacher = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    assert_close(mean_map_kl(teacher, teacher).item(), 0.0)
    student = teacher.flip(-1).requires_grad_()
    value = mean_map_kl(student, teacher)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


def test_without_any_row_that_counts_there_is_no_loss():
    student = maps(2).requires_grad_()
    value = mean_map_kl(student, maps(3), torch.zeros(2, 4, dtype=torch.bool))
    value.backward()
    assert value == 0 and (student.grad == 0).all()
