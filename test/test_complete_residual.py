"""Tests that a residual acts when its gripper width and percept of the same stamp have arrived, in any order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rlfp_ros.control.complete_residual import PERCEPT_LOST_NS, CompleteResiduals
from rlfp_ros.control.trajectory import Residual

FRAME_NS = 33_333_333


def residual(stamp_ns: int) -> Residual:
    """A residual that its twist identifies."""
    return Residual(stamp_ns, np.full(6, float(stamp_ns)))


@pytest.mark.parametrize("order", list(itertools.permutations(("residual", "gripper", "percept"))))
def test_in_lock_step_it_waits_for_gripper_and_percept_of_its_stamp_in_every_order(order: tuple[str, ...]) -> None:
    residuals = CompleteResiduals(has_gripper=True, waits_for_percepts=True)
    residuals.begin_episode(0)
    admitted: list[Residual] = []
    for number, part in enumerate(order):
        assert not admitted, order[:number]
        if part == "residual":
            admitted += residuals.saw_residual(residual(FRAME_NS), FRAME_NS)
        elif part == "gripper":
            admitted += residuals.saw_gripper(FRAME_NS, 0.03, FRAME_NS)
        else:
            admitted += residuals.saw_percept(FRAME_NS, FRAME_NS)
    assert [(one.stamp_ns, one.gripper_width) for one in admitted] == [(FRAME_NS, 0.03)]


def test_parts_of_other_stamps_do_not_complete_it() -> None:
    residuals = CompleteResiduals(has_gripper=True, waits_for_percepts=True)
    residuals.begin_episode(0)
    assert not residuals.saw_gripper(FRAME_NS, 0.01, FRAME_NS)
    assert not residuals.saw_percept(FRAME_NS, FRAME_NS)
    assert not residuals.saw_residual(residual(2 * FRAME_NS), 2 * FRAME_NS)
    assert not residuals.saw_gripper(3 * FRAME_NS, 0.01, 2 * FRAME_NS)
    assert not residuals.saw_percept(2 * FRAME_NS, 2 * FRAME_NS)
    assert residuals.saw_gripper(2 * FRAME_NS, 0.02, 2 * FRAME_NS)[0].gripper_width == 0.02


def test_on_an_arm_it_does_not_wait_for_percepts() -> None:
    residuals = CompleteResiduals(has_gripper=False, waits_for_percepts=False)
    assert [one.stamp_ns for one in residuals.saw_residual(residual(FRAME_NS), FRAME_NS)] == [FRAME_NS]


def test_a_newer_residual_ends_the_wait_of_the_one_before() -> None:
    residuals = CompleteResiduals(has_gripper=True, waits_for_percepts=False)
    residuals.saw_gripper(2 * FRAME_NS, 0.02, FRAME_NS)
    assert not residuals.saw_residual(residual(FRAME_NS), FRAME_NS)  # its gripper width was lost
    admitted = residuals.saw_residual(residual(2 * FRAME_NS), 2 * FRAME_NS)
    assert [(one.stamp_ns, one.gripper_width) for one in admitted] == [(FRAME_NS, None), (2 * FRAME_NS, 0.02)]


def test_it_does_not_wait_for_percepts_that_stopped_coming() -> None:
    residuals = CompleteResiduals(has_gripper=False, waits_for_percepts=True)
    residuals.begin_episode(0)
    assert not residuals.saw_residual(residual(PERCEPT_LOST_NS - 1), PERCEPT_LOST_NS)
    assert [one.stamp_ns for one in residuals.saw_residual(residual(PERCEPT_LOST_NS), PERCEPT_LOST_NS)] == [
        PERCEPT_LOST_NS - 1,
        PERCEPT_LOST_NS,
    ]


def test_a_new_episode_discards_waiting_residuals() -> None:
    residuals = CompleteResiduals(has_gripper=True, waits_for_percepts=True)
    residuals.saw_residual(residual(FRAME_NS), FRAME_NS)
    residuals.begin_episode(2 * FRAME_NS)
    assert not residuals.saw_gripper(FRAME_NS, 0.03, 2 * FRAME_NS)
    assert not residuals.saw_percept(FRAME_NS, 2 * FRAME_NS)
