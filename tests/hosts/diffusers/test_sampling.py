"""Sampling against closed forms: a model that knows the only picture there is, and guidance."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hosts.diffusers.dits import dit
from torch import nn
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.hosts.diffusers import Guidance, sample

PICTURES = torch.stack([torch.linspace(-1, 1, 32).view(2, 4, 4), torch.full((2, 4, 4), 0.25)])


class Knows(nn.Module):
    """The best model of a data set with one picture a class: what noise must have been added."""

    def __init__(self, scheduler, sigma=False):
        super().__init__()
        self.kept, self.kind = scheduler.alphas_cumprod, scheduler.config.prediction_type
        self.sigma = sigma
        self.embedder = nn.Module()
        self.embedder.embedding_table = nn.Embedding(3, 4)
        self.embedder.num_classes, self.embedder.dropout_prob = 2, 0.0

    def forward(self, x, timestep, class_labels, return_dict):
        known = torch.cat([PICTURES, PICTURES.mean(0, keepdim=True)])[class_labels]
        kept = self.kept[timestep].view(-1, 1, 1, 1)
        noise = (x - kept.sqrt() * known) / (1 - kept).sqrt()
        out = dict(
            epsilon=noise,
            sample=known,
            v_prediction=kept.sqrt() * noise - (1 - kept).sqrt() * known,
        )[self.kind]
        return (torch.cat([out, torch.zeros_like(out)], dim=1) if self.sigma else out,)


@pytest.mark.parametrize('kind', ['epsilon', 'v_prediction', 'sample'])
@pytest.mark.parametrize('sampler', [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize('sigma', [False, True])
def test_the_only_picture_of_a_class_is_drawn(sampler, kind, sigma):
    variance = dict(variance_type='learned_range') if sigma else {}
    trained = DDPMScheduler(prediction_type=kind, clip_sample=False, **variance)
    scheduler = sampler.from_config(trained.config)
    noise, labels = torch.randn(4, 2, 4, 4), torch.tensor([0, 1, 1, 0])
    drawn = sample(Knows(scheduler, sigma).eval(), scheduler, noise, labels, steps=50)
    assert_close(drawn, PICTURES[labels], rtol=0, atol=0.02)


def test_guidance_leads_beyond_the_class_away_from_none():
    """With x_0 as the prediction, the end is w * picture + (1 - w) * the mean of both."""
    scheduler = DDIMScheduler(prediction_type='sample', clip_sample=False)
    noise, labels = torch.randn(2, 2, 4, 4), torch.tensor([0, 1])
    mean = PICTURES.mean(0, keepdim=True)
    drawn = sample(Knows(scheduler).eval(), scheduler, noise, labels, 10, Guidance(3.0))
    assert_close(drawn, 3 * PICTURES - 2 * mean, rtol=0, atol=1e-4)
    drawn = sample(Knows(scheduler).eval(), scheduler, noise, labels, 10, Guidance(3.0, channels=1))
    assert_close(drawn[:, :1], (3 * PICTURES - 2 * mean)[:, :1], rtol=0, atol=1e-4)
    assert_close(drawn[:, 1:], PICTURES[:, 1:], rtol=0, atol=1e-4)
    plain = sample(Knows(scheduler).eval(), scheduler, noise, labels, 10)
    assert_close(plain, PICTURES, rtol=0, atol=1e-4)


@pytest.mark.parametrize('t', [0, 1, 250, 600, 999, 1000])
def test_guidance_by_a_power_of_a_cosine(t):
    """MDT (arXiv 2303.14389, Sec. 3.4): w_t = (1 - cos pi (1 - t / T)^s) / 2 * w, above 1 here."""
    expected = 1 + 2.8 * (1 - math.cos(math.pi * ((1000 - t) / 1000) ** 4)) / 2
    assert Guidance(3.8, power=4.0).at(t, 1000) == pytest.approx(expected, rel=1e-12)
    assert Guidance(3.8).at(t, 1000) == 3.8


def test_a_variance_that_is_learned_is_used_by_ddpm():
    class Varies(Knows):
        def forward(self, x, *args, **kwargs):
            (out,) = super().forward(x, *args, **kwargs)
            out[:, 2:] = self.level
            return (out,)

    spreads = []
    for level in (-1.0, 1.0):
        scheduler = DDPMScheduler(variance_type='learned_range', clip_sample=False)
        model = Varies(scheduler, sigma=True)
        model.level = level
        scheduler.set_timesteps(1000)
        x, t = torch.zeros(2000, 2, 4, 4), torch.tensor(1)
        output = model(x, t.expand(2000), torch.zeros(2000).long(), return_dict=False)[0]
        spreads.append(scheduler.step(output, t, x).prev_sample.std(0).mean().item())
    beta = scheduler.betas[1].item()
    least = beta * (1 - scheduler.alphas_cumprod[0]) / (1 - scheduler.alphas_cumprod[1])
    assert spreads == pytest.approx([math.sqrt(least), math.sqrt(beta)], rel=0.02)


def test_the_same_noise_gives_the_same_picture_in_any_batch():
    model, scheduler = dit(sigma=False).eval(), DDIMScheduler()
    noise, labels = torch.randn(4, 2, 8, 8), torch.tensor([0, 1, 2, 3])
    both = sample(model, scheduler, noise, labels, 5, Guidance(2.0))
    single = sample(model, scheduler, noise[2:3], labels[2:3], 5, Guidance(2.0))
    assert_close(both[2:3], single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(steps=1001), r'steps=1001 must be .* at most 1000'),
        (dict(steps=0), 'steps=0'),
        (dict(labels=torch.tensor([5])), 'label 5 must be between 0 and 4'),
        (dict(labels=None), 'labels=None'),
        (dict(guidance=Guidance(math.nan)), r'guidance.scale=nan'),
        (dict(guidance=Guidance(2.0, power=0)), r'guidance.power=0'),
        (dict(guidance=Guidance(2.0, channels=1.5)), r'guidance.channels=1.5'),
    ],
)
def test_what_cannot_be_sampled_is_refused(change, message):
    given = dict(noise=torch.randn(1, 2, 8, 8), labels=torch.tensor([0]), steps=2)
    with pytest.raises(ConfigError, match=message):
        sample(dit(sigma=False).eval(), DDIMScheduler(), **{**given, **change})


def test_a_model_that_would_drop_labels_is_refused():
    with pytest.raises(ConfigError, match='in training mode'):
        sample(dit(), DDIMScheduler(), torch.randn(1, 2, 8, 8), torch.tensor([0]), 2)


def test_guidance_without_a_null_class_is_refused():
    model = dit(sigma=False).eval()
    for block in model.transformer_blocks:
        block.norm1.emb.class_embedder.embedding_table = nn.Embedding(5, 16)
    noise, labels = torch.randn(1, 2, 8, 8), torch.tensor([0])
    with pytest.raises(ConfigError, match=r'guidance=2 needs a null class'):
        sample(model, DDIMScheduler(), noise, labels, 2, Guidance(2.0))
    assert sample(model, DDIMScheduler(), noise, labels, 2).shape == noise.shape


def test_samples_that_are_not_finite_are_refused():
    model = dit(sigma=False).eval()
    nn.init.constant_(model.proj_out_2.bias, math.nan)
    with pytest.raises(ConfigError, match='128 values of the samples are not finite'):
        sample(model, DDIMScheduler(), torch.randn(1, 2, 8, 8), torch.tensor([0]), 2)
