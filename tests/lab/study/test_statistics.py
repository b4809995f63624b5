import numpy as np
import pytest
from scipy import stats

from shd_vit.lab.study.results import interval_95, paired_difference


@pytest.mark.parametrize('count', [*range(2, 13), 31, 102])
def test_intervals_are_those_of_the_t_distribution(count):
    values = np.random.default_rng(count).normal(80, 3, count)
    exact = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert interval_95(values.tolist())[1:] == pytest.approx(exact, rel=1e-9)


def test_an_interval_by_hand():
    """Deviation of 1, 2, 3 is 1; t for two degrees is 4.302653 (any table)."""
    mean, low, high = interval_95([1.0, 2.0, 3.0])
    assert mean == 2
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)


@pytest.mark.parametrize('count', [2, 3, 10])
def test_paired_intervals_are_scipys(count):
    rng = np.random.default_rng(count)
    first, second = rng.normal(80, 3, count), rng.normal(79, 3, count)
    exact = stats.ttest_rel(first, second).confidence_interval(0.95)
    seeds = list(range(count))
    # In another order: seeds are what pairs.
    ours = paired_difference(
        dict(zip(seeds, first.tolist(), strict=True)),
        dict(reversed(list(zip(seeds, second.tolist(), strict=True)))),
    )
    assert ours.mean == pytest.approx((first - second).mean())
    assert (ours.low, ours.high) == pytest.approx((exact.low, exact.high), rel=1e-9)


def test_only_seeds_of_both_count():
    assert paired_difference({0: 5.0, 1: 9.0, 2: 7.0}, {2: 4.0, 3: 1.0}) == (3.0, None, None)
    assert paired_difference({0: 5.0}, {1: 5.0}) is None
    assert paired_difference({}, {}) is None


def test_equal_differences_leave_no_doubt():
    assert paired_difference({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0}) == (1.0, 1.0, 1.0)
