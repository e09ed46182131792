"""Episodes through the graph in lock step against the same ones in process."""

from __future__ import annotations

from benchmarks import parity
from rlfp_ros.contract import Bundle


def assert_parity(bundle: Bundle, seed: int) -> None:
    """Play two episodes both ways: same outcomes, and the same actions to rounding."""
    found = parity.compare(str(bundle.directory), "train", episodes=2, seed=seed)
    assert found["outcomes_equal"] == 2
    assert found["largest_difference"] <= parity.TOLERANCE
    assert found["heard"] >= 0.9 * found["residuals"]
