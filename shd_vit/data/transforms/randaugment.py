"""RandAugment (arXiv 1909.13719) with mmpretrain's parameters and Pillow's pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

import numpy as np

from shd_vit.data.transforms.base import (
    FFCV_TRANSFORMS,
    Transform,
    as_image,
    check_probability,
    refuse,
    small_image,
    triple,
)
from shd_vit.data.transforms.kernels import color, histogram, warp
from shd_vit.data.transforms.kernels.rotate import rotate

# ITU-R 601 luminance, in 1/65536.
LUMA = {'rgb': (19595, 38470, 7471), 'bgr': (7471, 38470, 19595)}

# The policies that mmpretrain calls by this name, timm's `rand-...-inc1`.
TIMM_INCREASING = (
    dict(type='AutoContrast'),
    dict(type='Equalize'),
    dict(type='Invert'),
    dict(type='Rotate', magnitude_range=(0, 30)),
    dict(type='Posterize', magnitude_range=(4, 0)),
    dict(type='Solarize', magnitude_range=(256, 0)),
    dict(type='SolarizeAdd', magnitude_range=(0, 110)),
    dict(type='ColorTransform', magnitude_range=(0, 0.9)),
    dict(type='Contrast', magnitude_range=(0, 0.9)),
    dict(type='Brightness', magnitude_range=(0, 0.9)),
    dict(type='Sharpness', magnitude_range=(0, 0.9)),
    dict(type='Shear', magnitude_range=(0, 0.3), direction='horizontal'),
    dict(type='Shear', magnitude_range=(0, 0.3), direction='vertical'),
    dict(type='Translate', magnitude_range=(0, 0.45), direction='horizontal'),
    dict(type='Translate', magnitude_range=(0, 0.45), direction='vertical'),
)


# Positive angles turn clockwise and positive shifts go right and down, as mmpretrain's; Pillow's
# own arguments are of the opposite sign.
def _rotate(image, value, policy):
    return rotate(image, -value, policy.fill)


def _shear(image, value, policy):
    kernel = warp.shift_rows if policy.horizontal else warp.shift_columns
    return kernel(image, -value, 0.0, policy.fill)


def _translate(image, value, policy):
    kernel = warp.shift_rows if policy.horizontal else warp.shift_columns
    return kernel(image, 0.0, -value * image.shape[1 if policy.horizontal else 0], policy.fill)


def _posterize(image, value, policy):
    # No bits at all, from a level of exactly 10, make a black image, as mmpretrain's do.
    return color.posterize(image, 256 - (1 << (8 - math.ceil(value))))


def _solarize_add(image, value, policy):
    return color.solarize_add(image, math.floor(value), math.ceil(policy.threshold))


class _Op(NamedTuple):
    """One type of policy.

    Attributes:
        run: (image, value, policy) -> image.
        value: The field that gives a constant value instead of a ``magnitude_range``, if any.
        signed: Whether the value's sign is random.
        fields: Defaults of further fields.
    """

    run: Callable[[np.ndarray, float, Policy], np.ndarray]
    value: str | None = None
    signed: bool = False
    fields: dict[str, Any] = {}


_WARP = dict(pad_val=128, interpolation='nearest')
OPS = {
    'AutoContrast': _Op(lambda image, value, policy: histogram.auto_contrast(image)),
    'Equalize': _Op(lambda image, value, policy: histogram.equalize(image)),
    'Invert': _Op(lambda image, value, policy: color.invert(image)),
    'Rotate': _Op(_rotate, 'angle', True, _WARP),
    'Posterize': _Op(_posterize, 'bits'),
    'Solarize': _Op(lambda image, value, policy: color.solarize(image, math.ceil(value)), 'thr'),
    'SolarizeAdd': _Op(_solarize_add, 'magnitude', False, dict(thr=128)),
    'ColorTransform': _Op(
        lambda image, value, policy: color.saturation(image, 1 + value, policy.luma),
        'magnitude',
        True,
    ),
    'Contrast': _Op(
        lambda image, value, policy: color.contrast(image, 1 + value, policy.luma),
        'magnitude',
        True,
    ),
    'Brightness': _Op(
        lambda image, value, policy: color.brightness(image, 1 + value), 'magnitude', True
    ),
    'Sharpness': _Op(
        lambda image, value, policy: color.sharpness(image, 1 + value), 'magnitude', True
    ),
    'Shear': _Op(
        _shear, 'magnitude', True, dict(_WARP, interpolation='bicubic', direction='horizontal')
    ),
    'Translate': _Op(_translate, 'magnitude', True, dict(_WARP, direction='horizontal')),
}
HPARAMS = {'prob', 'random_negative_prob', *(field for op in OPS.values() for field in op.fields)}


class Policy:
    """One operation of RandAugment with its magnitudes.

    Args:
        cfg: A policy dict of mmpretrain.
        hparams: Values of fields that ``cfg`` leaves open.
        level: ``magnitude_level``, ``magnitude_std`` and ``total_level``.
        channel_order: 'rgb' or 'bgr'.
    """

    luma: Any

    def __init__(
        self, cfg: dict, hparams: dict, level: tuple[float, Any, float], channel_order: str
    ) -> None:
        cfg = dict(cfg)
        name = cfg.pop('type', None)
        if name not in OPS:
            refuse('RandAugment', 'policies', name, f'types of policies {sorted(OPS)}')
        self.op = op = OPS[name]
        fields = dict(op.fields, prob=0.5)
        if op.signed:
            fields['random_negative_prob'] = 0.5
        known = {*fields, *((op.value, 'magnitude_range') if op.value else ())}
        for field in cfg:
            if field not in known:
                refuse(name, field, cfg[field], f'no such field, only {sorted(known)}')
        fields.update({field: hparams[field] for field in hparams if field in known}, **cfg)
        self.level, self.std, self.total = level
        self.value, self.range = fields.get(op.value or '', 0.0), fields.get('magnitude_range')
        if op.value and (self.range is None) == (op.value not in fields):
            refuse(name, op.value, self.value, f'either {op.value} or magnitude_range')
        if self.range is not None and len(self.range) != 2:
            refuse(name, 'magnitude_range', self.range, 'two numbers')
        self.prob = check_probability(name, 'prob', fields['prob'])
        self.negative = check_probability(
            name, 'random_negative_prob', fields.get('random_negative_prob', 0.0)
        )
        if fields.get('interpolation', 'bicubic') != 'bicubic':
            refuse(name, 'interpolation', fields['interpolation'], "'bicubic'")
        direction = fields.get('direction', 'horizontal')
        if direction not in ('horizontal', 'vertical'):
            refuse(name, 'direction', direction, "'horizontal' or 'vertical'")
        self.horizontal = direction == 'horizontal'
        self.threshold = fields.get('thr', 128)
        self.fill = triple(name, 'pad_val', fields.get('pad_val', 0))
        if not all(isinstance(x, int) and 0 <= x <= 255 for x in self.fill):
            refuse(name, 'pad_val', fields['pad_val'], 'ints from 0 to 255')
        self.luma = LUMA[channel_order]

    def draw(self, rng: Random) -> float | None:
        """The operation's value; None if it is not applied."""
        if rng.random() > self.prob:
            return None
        value = self.value
        if self.range is not None:
            level = self.level
            if self.std == 'inf':
                level = rng.uniform(0, level)
            elif self.std > 0:
                level = min(max(rng.gauss(level, self.std), 0), self.total)
            first, last = self.range
            value = first + level / self.total * (last - first)
        return -float(value) if rng.random() < self.negative else float(value)

    def apply(self, image: np.ndarray, value: float) -> np.ndarray:
        return self.op.run(image, value, self)


