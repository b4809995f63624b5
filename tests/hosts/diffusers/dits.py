"""Tiny diffusion transformers of diffusers, and a batch for them."""

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel
from torch import nn

SHD = dict(type='SHDLoss', compile=False)


def dit(heads=2, layers=2, seed=0, sigma=True, **config):
    """Without zeros in its weights, as adaLN-Zero has them, so that nothing is hidden."""
    torch.manual_seed(seed)
    sizes = dict(in_channels=2, sample_size=8, patch_size=2, num_embeds_ada_norm=5)
    model = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=8,
        num_layers=layers,
        **{**sizes, 'out_channels': 4 if sigma else 2, **config},
    )
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


def ddpm(**config):
    return DDPMScheduler(**{'variance_type': 'learned_range', **config})


def batch(size=3):
    return torch.randn(size, 2, 8, 8), torch.arange(size) % 5
