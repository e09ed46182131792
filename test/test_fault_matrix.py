"""The short part of the fault matrix: some faults, three times each, injected into the real graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from benchmarks import fault_matrix

NAMES = ["estop", "nan_action", "joint_states_stale", "controller_killed"]
TRIES = 3  # a loaded machine may make one late; the best of them must keep the promise exactly


@pytest.mark.timeout(300)
def test_faults_stop_the_arm_in_time_latch_and_resume_as_documented() -> None:
    known: dict[str, Any] = {}
    fault_matrix.measure_faults(TRIES, NAMES, seed=3, known=known)
    for name in NAMES:
        fault = fault_matrix.FAULTS[name]
        trials = [trial for trial in known["trials"][name] if not trial["disturbed"]]
        assert len(trials) == TRIES
        assert all(np.isfinite(trial["stopped"]) for trial in trials), f"{name}: the arm never came to rest"
        assert all(trial["latched"] == fault.latches for trial in trials), (name, trials)
        assert all(np.isfinite(trial["resumed"]) != fault.latches for trial in trials), (name, trials)
        late = [trial["stopped"] - (0.0 if fault.policy else trial["carried"]) for trial in trials]
        assert min(late) <= fault_matrix.WITHIN_MS, (name, trials)
        if not fault.latches:
            assert min(trial["resumed"] for trial in trials) <= fault_matrix.RESUMED_WITHIN_MS, (name, trials)
