"""Statistics of success rates, of results from a few seeds, and of how well one world's scores predict another's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Z_95 = 1.959964  # standard normal quantile for a two-sided 95 % interval


def wilson95(successes: int, episodes: int) -> tuple[float, float]:
    """Return Wilson's score interval of a success rate, 95 % (Wilson 1927, https://doi.org/10.2307/2276774)."""
    if episodes == 0:
        return 0.0, 1.0
    rate, z2 = successes / episodes, Z_95**2
    centre = (rate + z2 / (2 * episodes)) / (1 + z2 / episodes)
    half = Z_95 / (1 + z2 / episodes) * math.sqrt(rate * (1 - rate) / episodes + z2 / (4 * episodes**2))
    # 0 and 1 are exact if all episodes agree; rounding would miss them.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == episodes else centre + half)


def pearson(simulated: Sequence[float], real: Sequence[float]) -> float:
    """Return Pearson's r between two scores of the same policies, or NaN if one of them does not vary."""
    a, b = np.asarray(simulated, dtype=float), np.asarray(real, dtype=float)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def mean_maximum_rank_violation(simulated: Sequence[float], real: Sequence[float]) -> float:
    """Return MMRV: the real score lost by trusting the simulated ranking, mean over policies of the worst pair.

    0 is a perfect ranking. Li et al. 2024, "Evaluating Real-World Robot Manipulation Policies in Simulation",
    https://arxiv.org/abs/2405.05941, section 4.
    """
    a, b = np.asarray(simulated, dtype=float), np.asarray(real, dtype=float)
    violated = (a[:, None] < a[None, :]) != (b[:, None] < b[None, :])
    return float((np.abs(b[:, None] - b[None, :]) * violated).max(axis=1).mean())


def bootstrap95(
    simulated: np.ndarray,
    real: np.ndarray,
    figure: Callable[[Sequence[float], Sequence[float]], float],
    rng: np.random.Generator,
    draws: int = 2000,
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a `figure` of two scores, over policies and episodes.

    `simulated`, `real`: bool [policies, episodes], paired by policy and by seed. Both are resampled with replacement.
    Samples whose figure is not defined (all policies equal) are left out.
    """
    policies, episodes = simulated.shape
    figures = []
    for _ in range(draws):
        rows, columns = rng.integers(policies, size=policies), rng.integers(episodes, size=episodes)
        scores = [part[np.ix_(rows, columns)].mean(axis=1) for part in (simulated, real)]
        figures.append(figure(scores[0].tolist(), scores[1].tolist()))
    known = [value for value in figures if not math.isnan(value)]
    if not known:
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean without the lowest and the highest quarter, rounded down. With three values, the mean.

    As robust to an outlier as the median, with less of its noise (Agarwal et al. 2021, rliable,
    https://arxiv.org/abs/2108.13264).
    """
    cut = len(values) // 4
    return float(np.mean(np.sort(values)[cut : len(values) - cut]))


def iqm_bootstrap95(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of `interquartile_mean` over seeds, as in the same paper; deterministic."""
    rng = np.random.default_rng(0)
    drawn = np.asarray(values)[rng.integers(0, len(values), (draws, len(values)))]
    low, high = np.quantile([interquartile_mean(row) for row in drawn.tolist()], [0.025, 0.975])
    return float(low), float(high)