@FFCV_TRANSFORMS.register_module()
class RandAugment(Transform):
    """``num_policies`` operations, drawn with replacement, each applied with its own probability.

    Args:
        policies: 'timm_increasing', or policy dicts of those types.
        num_policies: Operations an image.
        magnitude_level: Mean level; level / ``total_level`` is the place in a magnitude range.
        magnitude_std: Standard deviation of the level, which is then clipped to 0 and
            ``total_level``; 'inf' draws it uniformly from 0 to ``magnitude_level``.
        total_level: Level of the end of the ranges.
        hparams: Fields for all policies that have them: ``pad_val``, ``interpolation``.
        channel_order: 'rgb' or 'bgr'.
    """

    def __init__(
        self,
        policies: str | Sequence[dict],
        num_policies: int,
        magnitude_level: float,
        magnitude_std: float | str = 0.0,
        total_level: float = 10,
        hparams: dict | None = None,
        channel_order: str = 'rgb',
    ) -> None:
        name = 'RandAugment'
        if isinstance(policies, str):
            if policies != 'timm_increasing':
                refuse(name, 'policies', policies, "'timm_increasing' or a list of dicts")
            policies = TIMM_INCREASING
        if not isinstance(num_policies, int) or num_policies < 1:
            refuse(name, 'num_policies', num_policies, 'an int from 1 on')
        if magnitude_level < 0:
            refuse(name, 'magnitude_level', magnitude_level, 'a number from 0 on')
        if isinstance(magnitude_std, str) and magnitude_std != 'inf':
            refuse(name, 'magnitude_std', magnitude_std, "a number or 'inf'")
        if total_level <= 0:
            refuse(name, 'total_level', total_level, 'a number above 0')
        if channel_order not in LUMA:
            refuse(name, 'channel_order', channel_order, "'rgb' or 'bgr'")
        level = magnitude_level, magnitude_std, total_level
        hparams = dict(pad_val=128) if hparams is None else hparams
        unknown = set(hparams) - HPARAMS
        if unknown:
            refuse(name, 'hparams', hparams, f'fields {sorted(HPARAMS)}')
        self.policies = [Policy(cfg, hparams, level, channel_order) for cfg in policies]
        self.num_policies = num_policies

    def draw(self, rng: Random, height: int, width: int) -> tuple[tuple[int, float], ...]:
        """(index of the policy, its value) of each operation to apply."""
        drawn = []
        for _ in range(self.num_policies):
            index = rng.randrange(len(self.policies))
            value = self.policies[index].draw(rng)
            if value is not None:
                drawn.append((index, value))
        return tuple(drawn)

    def warm_up(self):
        for policy in self.policies:
            policy.apply(small_image(), 0.5)

    def apply(self, image, *drawn):
        image = as_image(image)
        for index, value in drawn:
            image = self.policies[index].apply(image, value)
        return image
