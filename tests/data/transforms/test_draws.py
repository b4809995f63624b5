"""Distributions of parameters, against mmpretrain's own transforms."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
from mmpretrain.registry import TRANSFORMS

pytest.importorskip('numba')
stats = pytest.importorskip('scipy.stats')

from shd_vit.data.transforms import build_transforms  # noqa: E402

DRAWS = 4000
RAND_AUGMENT = dict(
    type='RandAugment',
    policies='timm_increasing',
    num_policies=2,
    total_level=10,
    magnitude_level=9,
    magnitude_std=0.5,
    hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'),
)


def both(**cfg):
    np.random.seed(0)
    return build_transforms([cfg])[0], TRANSFORMS.build(cfg)


def boxes(drawn):
    """(top, left, h, w) with h / w and h * w, which tell a joint distribution from its margins."""
    return [(*box, box[2] / box[3], box[2] * box[3]) for box in drawn]


def assert_alike(ours, theirs):
    """Each column of (draws, columns) has the same distribution. Seeds are fixed."""
    for a, b in zip(np.transpose(ours), np.transpose(theirs), strict=True):
        assert stats.ks_2samp(a, b).pvalue > 1e-3


@pytest.mark.parametrize('size', [(375, 500), (500, 333), (40, 400), (400, 40)])
def test_crop_boxes(size):
    ours, theirs = both(
        type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'
    )
    rng, image = Random(0), np.empty((*size, 3), np.uint8)
    assert_alike(
        boxes(ours.draw(rng, *size) for _ in range(DRAWS)),
        boxes(theirs.rand_crop_params(image) for _ in range(DRAWS)),
    )


@pytest.mark.parametrize('size', [(30, 100), (100, 30), (100, 100), (90, 100)])
def test_central_crop_when_no_box_fits(size):
    ours, theirs = both(
        type='RandomResizedCrop',
        scale=224,
        max_attempts=0,
        backend='pillow',
        interpolation='bicubic',
    )
    assert ours.draw(Random(0), *size) == theirs.rand_crop_params(np.empty((*size, 3), np.uint8))


@pytest.mark.parametrize('size', [(224, 224), (100, 300), (28, 28)])
def test_erased_rectangles(size):
    ours, theirs = both(
        type='RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=[104, 116, 124],
        fill_std=[57, 57, 58],
    )
    rng = Random(0)
    drawn = [ours.draw(rng, *size) for _ in range(4 * DRAWS)]
    applied = [params[:4] for params in drawn if params[2]]
    assert abs(len(applied) / len(drawn) - 0.25) < 0.012
    assert len({params[4] for params in drawn}) > len(applied)  # a seed each
    assert_alike(boxes(applied), boxes(theirs.random_patch(*size) for _ in range(DRAWS)))


def test_flip_rate():
    ours, _ = both(type='RandomFlip', prob=0.3, direction='horizontal')
    rng = Random(0)
    assert abs(sum(ours.draw(rng, 1, 1)[0] for _ in range(DRAWS)) / DRAWS - 0.3) < 0.025


def test_randaugment_picks_operations_evenly_with_replacement():
    ours, _ = both(**RAND_AUGMENT)
    rng = Random(0)
    drawn = [ours.draw(rng, 224, 224) for _ in range(4 * DRAWS)]
    counts = Counter(index for ops in drawn for index, _ in ops)
    expected = len(drawn) * 2 * 0.5 / 15
    assert sorted(counts) == list(range(15))
    assert all(abs(count - expected) < 4 * expected**0.5 for count in counts.values())
    lengths = Counter(len(ops) for ops in drawn)
    assert abs(lengths[0] / len(drawn) - 0.25) < 0.015
    assert abs(lengths[2] / len(drawn) - 0.25) < 0.015
    assert any(len(ops) == 2 and ops[0][0] == ops[1][0] for ops in drawn)


@pytest.mark.parametrize('std', [0.5, 0.0, 'inf'])
@pytest.mark.parametrize('index', range(15))
def test_randaugment_magnitudes(index, std):
    ours, theirs = both(**dict(RAND_AUGMENT, magnitude_std=std))
    policy, reference = ours.policies[index], theirs.transforms[index]
    rng, draws = Random(index), DRAWS // 2
    values = [policy.draw(rng) for _ in range(2 * draws)]
    values = [value for value in values if value is not None]
    assert abs(len(values) / (2 * draws) - 0.5) < 0.04
    if reference.magnitude_range is None:
        assert set(values) == {0.0}
        return
    expected = [reference.random_negative(reference.random_magnitude()) for _ in range(draws)]
    low, high = sorted(reference.magnitude_range)
    assert all(low <= abs(value) <= high for value in values)
    if std == 0.5:  # the level is clipped to 10: the end of the range itself is drawn
        assert any(abs(value) == reference.magnitude_range[1] for value in values)
    if std:
        assert_alike([[v] for v in values], [[v] for v in expected])
    else:
        assert {round(v, 9) for v in values} == {round(v, 9) for v in expected}
