"""Who learns from whom: layers, tokens, and what is recorded of both models."""

from shd_vit.pairing.layers import (
    Pair,
    Pairs,
    check_attended_tokens,
    check_layers,
    layer_pairs,
    uniform_pairs,
)
from shd_vit.pairing.outputs import ModelOutput, Needs
from shd_vit.pairing.tokens import TOKENS, TokenAlignment, align_tokens, same_prefix

__all__ = [
    'TOKENS',
    'ModelOutput',
    'Needs',
    'Pair',
    'Pairs',
    'TokenAlignment',
    'align_tokens',
    'check_attended_tokens',
    'check_layers',
    'layer_pairs',
    'same_prefix',
    'uniform_pairs',
]
