"""Statistics of success rates."""

from __future__ import annotations

import math

Z_95 = 1.959964  # standard normal quantile for a two-sided 95 % interval


def wilson95(successes: int, episodes: int) -> tuple[float, float]:
    """Wilson's score interval of a success rate, 95 % (Wilson 1927, https://doi.org/10.2307/2276774)."""
    if episodes == 0:
        return 0.0, 1.0
    rate, z2 = successes / episodes, Z_95**2
    centre = (rate + z2 / (2 * episodes)) / (1 + z2 / episodes)
    half = Z_95 / (1 + z2 / episodes) * math.sqrt(rate * (1 - rate) / episodes + z2 / (4 * episodes**2))
    # 0 and 1 are exact where all episodes agree; rounding would miss them by a hair.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == episodes else centre + half)
