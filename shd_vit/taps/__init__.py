"""Attention taps: q, k, v of any registered attention family, with fused kernels left on.

Needs torch alone.
"""

from shd_vit.taps import families  # noqa: F401  (registers the known families)
from shd_vit.taps.anatomy import Anatomy
from shd_vit.taps.bank import TapBank
from shd_vit.taps.family import ATTENTION_TAPS, AttentionFamily
from shd_vit.taps.tap import (
    FINAL,
    NO_WEIGHT,
    AttentionTap,
    Captured,
    TokenTap,
    select_heads,
)
from shd_vit.taps.tokens import Segment

__all__ = [
    'ATTENTION_TAPS',
    'FINAL',
    'NO_WEIGHT',
    'Anatomy',
    'AttentionFamily',
    'AttentionTap',
    'Captured',
    'Segment',
    'TapBank',
    'TokenTap',
    'select_heads',
]
