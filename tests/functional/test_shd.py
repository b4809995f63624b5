"""The one entry: every backend against the slow loops, in any mix of types; what is refused."""

import itertools

import pytest
import references
import torch
from torch.testing import assert_close

from shd_vit.functional import (
    native,
    shd_loss,
    weigh_constant,
    weigh_linear,
    weigh_simplex,
)
from shd_vit.functional.shd import BACKENDS

HALVES = [torch.bfloat16, torch.float16, torch.float32]


def layer(heads=(2, 4), B=2, N=6, D=4):
    """Query and key of a student; query, key, value and out_proj of a teacher; both scales."""
    Hs, Ht = heads
    student = [torch.randn(B, Hs, N, D).requires_grad_() for _ in range(2)]
    teacher = [torch.randn(B, Ht, N, D + 1) for _ in range(3)]
    return [*student, *teacher, torch.randn(7, Ht * (D + 1)), 0.5, 0.4]


def exact(args, temperature=1.0):
    q, k, tq, tk, v, out_proj, scale, teacher_scale = args
    maps = references.softmax_maps(tq, tk, teacher_scale, temperature)
    target, _ = references.squeeze_heads(maps, v, out_proj, q.shape[1])
    log_p = (q.double() @ k.double().mT * scale / temperature).log_softmax(-1)
    loss = (target * (target.log() - log_p)).sum() / (q.shape[0] * q.shape[2])
    return loss, torch.autograd.grad(loss, (q, k))


def usable(backend):
    if backend == 'cpp' and (error := native.kernel_error()):
        pytest.skip(f'the kernel cannot be built here: {error}')
    if backend == 'triton':
        pytest.skip('has tests of its own, in tests/functional/triton')
    return backend


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('heads', [(2, 4), (3, 7), (1, 5), (3, 3)])
def test_every_backend_gives_eq_11(backend, heads):
    args = layer(heads)
    loss = shd_loss(*args, 1.5, backend=usable(backend))
    gradients = torch.autograd.grad(loss, args[:2])
    expected, wanted = exact(args, 1.5)
    assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert_close(gradients, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('student, teacher', itertools.product(HALVES, HALVES))
@pytest.mark.parametrize('weigh', [weigh_linear, weigh_constant, weigh_simplex])
@pytest.mark.parametrize('distance', ['kl', 'mse'])
def test_student_and_teacher_may_be_of_any_types(student, teacher, weigh, distance):
    """Sums in float32: the loss is that of the same numbers in float64, but for rounded maps."""
    args = layer()
    low = [x.detach().to(student).requires_grad_() for x in args[:2]]
    low += [x.to(teacher) for x in args[2:6]]
    loss = shd_loss(*low, *args[6:], weigh=weigh, distance=distance)
    assert loss.dtype == torch.float32
    wide = [x.detach().double().requires_grad_() for x in low[:2]] + [x.double() for x in low[2:]]
    expected = shd_loss(*wide, *args[6:], weigh=weigh, distance=distance)
    assert_close(loss.double(), expected, rtol=1e-3, atol=1e-5)
    gradients = torch.autograd.grad(loss, low[:2])
    assert all(g.dtype == student for g in gradients)
    wanted = torch.autograd.grad(expected, wide[:2])
    for gradient, exactly in zip(gradients, wanted, strict=True):
        assert (gradient.double() - exactly).norm() < 0.02 * exactly.norm()


@pytest.mark.parametrize('place', range(6))
@pytest.mark.parametrize('low', [torch.bfloat16, torch.float64])
def test_a_tensor_of_a_type_of_its_own(place, low):
    """One of query, key, value or projection alone in another type: a norm, a projection."""
    args = layer()
    plain = shd_loss(*args)
    args[place] = args[place].detach().to(low)
    # Rounding alone moves the loss: the same numbers in float64 do not.
    wide = [x.detach().double() for x in args[:6]]
    loss = shd_loss(*args)
    assert loss.dtype in (torch.float32, torch.float64)
    assert_close(loss.double(), shd_loss(*wide, *args[6:]), rtol=2e-3, atol=1e-5)
    assert_close(loss.double(), plain.double(), rtol=0.1, atol=0)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('place', range(6))
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_what_is_no_number_shows_in_the_loss(backend, place, value):
    """In any of the six tensors, of one sample: never a weight of a half and a finite loss."""
    args = layer()
    with torch.no_grad():
        args[place][(0,) * args[place].dim()] = value
    assert not shd_loss(*args, backend=usable(backend)).isfinite()


@pytest.mark.parametrize('heads', [(2, 4), (1, 4), (2, 7)])
@pytest.mark.parametrize('place', [4, 5])
def test_what_is_no_number_shows_in_the_best_weights_too(heads, place):
    args = layer(heads)
    args[place][(0,) * args[place].dim()] = float('nan')
    assert shd_loss(*args, weigh=weigh_simplex).isnan()


@pytest.mark.parametrize('whose', ['bias', 'teacher_bias'])
def test_what_is_no_number_shows_in_a_bias_too(whose):
    bias = torch.zeros(6, 6)
    bias[2, 3] = float('nan')
    assert shd_loss(*layer(), **{whose: bias}).isnan()


def test_bad_groups_and_backends_are_refused():
    args = layer()
    for sizes in ((2, 1), (4,), (1, 1, 2)):
        with pytest.raises(ValueError, match=r'groups of .* do not make 2 heads of 4'):
            shd_loss(*args, sizes=sizes)
    bias = torch.zeros(6, 6)
    for refused in (dict(distance='mse'), dict(bias=bias), dict(weigh=weigh_simplex)):
        with pytest.raises(ValueError, match="backend='cpp' takes linear merging and KL"):
            shd_loss(*args, backend='cpp', **refused)
