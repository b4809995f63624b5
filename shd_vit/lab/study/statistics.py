"""Means over seeds, and how sure a difference of two rows is."""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean with its 95 % confidence interval; no bounds for fewer than two values."""

    mean: float
    low: float | None
    high: float | None


def interval_95(values: list[float]) -> Interval:
    """Mean of at least one value, with the interval of Student's t."""
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean, None, None)
    half = t_quantile(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def paired_difference(row: dict[int, float], against: dict[int, float]) -> Interval | None:
    """Difference of two rows over the seeds that both have; None if there is no such seed.

    Args:
        row: Values by seed.
        against: Values by seed, subtracted.
    """
    seeds = sorted(row.keys() & against.keys())
    return interval_95([row[seed] - against[seed] for seed in seeds]) if seeds else None


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t, for a probability of 0.5 or more.

    By bisection over theta = arctan(t / sqrt(freedom)), in which the distribution of |t| is a
    finite sum (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _inside(middle, freedom) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _inside(theta: float, freedom: int) -> float:
    """Probability that |t| is below sqrt(freedom) * tan(theta)."""
    odd = freedom % 2
    cos, term, total = math.cos(theta), 1.0, 0.0
    if odd:
        term = math.cos(theta)
    for n in range(1 + odd, freedom, 2):
        total += term
        term *= n / (n + 1) * cos * cos
    if not odd:
        return math.sin(theta) * total
    return 2 / math.pi * (theta + math.sin(theta) * total)
