"""Tests of the controller with clocks that jump or stand still, and with missed ticks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from controller_rig import ARM, PUSH, SIMULATED, Rig

from rlfp_ros.control.residual_controller import Reason, State
from rlfp_ros.control.trajectory import Residual


def test_after_missed_ticks_motion_continues_from_the_stop_that_was_sent() -> None:
    rig = Rig().run(1.0)
    rig.tick += 20
    for _ in range(100):
        before = rig.line.sample(rig.now)
        rig.run(1 / 240)
        after = rig.line.sample(rig.now)
        jerk = np.abs(after[2] - before[2]) * 240
        assert (jerk <= np.array(ARM.limits.jerk)).all()
    assert rig.state() is State.ACTIVE


def test_a_clock_that_jumps_back_stops() -> None:
    rig = Rig().run(1.0)
    rig.origin_ns -= 10_000_000_000
    rig.run(0.1)
    assert Reason.CLOCK_JUMP in rig.reasons()


def test_a_frozen_clock_does_not_disarm_the_watchdogs() -> None:
    rig = Rig().run(1.0)
    stamp, steady = rig.now, rig.now
    for _ in range(100):
        steady += 4_166_667
        assert rig.controller.tick(stamp, steady).trajectory is None
    assert rig.state() is State.STOPPED


def test_after_a_clock_that_went_back_a_reset_lets_residuals_and_percepts_in_again() -> None:
    rig = Rig(SIMULATED, origin_ns=1_000_000_000_000).run(1.0)
    rig.origin_ns = 0
    rig.run(0.5)
    assert rig.state() is State.STOPPED
    assert Reason.CLOCK_JUMP in rig.reasons()
    assert rig.controller.reset()[0]
    assert rig.controller.enable()[0]
    rig.run(1.0)
    assert rig.state() is State.ACTIVE
    assert rig.controller.gain == 1.0


@pytest.mark.parametrize("back_ns", [0, 500_000_000_000])
def test_an_arm_that_rests_is_not_told_to_move_by_a_clock_that_stood_still_and_comes_back(back_ns: int) -> None:
    rig = Rig(origin_ns=1_000_000_000_000).run(1.0)
    assert rig.speed > 0.05
    stood, now = rig.now, rig.now
    moving_since_rest = []
    for tick in range(480):  # the clock stands still for a second and then continues, or begins anew
        now += 1_000_000_000 // 240
        stamp = stood if tick < 240 else stood - back_ns + (tick - 239) * 1_000_000_000 // 240
        command = rig.controller.tick(stamp, now)
        if command.trajectory is not None:
            rig.line.accept(replace(command.trajectory, stamp_ns=now), now)
        if tick > 200:
            moving_since_rest.append(np.abs(rig.line.sample(now)[1]).max())
    assert rig.state() is State.STOPPED
    assert max(moving_since_rest) < 1e-6


def test_inputs_after_a_stall_of_this_process_are_not_rejected_as_future_ones() -> None:
    """Simulated time: the first tick after the stall still has the old /clock, the residual is 100 ms newer."""
    rig = Rig().run(1.0)
    before = rig.now
    rig.tick += 24
    rig.controller.tick(before + 1_000_000_000 // 240, rig.now)
    residual = Residual(rig.now - 30_000_000, PUSH)
    rig.controller.on_sender_clock(rig.now)
    assert rig.controller.on_residual(residual, rig.now).any()
    assert Reason.RESIDUAL_FUTURE not in rig.controller.supervisor.counts
    assert not rig.controller.on_residual(Residual(rig.now + 50_000_000, PUSH), rig.now).any()
    assert rig.controller.supervisor.counts[Reason.RESIDUAL_FUTURE] == 1
