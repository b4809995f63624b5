import pytest
import references
import torch
from torch.testing import assert_close

from shd_vit.functional import hard_labels, kd_loss, nkd_loss


def pair(classes=6, B=4):
    g = torch.Generator().manual_seed(1)
    s, t = torch.randn(2, B, classes, generator=g)
    return s.requires_grad_(), t, torch.randint(classes, (B,), generator=g)


@pytest.mark.parametrize('gamma, temperature', [(1.5, 1.0), (1.0, 1.0), (0.7, 3.0)])
def test_nkd_equals_the_loop(gamma, temperature):
    s, t, y = pair()
    loss = nkd_loss(s, t, y, gamma, temperature)
    expected = references.nkd(s, t, y, gamma, temperature)
    assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad(value, s)[0] for value in (loss, expected)]
    assert_close(*grads, rtol=1e-4, atol=1e-6)


def test_kd_equals_kl_from_its_definition():
    s, t, _ = pair()
    p, q = (t / 4).softmax(1).double(), (s / 4).softmax(1).double()
    expected = 16 * (p * (p / q).log()).sum() / len(s)
    assert_close(kd_loss(s, t, 4.0).double(), expected, rtol=1e-5, atol=1e-6)
    assert_close(kd_loss(t, t, 4.0), torch.tensor(0.0))


def looped(s, t, temperature, divergence):
    """Class by class, from the definitions, in float64."""
    total = 0.0
    for row_s, row_t in zip(s.double(), t.double(), strict=True):
        p, q = (row_t / temperature).softmax(0), (row_s / temperature).softmax(0)
        for one, other in zip(p, q, strict=True):
            mean = (one + other) / 2
            if divergence == 'forward':
                total = total + one * (one / other).log()
            elif divergence == 'reverse':
                total = total + other * (other / one).log()
            else:
                total = total + one * (one / mean).log() / 2 + other * (other / mean).log() / 2
    return total * temperature**2 / len(s)


@pytest.mark.parametrize('temperature', [1.0, 2.5])
@pytest.mark.parametrize('divergence', ['forward', 'reverse', 'jsd'])
def test_divergences_equal_the_loop_with_their_gradients(divergence, temperature):
    s, t, _ = pair()
    s = s.detach().double().requires_grad_()
    loss = kd_loss(s, t.double(), temperature, divergence)
    expected = looped(s, t, temperature, divergence)
    assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    grads = [torch.autograd.grad(value, s)[0] for value in (loss, expected)]
    assert_close(*grads, rtol=1e-8, atol=1e-10)
    assert_close(kd_loss(s, s.detach(), temperature, divergence).item(), 0.0, atol=1e-12, rtol=0)


def test_models_that_exclude_each_other():
    """Sure of other classes: JSD is log 2, the KLs the distance of the logits; all are finite."""
    s, t = torch.tensor([[90.0, 0.0]]), torch.tensor([[0.0, 90.0]])
    assert_close(kd_loss(s, t, divergence='jsd'), torch.tensor(2.0).log())
    for divergence in ('forward', 'reverse'):
        assert_close(kd_loss(s, t, divergence=divergence), torch.tensor(90.0))
    assert kd_loss(s[:0], t[:0], divergence='jsd') == 0


def test_half_precision_logits_are_widened():
    s, t, y = pair()
    for loss in (nkd_loss(s.bfloat16(), t.bfloat16(), y), kd_loss(s.bfloat16(), t.bfloat16())):
        assert loss.dtype == torch.float32


def test_mixed_labels_count_as_their_largest_part():
    mixed = torch.tensor([[0.1, 0.6, 0.3], [0.0, 0.0, 1.0]])
    assert hard_labels(mixed).tolist() == [1, 2]
    assert hard_labels(torch.tensor([2, 0])).tolist() == [2, 0]
