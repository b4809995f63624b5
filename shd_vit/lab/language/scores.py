"""How well labels and scores are told: scikit-learn's and scipy's measures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from statistics import mean, mode, stdev
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, root_mean_squared_error

Scores = dict[str, float | None]


def class_scores(targets: Sequence[int], told: Sequence[int], classes: int) -> Scores:
    """Accuracy, F1 and Matthews' correlation, each in percent.

    F1 is that of class 1 of two, and the mean over classes (macro) of more. A correlation with
    what is always the same is 0, and so is F1 of a class that is never told.
    """
    average = 'binary' if classes == 2 else 'macro'
    labels = None if classes == 2 else list(range(classes))
    f1 = f1_score(targets, told, average=average, labels=labels, zero_division=0)
    return dict(
        accuracy=100 * float(accuracy_score(targets, told)),
        f1=100 * float(f1),
        mcc=100 * float(matthews_corrcoef(targets, told)),
    )


def score_scores(targets: Sequence[float], told: Sequence[float]) -> Scores:
    """Spearman's and Pearson's correlation in percent, and the root of the mean squared error.

    Correlations with what is always the same are None: there is no such number.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of constant input, which is reported as None
        rank, line = spearmanr(targets, told).statistic, pearsonr(targets, told).statistic
    return dict(
        spearman=_percent(rank),
        pearson=_percent(line),
        rmse=float(root_mean_squared_error(targets, told)),
    )


def constant_answer(train: Sequence[Any], classes: int) -> Any:
    """What tells most without reading: the commonest class, or the mean score."""
    return mode(train) if classes else mean(train)


def over_seeds(runs: Sequence[Scores]) -> dict[str, dict[str, Any]]:
    """By measure: mean, sample standard deviation (None of one run) and each seed's.

    The mean of a measure that a run does not have is None.
    """
    summary = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        known = [value for value in values if value is not None]
        whole = len(known) == len(values)
        summary[name] = dict(
            mean=mean(known) if whole else None,
            std=stdev(known) if whole and len(known) > 1 else None,
            values=values,
        )
    return summary


def _percent(value: float) -> float | None:
    return 100 * float(value) if np.isfinite(value) else None
