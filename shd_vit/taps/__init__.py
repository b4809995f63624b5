"""Attention taps: q, k, v of any registered attention family, with fused kernels left on.

Needs torch alone.
"""

from shd_vit.taps import families  # noqa: F401  (registers the known families)
from shd_vit.taps.anatomy import Anatomy
from shd_vit.taps.bank import TapBank
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import FINAL, AttentionTap, Captured, TokenTap, select_heads

__all__ = [
    'ATTENTION_TAPS',
    'FINAL',
    'Anatomy',
    'AttentionFamily',
    'AttentionTap',
    'Captured',
    'TapBank',
    'TokenTap',
    'select_heads',
]
