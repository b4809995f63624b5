"""Attention taps: q, k, v of any registered attention family, with fused kernels left on.

Needs torch alone.
"""

from shd_vit.taps import families  # noqa: F401  (registers the known families)
from shd_vit.taps.anatomy import Anatomy
from shd_vit.taps.bank import FINAL, Captured, TapBank, TokenTap
from shd_vit.taps.registry import ATTENTION_TAPS, AttentionFamily, AttentionTap

__all__ = [
    'ATTENTION_TAPS',
    'FINAL',
    'Anatomy',
    'AttentionFamily',
    'AttentionTap',
    'Captured',
    'TapBank',
    'TokenTap',
]
