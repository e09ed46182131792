"""Ages of inputs, and how trust falls with them."""

from __future__ import annotations

LATE = 0.5  # share of a stopping timeout at which the arm begins to slow down


def age_s(now_ns: int, then_ns: int) -> float:
    """Return the time from `then_ns` to `now_ns`, s."""
    return (now_ns - then_ns) * 1e-9


def fade(value: float, start: float, end: float) -> float:
    """Return 1 up to `start`, falling to 0 at `end`."""
    if value <= start:
        return 1.0
    return 0.0 if value >= end else (end - value) / (end - start)
