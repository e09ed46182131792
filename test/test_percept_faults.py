"""Tests of the controller with a dead camera, an unknown scene, and percepts or goals that cannot be right."""

from __future__ import annotations

import numpy as np
import pytest
from controller_rig import PUSH, Rig, contract

from rlfp_ros.control.residual_controller import Reason, State


def test_a_dead_camera_holds_and_clears_itself() -> None:
    rig = Rig().run(1.0)
    rig.camera_alive, rig.twist = False, None
    rig.run(1.0)
    assert rig.state() is State.HOLDING
    assert Reason.PERCEPT_STALE in rig.reasons()
    assert rig.speed < 1e-9
    rig.camera_alive, rig.twist = True, PUSH
    rig.run(0.3)
    assert rig.state() is State.ACTIVE
    assert rig.controller.gain > 0.5


def test_a_scene_unlike_training_slows_down_before_it_holds() -> None:
    rig = Rig().run(1.0)
    rig.shift = 0.825
    rig.run(0.2)
    assert rig.controller.gain == pytest.approx(0.5, abs=0.05)
    rig.shift = 1.0
    rig.run(0.2)
    assert rig.controller.gain == 0.0
    assert Reason.DOMAIN_SHIFT in rig.reasons()


def test_one_image_that_looks_odd_changes_nothing() -> None:
    rig = Rig().run(1.0)
    rig.controller.on_domain_shift(1.0, rig.now, rig.now)
    rig.run(0.2)
    assert rig.controller.gain == 1.0
    assert Reason.DOMAIN_SHIFT not in rig.controller.supervisor.counts


def test_a_camera_that_repeats_its_image_is_as_good_as_dead() -> None:
    rig = Rig()
    seen = rig.now
    for tick in range(480):
        if tick % 8 == 0:
            seen = rig.now if tick < 240 else seen
            rig.controller.on_object_pose(np.array([0.5, 0.0, 0.0]), None, seen, rig.now)
        rig.run(1 / 240)
        if tick == 239:
            assert rig.state() is State.ACTIVE
    assert rig.state() is State.HOLDING
    assert rig.reasons() == (Reason.PERCEPT_STALE,)
    assert rig.controller.supervisor.counts[Reason.PERCEPT_REPEATED] >= 20


def test_percepts_that_are_not_finite_hold_the_arm_even_with_a_sound_domain_shift_beside_them() -> None:
    rig = Rig()
    for tick in range(480):
        if tick % 8 == 0:
            place = np.array([0.5, 0.0, 0.0]) if tick < 240 else np.full(3, np.nan)
            rig.controller.on_object_pose(place, None, rig.now, rig.now)
        rig.run(1 / 240)
    assert rig.state() is State.HOLDING
    assert Reason.PERCEPT_BAD in rig.reasons()


@pytest.mark.parametrize("base", ["servo", "mpc"])
@pytest.mark.parametrize("wrong", [1.7e308, -1e5, np.inf])
def test_a_goal_or_an_object_that_no_arm_reaches_does_not_keep_it_from_the_next_one(base: str, wrong: float) -> None:
    for target in (0.0, 1.0):
        rig = Rig(made_for=contract(base, target=target))
        rig.twist = np.zeros(6)
        rig.run(0.3)
        wanted = rig.tool + np.array([0.0, 0.1, 0.0])
        for place in (np.array([wrong, 0.1, -wrong]), wanted):
            for _ in range(90):
                rig.controller.on_goal(place)
                rig.controller.on_object_pose(place, None, rig.now, rig.now)
                rig.run(1 / 30)
        assert rig.tool == pytest.approx(wanted, abs=1e-3)


def test_percepts_of_an_old_image_hold_the_arm_although_they_keep_coming() -> None:
    rig = Rig()
    for tick in range(480):
        if tick % 8 == 0:  # newer and newer ones, but from the second second on they fall behind
            behind = 800_000_000 * max(0, tick - 240) // 240
            rig.controller.on_object_pose(np.array([0.5, 0.0, 0.0]), None, rig.now - behind, rig.now)
        rig.run(1 / 240)
        if tick == 240 + 120:
            assert rig.state() is State.ACTIVE
    assert rig.state() is State.HOLDING
    assert rig.reasons() == (Reason.PERCEPT_OLD,)
