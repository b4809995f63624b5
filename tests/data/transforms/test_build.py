"""Configs, errors and the contract with a loader."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import pytest
from data.recipe import recipe

pytest.importorskip('numba')

from shd_vit.data.transforms import (
    FFCV_TRANSFORMS,
    RandAugment,
    Transform,
    build_transforms,
    warm_up,
)
from shd_vit.errors import ConfigError

RECIPE = recipe()
IMAGE = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)


def run(transforms, seed):
    image, rng = IMAGE.copy(), Random(seed)
    for transform in transforms:
        image = transform(image, rng)
    return image


def test_pixels_depend_on_the_seed_alone():
    transforms = build_transforms(RECIPE, 'bgr')
    expected = [run(transforms, seed) for seed in range(40)]
    assert all(image.shape == (224, 224, 3) and image.flags.c_contiguous for image in expected)
    assert len({image.tobytes() for image in expected}) == 40
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda seed: run(build_transforms(RECIPE, 'bgr'), seed), range(40)))
    for ours, theirs in zip(again, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_kernels_are_compiled_once():
    """Whatever is drawn, arguments have the types that warm_up compiled for."""
    from shd_vit.data.transforms.kernels import color, histogram, noise, rotate, warp

    transforms = build_transforms(RECIPE)
    assert warm_up(transforms) > 0
    kernels = [
        getattr(module, name)
        for module in (color, histogram, noise, rotate, warp)
        for name in vars(module)
        if hasattr(getattr(module, name), 'signatures') and not name.startswith('_')
    ]
    before = {kernel: len(kernel.signatures) for kernel in kernels}
    for seed in range(60):
        run(transforms, seed)
    assert len(kernels) > 10
    assert before == {kernel: 1 for kernel in kernels}
    assert before == {kernel: len(kernel.signatures) for kernel in kernels}


@pytest.mark.parametrize(
    ('cfg', 'words'),
    [
        (dict(type='Mosaic'), 'pipeline: type'),
        (dict(), 'pipeline: type'),
        (dict(RECIPE[0], backend='cv2'), 'RandomResizedCrop: backend'),
        (dict(RECIPE[0], interpolation='bilinear'), 'RandomResizedCrop: interpolation'),
        (dict(RECIPE[0], scale=0), 'RandomResizedCrop: scale'),
        (dict(RECIPE[0], scale=(1, 2, 3)), 'RandomResizedCrop: scale'),
        (dict(RECIPE[0], crop_ratio_range=(1, 0.5)), 'RandomResizedCrop: crop_ratio_range'),
        (dict(RECIPE[0], aspect_ratio_range=(0, 1)), 'RandomResizedCrop: aspect_ratio_range'),
        (dict(RECIPE[0], max_attempts=-1), 'RandomResizedCrop: max_attempts'),
        (dict(RECIPE[0], size=2), 'RandomResizedCrop: size=2'),
        (dict(type='RandomResizedCrop'), 'RandomResizedCrop: scale'),
        (dict(RECIPE[1], direction='vertical'), 'RandomFlip: direction'),
        (dict(RECIPE[1], prob=1.5), 'RandomFlip: prob'),
        (dict(RECIPE[2], policies='v0'), 'RandAugment: policies'),
        (dict(RECIPE[2], policies=[dict(type='Cutout')]), 'RandAugment: policies'),
        (dict(RECIPE[2], policies=[dict(type='Invert', thr=1)]), 'Invert: thr'),
        (dict(RECIPE[2], policies=[dict(type='Solarize')]), 'Solarize: thr'),
        (dict(RECIPE[2], hparams=dict(pad_val=3)), 'Rotate: interpolation'),
        (dict(RECIPE[2], hparams=dict(pad_val=0.5, interpolation='bicubic')), 'pad_val'),
        (dict(RECIPE[2], hparams=dict(padval=3, interpolation='bicubic')), 'hparams'),
        (dict(RECIPE[2], num_policies=0), 'RandAugment: num_policies'),
        (dict(RECIPE[2], magnitude_std='big'), 'RandAugment: magnitude_std'),
        (dict(RECIPE[2], magnitude_level=-1), 'RandAugment: magnitude_level'),
        (dict(RECIPE[2], total_level=0), 'RandAugment: total_level'),
        (dict(RECIPE[3], mode='pixel'), 'RandomErasing: mode'),
        (dict(RECIPE[3], erase_prob=2), 'RandomErasing: erase_prob'),
        (dict(RECIPE[3], max_area_ratio=0.01), 'RandomErasing: max_area_ratio'),
        (dict(RECIPE[3], fill_color=[1, 2]), 'RandomErasing: fill_color'),
        (dict(type='ResizeEdge', scale=256), 'ResizeEdge: backend'),
        (
            dict(RECIPE[0], type='ResizeEdge', edge='tall'),
            'ResizeEdge: edge',
        ),
        (dict(type='CenterCrop', crop_size=-1), 'CenterCrop: crop_size'),
    ],
)
def test_a_config_that_cannot_work_is_refused(cfg, words):
    with pytest.raises(ConfigError, match=words):
        build_transforms([cfg])


def test_channel_order_is_checked():
    with pytest.raises(ConfigError, match='channel_order'):
        build_transforms(RECIPE, 'gbr')


@pytest.mark.parametrize(
    'image',
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_other_images_are_refused(image):
    for transform in build_transforms(RECIPE):
        with pytest.raises(ValueError, match='expected a uint8 image'):
            transform(image, Random(0))


def test_a_box_that_is_not_in_the_image_is_refused():
    crop, _, _, erase = build_transforms(RECIPE)
    for transform, rest in ((crop, ()), (erase, (7,))):
        for box in ((-1, 0, 9, 9), (0, 0, 151, 9), (0, 150, 9, 51), (0, 0, -1, 9)):
            with pytest.raises(ValueError, match='not in the image'):
                transform.apply(IMAGE.copy(), *box, *rest)


def test_a_view_is_taken():
    for seed in range(8):
        for transform in build_transforms(RECIPE):
            view = IMAGE[::2, 10:90]
            ours = transform(view.copy(), Random(seed))
            np.testing.assert_array_equal(transform(view, Random(seed)), ours)


def test_policies_can_be_listed():
    augment = RandAugment(
        [dict(type='Posterize', bits=2, prob=1.0), dict(type='Solarize', thr=100.5, prob=1.0)],
        num_policies=1,
        magnitude_level=9,
    )
    results = {augment(IMAGE.copy(), Random(seed)).tobytes() for seed in range(20)}
    assert results == {
        (IMAGE & 0xC0).tobytes(),
        np.where(IMAGE < 100.5, IMAGE, 255 - IMAGE).tobytes(),
    }


def test_a_user_adds_a_transform():
    @FFCV_TRANSFORMS.register_module()
    class Darken(Transform):
        def __init__(self, by):
            self.by = by

        def draw(self, rng, height, width):
            return (rng.randrange(self.by),)

        def apply(self, image, amount):
            return image // (1 + amount)

    try:
        [darken] = build_transforms([dict(type='Darken', by=1)])
        np.testing.assert_array_equal(darken(IMAGE, Random(0)), IMAGE)
    finally:
        FFCV_TRANSFORMS.module_dict.pop('Darken')


def test_names_are_registered_once_and_for_transforms_alone():
    with pytest.raises(ConfigError, match="'RandomFlip' is registered already"):
        FFCV_TRANSFORMS.register_module('RandomFlip')(type('Other', (Transform,), {}))
    with pytest.raises(ConfigError, match='no Transform'):
        FFCV_TRANSFORMS.register_module()(dict)
    other = type('Other', (Transform,), {})
    try:
        assert FFCV_TRANSFORMS.register_module(module=other) is other
        assert FFCV_TRANSFORMS.register_module('Other', force=True, module=Transform) is Transform
        assert FFCV_TRANSFORMS.module_dict['Other'] is Transform
    finally:
        FFCV_TRANSFORMS.module_dict.pop('Other')


def test_nothing_in_data_imports_a_host():
    """Reading, writing and changing images needs neither mmengine nor mmpretrain nor timm."""
    folder = Path(__file__).parents[3] / 'shd_vit/data'
    files = [*folder.rglob('*.py')]
    assert len(files) > 10
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            roots = {name.split('.')[0] for name in names if name}
            assert not roots & {'mmengine', 'mmcv', 'mmpretrain', 'timm', 'transformers'}, file
            assert not any(name.startswith('shd_vit.hosts') for name in names), file
