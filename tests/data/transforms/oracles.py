"""Operations of RandAugment as Pillow (through timm) and mmpretrain have them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from timm.data import auto_augment as timm_ops

from shd_vit.data.transforms.randaugment import Policy

Op = Callable[[np.ndarray], np.ndarray]
PAD = (124, 116, 104)
VALUE_FIELDS = {'Rotate': 'angle', 'Posterize': 'bits', 'Solarize': 'thr'}


class Case(NamedTuple):
    """One operation with one value; each function makes an RGB image from an RGB image."""

    name: str
    value: float
    ours: Op
    pillow: Op
    mmpretrain: Op


def on_pillow(function: Callable, *args, **kwargs) -> Op:
    return lambda image: np.array(function(Image.fromarray(image), *args, **kwargs))


def _pillow(kind: str, value: float, direction: str) -> Op:
    warp = dict(resample=Image.BICUBIC, fillcolor=PAD)
    x = direction == 'horizontal'
    return {
        'AutoContrast': lambda: on_pillow(timm_ops.auto_contrast),
        'Equalize': lambda: on_pillow(timm_ops.equalize),
        'Invert': lambda: on_pillow(timm_ops.invert),
        'Posterize': lambda: on_pillow(timm_ops.posterize, math.ceil(value)),
        'Solarize': lambda: on_pillow(timm_ops.solarize, value),
        'SolarizeAdd': lambda: on_pillow(timm_ops.solarize_add, math.floor(value)),
        'ColorTransform': lambda: on_pillow(timm_ops.color, 1 + value),
        'Contrast': lambda: on_pillow(timm_ops.contrast, 1 + value),
        'Brightness': lambda: on_pillow(timm_ops.brightness, 1 + value),
        'Sharpness': lambda: on_pillow(timm_ops.sharpness, 1 + value),
        # mmpretrain's signs are the opposite of Pillow's.
        'Rotate': lambda: on_pillow(timm_ops.rotate, -value, **warp),
        'Shear': lambda: on_pillow(timm_ops.shear_x if x else timm_ops.shear_y, -value, **warp),
        'Translate': lambda: on_pillow(
            timm_ops.translate_x_rel if x else timm_ops.translate_y_rel, -value, **warp
        ),
    }[kind]()


def case(kind: str, value: float | None = None, direction: str = 'horizontal') -> Case:
    """One operation that is always applied, without a random sign."""
    cfg = dict(type=kind, prob=1.0)
    if value is not None:
        cfg[VALUE_FIELDS.get(kind, 'magnitude')] = value
    if kind in ('Rotate', 'Shear', 'Translate'):
        cfg.update(pad_val=PAD, interpolation='bicubic')
    if kind in ('Shear', 'Translate'):
        cfg['direction'] = direction
    if kind not in ('AutoContrast', 'Equalize', 'Invert', 'Posterize', 'Solarize', 'SolarizeAdd'):
        cfg['random_negative_prob'] = 0.0
    policy = Policy(cfg, {}, (9, 0, 10), 'rgb')
    reference = TRANSFORMS.build(cfg)
    axis = {'horizontal': 'X', 'vertical': 'Y'}[direction] if 'direction' in cfg else ''

    def mmpretrain(image):  # which takes BGR; the warps treat channels alike
        if 'pad_val' in cfg:
            return reference({'img': image.copy()})['img']
        flipped = np.ascontiguousarray(image[..., ::-1])
        return np.ascontiguousarray(reference({'img': flipped})['img'][..., ::-1])

    return Case(
        kind + axis,
        0.0 if value is None else value,
        lambda image: policy.apply(image.copy(), 0.0 if value is None else float(value)),
        _pillow(kind, value, direction),
        mmpretrain,
    )


def cases() -> Iterator[Case]:
    """The fifteen operations, over the values that the recipe can draw."""
    for kind in ('AutoContrast', 'Equalize', 'Invert'):
        yield case(kind)
    for bits in (0.4, 1, 1.7, 3, 4):
        yield case('Posterize', bits)
    for threshold in (0, 0.5, 25.6, 100, 256):
        yield case('Solarize', threshold)
    for addend in (0, 33.3, 99, 110):
        yield case('SolarizeAdd', addend)
    for kind in ('ColorTransform', 'Contrast', 'Brightness', 'Sharpness'):
        for value in (-0.9, -0.81, -0.33, 0, 0.27, 0.7654321, 0.9):
            yield case(kind, value)
    for angle in (-30, -27.3, -11, -0.1, 0, 0.7, 5, 26.9, 30, 90, 135):
        yield case('Rotate', angle)
    for direction in ('horizontal', 'vertical'):
        for value in (-0.3, -0.2701, -0.01, 0, 0.1234, 0.27, 0.3):
            yield case('Shear', value, direction)
        for value in (-0.45, -0.41, -0.003, 0, 0.25, 0.4021, 0.45, 1.2):
            yield case('Translate', value, direction)
