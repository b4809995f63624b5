import numpy as np
import pytest
from scipy import stats

from shd_vit.lab.study import interval_95, paired_difference
from shd_vit.lab.study.statistics import t_quantile


@pytest.mark.parametrize('freedom', [*range(1, 12), 30, 101])
@pytest.mark.parametrize('probability', [0.6, 0.975, 0.9999])
def test_quantiles_are_scipys(probability, freedom):
    exact = stats.t.ppf(probability, freedom)
    assert t_quantile(probability, freedom) == pytest.approx(exact, rel=1e-9)


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
