"""What the shapes of a vision transformer's weights do not tell, read from a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shd_vit.errors import ConfigError
from shd_vit.image_input import image_shape

# By timm's names.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    'gelu': F.gelu,
    'gelu_tanh': partial(F.gelu, approximate='tanh'),
    'quick_gelu': lambda x: x * torch.sigmoid(1.702 * x),
}
POOLS = ('token', 'avg')


class Facts(NamedTuple):
    """What computes with the weights, beside them.

    Attributes:
        heads: Of an attention layer.
        activation: Of the MLP, a key of ``ACTIVATIONS``.
        pool: What the classifier reads: 'token', the class token; 'avg', the mean of the patches.
        image_size: (h, w) in pixels.
        epsilon: Of LayerNorm.
    """

    heads: int
    activation: str
    pool: str
    image_size: tuple[int, int]
    epsilon: float = 1e-6

    def __str__(self) -> str:
        height, width = self.image_size
        return f'{self.heads} heads, {self.activation}, {self.pool} pooling, {height} x {width} px'


def facts_of(model: nn.Module) -> Facts:
    """Read a vision transformer of timm, mmpretrain or Hugging Face.

    Raises:
        ConfigError: If it is none of them, or has an activation or a pooling of another kind.
    """
    inner = unwrapped(model)
    if hasattr(inner, 'config'):
        from transformers.activations import ACT2FN

        heads, epsilon = inner.config.num_attention_heads, inner.config.layer_norm_eps
        activation, pool = ACT2FN[inner.config.hidden_act], 'token'
    elif hasattr(inner, 'backbone') and hasattr(inner.backbone, 'layers'):
        first = inner.backbone.layers[0]
        heads, activation, epsilon = first.attn.num_heads, first.ffn.layers[0][1], first.ln1.eps
        pool = inner.backbone.out_type.replace('cls_token', 'token').replace('avg_featmap', 'avg')
    elif hasattr(inner, 'blocks') and hasattr(inner, 'global_pool'):
        first, pool = inner.blocks[0], inner.global_pool
        heads, activation, epsilon = first.attn.num_heads, first.mlp.act, first.norm1.eps
    else:
        raise ConfigError(
            f'{type(inner).__name__} is no vision transformer of timm, mmpretrain or Hugging Face'
        )
    if pool not in POOLS:
        raise ConfigError(f'pool={pool!r} of {type(inner).__name__} must be one of {POOLS}')
    return Facts(heads, _name(activation), pool, image_shape(inner)[1:], epsilon)


def unwrapped(model: nn.Module) -> Any:
    """The library's model inside mmpretrain's TimmClassifier or HuggingFaceClassifier."""
    is_wrapper = type(model).__name__ in ('TimmClassifier', 'HuggingFaceClassifier')
    return model.model if is_wrapper else model


def _name(activation: Callable[[Tensor], Tensor]) -> str:
    """By what it computes: libraries have several classes for one function."""
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    for name, function in ACTIVATIONS.items():
        if torch.allclose(activation(x.clone()), function(x), rtol=0, atol=1e-9):
            return name
    raise ConfigError(
        f'activation {type(activation).__name__} must compute one of {tuple(ACTIVATIONS)}'
    )
