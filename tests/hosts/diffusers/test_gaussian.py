"""The denoising loss against float64 loops, written from the papers' equations and ADM's code."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from hosts.diffusers.dits import ddpm
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.hosts.diffusers import DenoisingLoss

T = 1000
TIMES = [0, 1, 2, 500, 999]


def betas():
    """Linear, 1e-4 to 2e-2."""
    return [1e-4 + (2e-2 - 1e-4) * t / (T - 1) for t in range(T)]


def kept(t):
    """alpha bar of t; 1 before the first."""
    return math.prod(1 - beta for beta in betas()[: t + 1])


def normal_cdf(x):
    return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def bound_of_element(x0, xt, epsilon, v, t):
    """One term of the bound in bits: q's posterior (DDPM, Eqs. 6, 7), its KL (Eq. 5) and, at t = 0,
    the likelihood of 256 levels (Eq. 13); log variance by improved DDPM's Eq. 15."""
    beta, now, before = betas()[t], kept(t), kept(t - 1)
    posterior = beta * (1 - before) / (1 - now)
    if t == 0:  # it is 0: ADM clips it to that of t = 1
        posterior = betas()[1] * (1 - kept(0)) / (1 - kept(1))
    log_variance = (v + 1) / 2 * math.log(beta) + (1 - (v + 1) / 2) * math.log(posterior)
    predicted = (xt - math.sqrt(1 - now) * epsilon) / math.sqrt(now)

    def mean_of(clean):
        a = math.sqrt(before) * beta / (1 - now)
        b = math.sqrt(1 - beta) * (1 - before) / (1 - now)
        return a * clean + b * xt

    mean = mean_of(predicted)
    if t > 0:
        kl = -1 + log_variance - math.log(posterior) + math.exp(math.log(posterior) - log_variance)
        kl = 0.5 * (kl + (mean_of(x0) - mean) ** 2 * math.exp(-log_variance))
        return kl / math.log(2)
    std = math.exp(0.5 * log_variance)
    above = normal_cdf((x0 - mean + 1 / 255) / std)
    below = normal_cdf((x0 - mean - 1 / 255) / std)
    if x0 < -0.999:
        likelihood = above
    elif x0 > 0.999:
        likelihood = 1 - below
    else:
        likelihood = above - below
    return -math.log(max(likelihood, 1e-12)) / math.log(2)


def drawn(t):
    """x_0 with both ends of its range, x_t, a prediction near the noise, and a variance."""
    torch.manual_seed(t)
    x0 = torch.rand(1, 2, 2, 3, dtype=torch.float64) * 2 - 1
    x0[0, 0, 0, 0], x0[0, 0, 0, 1] = -1, 1
    noise = torch.randn_like(x0)
    xt = math.sqrt(kept(t)) * x0 + math.sqrt(1 - kept(t)) * noise
    return x0, noise, xt, noise + 0.1 * torch.randn_like(x0), torch.rand_like(x0) * 2.4 - 1.2


@pytest.mark.parametrize('t', TIMES)
def test_the_bound_is_that_of_the_equations(t):
    x0, _, xt, epsilon, v = drawn(t)
    flat = (x.flatten().tolist() for x in (x0, xt, epsilon, v))
    expected = sum(bound_of_element(*values, t) for values in zip(*flat, strict=True)) / x0.numel()
    loss = DenoisingLoss(ddpm())
    found = loss.bound(epsilon, v, x0, xt, torch.tensor([t]))
    # The library's betas are float32.
    assert_close(found.item(), expected, rtol=1e-4, atol=1e-7)


def test_the_bound_teaches_the_variance_alone():
    loss, t = DenoisingLoss(ddpm()), torch.tensor(TIMES)
    x0, noise = torch.rand(5, 2, 4, 4) * 2 - 1, torch.randn(5, 2, 4, 4)
    output = torch.randn(5, 4, 4, 4, requires_grad=True)
    noisy = loss.noisy(x0, noise, t)
    terms = loss.terms(output, x0, noise, noisy, t)
    (of_bound,) = torch.autograd.grad(terms['vb'], output, retain_graph=True)
    assert (of_bound[:, :2] == 0).all() and (of_bound[:, 2:] != 0).any(dim=(1, 2, 3)).all()
    (of_error,) = torch.autograd.grad(terms['mse'], output)
    assert (of_error[:, 2:] == 0).all() and (of_error[:, :2] != 0).all()


