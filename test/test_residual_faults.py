"""Tests of the controller with residuals that are late, wrong, repeated or missing: gain and base controller."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from controller_rig import PUSH, SIMULATED, Rig

from rlfp_ros.control.residual_controller import Reason, State
from rlfp_ros.control.trajectory import Residual


def test_a_dead_policy_loses_its_gain_within_100_ms_and_the_base_controller_continues() -> None:
    rig = Rig().run(1.0)
    rig.twist = None
    rig.run(0.105)
    assert rig.controller.gain == 0.0
    rig.run(0.5)
    assert rig.state() is State.ACTIVE
    assert rig.reasons() == (Reason.RESIDUAL_STALE,)
    assert rig.speed < 1e-3
    rig.twist = PUSH
    rig.run(0.3)
    assert rig.controller.gain > 0.5


@pytest.mark.parametrize(
    ("twist", "reason"),
    [
        (np.full(6, np.nan), Reason.RESIDUAL_NOT_FINITE),
        (np.array([np.inf, 0, 0, 0, 0, 0]), Reason.RESIDUAL_NOT_FINITE),
        (np.array([0, 0, 0, 50.0, 0, 0]), Reason.RESIDUAL_RANGE),
        (np.array([2.0, 0, 0, 0, 0, 0]), Reason.RESIDUAL_RANGE),
        (np.zeros(3), Reason.RESIDUAL_SHAPE),
    ],
)
def test_a_bad_residual_is_refused_and_counts_nothing(twist: np.ndarray, reason: Reason) -> None:
    rig = Rig().run(1.0)
    rig.twist = twist
    rig.run(0.05)
    assert rig.applied.tolist() == [0.0] * 6
    assert rig.controller.gain == 0.0
    assert rig.reasons() == (reason,)
    assert rig.state() is State.ACTIVE
    rig.twist = PUSH
    rig.run(0.4)
    assert rig.reasons() == ()


def test_future_and_repeated_stamps_are_refused() -> None:
    rig = Rig().run(1.0)
    controller = rig.controller
    assert not controller.on_residual(Residual(rig.now + 1_000_000_000, PUSH), rig.now).any()
    rig.run(0.3)
    repeated = Residual(rig.now - 100_000_000, PUSH)
    assert not controller.on_residual(repeated, rig.now).any()
    assert controller.supervisor.counts[Reason.RESIDUAL_FUTURE] == 1
    assert controller.supervisor.counts[Reason.RESIDUAL_REPEATED] == 1


def test_one_dropped_frame_does_not_touch_the_gain() -> None:
    rig = Rig().run(1.0)
    rig.twist = None
    rig.run(8 / 240)
    rig.twist = PUSH
    for _ in range(8):
        rig.run(1 / 240)
        assert rig.controller.gain == 1.0


def test_a_residual_that_keeps_jumping_stays_refused_and_a_steady_one_is_admitted_again() -> None:
    rig = Rig(SIMULATED.model_copy(update={"residual_range": 1.5})).run(1.0)
    refused = []
    for swing in range(12):
        rig.twist = np.array([0.28 * (-1) ** swing, 0.0, 0.0, 0.0, 0.0, 0.0])
        refused.append(not rig.run(8 / 240).applied.any())
    assert all(refused[1:])
    assert rig.reasons() == (Reason.RESIDUAL_JUMP,)
    rig.run(0.6)
    assert rig.reasons() == ()
    assert rig.controller.gain == 1.0


def test_gaps_and_odd_stamps_are_counted_by_name() -> None:
    rig = Rig().run(1.0)
    counts = rig.controller.supervisor.counts
    assert Reason.RESIDUAL_GAP not in counts
    rig.twist = None
    rig.run(8 / 240)
    rig.twist = PUSH
    rig.run(0.2)
    assert counts[Reason.RESIDUAL_GAP] == 1
    state = rig.joint_state()
    rig.controller.on_joint_state(state, rig.now)
    rig.controller.on_joint_state(replace(state, stamp_ns=rig.now + 10**9), rig.now)
    assert (counts[Reason.JOINT_STATE_REPEATED], counts[Reason.JOINT_STATE_FUTURE]) == (1, 1)
    rig.run(0.1)
    assert rig.state() is State.ACTIVE


def test_denormal_residuals_are_as_good_as_none() -> None:
    rig = Rig()
    rig.twist = np.array([5e-324, -5e-324, 5e-324, 0.0, 0.0, 0.0])
    rig.run(1.0)
    assert rig.reasons() == ()
    assert rig.speed < 1e-6
