"""Terms of rewards. A task's reward is between -1 and 0 before success, so that one setting of a learner fits all."""

from __future__ import annotations

import math


def closeness(distance: float, scale: float, tolerance: float = 0.0) -> float:
    """Return 1 at a distance of 0 and less the farther away.

    Steepest below `scale`, but with a slope up to eight times that, so that a learner finds the way from anywhere.

    Parameters
    ----------
    distance
        m.
    scale
        m.
    tolerance
        Distance that counts as 0, m.
    """
    beyond = max(0.0, distance - tolerance) / scale
    return 1.0 - 0.5 * (math.tanh(beyond) + math.tanh(beyond / 4))
