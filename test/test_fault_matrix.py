"""The cheap half of the fault matrix: a few faults, twice each, injected into the real graph as processes."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

from benchmarks import fault_matrix

NAMES = ["estop", "nan_action", "joint_states_stale", "controller_killed"]
BUSY_MS = 150.0  # what a loaded machine may add to the times that docs/explanation/safety.md promises


def test_faults_stop_the_arm_in_time_latch_and_resume_as_documented() -> None:
    result = fault_matrix.measure_faults(2, NAMES, seed=3)
    for name in NAMES:
        row, fault = result[name], fault_matrix.FAULTS[name]
        assert row["max_ms"] is not None, f"{name}: the arm never came to rest"
        allowed = fault_matrix.WITHIN_MS + BUSY_MS + (0.0 if fault.policy else row["carried_max_ms"])
        assert row["max_ms"] <= allowed, (name, row)
        assert row["latched"] == fault.latches, (name, row)
        assert row["resumed"] != fault.latches, (name, row)