def test_the_gradient_of_the_bound_is_its_difference_quotient():
    loss = DenoisingLoss(ddpm())
    for t in TIMES:
        x0, _, xt, epsilon, v = drawn(t)
        times = torch.tensor([t])
        assert torch.autograd.gradcheck(
            lambda v, s=(x0, xt, epsilon, times): loss.bound(s[2], v, s[0], s[1], s[3]),
            v.requires_grad_(),
        )


@pytest.mark.parametrize('kind', ['epsilon', 'v_prediction', 'sample'])
@pytest.mark.parametrize('gamma', [None, 5.0])
def test_targets_and_min_snr_weights(kind, gamma):
    """Min-SNR (arXiv 2303.09556, Sec. 3.4): min(SNR, gamma) of the error in x_0, so over SNR for
    epsilon and over SNR + 1 for v."""
    loss = DenoisingLoss(DDPMScheduler(prediction_type=kind), gamma)
    t, x0, noise = torch.tensor(TIMES), torch.randn(5, 2, 3, 3), torch.randn(5, 2, 3, 3)
    output = torch.randn(5, 2, 3, 3)
    expected = 0.0
    for n, time in enumerate(TIMES):
        a, s = math.sqrt(kept(time)), math.sqrt(1 - kept(time))
        target = dict(epsilon=noise[n], sample=x0[n], v_prediction=a * noise[n] - s * x0[n])[kind]
        weight, snr = 1.0, (a / s) ** 2
        if gamma is not None:
            over = dict(epsilon=snr, sample=1, v_prediction=snr + 1)[kind]
            weight = min(snr, gamma) / over
        expected += weight * (output[n] - target).square().mean().item() / 5
    noisy = loss.noisy(x0, noise, t)
    terms = loss.terms(output, x0, noise, noisy, t)
    assert list(terms) == ['mse']
    assert_close(terms['mse'].item(), expected, rtol=1e-3, atol=1e-6)
    perfect = loss.target(x0, noise, t)
    assert_close(loss.clean_of(perfect, noisy, t), x0, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('t', TIMES[1:])
def test_the_range_of_the_variance_is_the_samplers(t):
    """diffusers' DDPM, which samples with what is learned here."""
    scheduler, loss = ddpm(), DenoisingLoss(ddpm())
    for name, v in (('least_log_variance', -1.0), ('most_log_variance', 1.0)):
        theirs = scheduler._get_variance(t, predicted_variance=torch.tensor(v))
        assert_close(loss._tables[name][t].float(), theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    'scheduler, message',
    [
        (lambda: DPMSolverMultistepScheduler(), 'scheduler is DPMSolverMultistepScheduler'),
        (lambda: DDIMScheduler(rescale_betas_zero_snr=True), 'leaves no signal'),
    ],
)
def test_other_schedulers_are_refused(scheduler, message):
    with pytest.raises(ConfigError, match=message):
        DenoisingLoss(scheduler())


@pytest.mark.parametrize('gamma', [0, -1, math.nan, math.inf, '5', True])
def test_gamma_is_a_number_above_0(gamma):
    with pytest.raises(ConfigError, match=r'min_snr_gamma=.* above 0'):
        DenoisingLoss(ddpm(), gamma)


def test_outputs_of_other_widths_are_refused():
    loss, x = DenoisingLoss(ddpm()), torch.zeros(1, 2, 4, 4)
    with pytest.raises(ConfigError, match='gives 3 channels for latents of 2: expected 2, or 4'):
        loss.terms(torch.zeros(1, 3, 4, 4), x, x, x, torch.tensor([1]))
