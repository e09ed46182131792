"""Tests of the episode referee and of the simulator's pace, without ROS."""

from __future__ import annotations

import pytest

from rlfp_ros.episode import Phase, Ready
from rlfp_ros.simulation import pacing
from rlfp_ros.simulation.pacing import CATCH_UP_TICKS, RECOVERY_S, RENDERS, SLOWEST_STRIDE, FrameRate, Pace
from rlfp_ros.simulation.referee import Referee

TICK_S = 1 / 240


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pacing, "time", made)
    return made


def test_episode_goes_through_its_phases_with_consecutive_ids_and_seeds() -> None:
    referee = Referee("reach", seed=40, episodes=2, wait_for=("policy",))
    assert referee.phase is None
    for number in (0, 1):
        announced = referee.announce(7)
        begun = referee.begin(8, {"light": 1.0})
        ended = referee.end(9, {"success": True})
        assert [episode.phase for episode in (announced, begun, ended)] == [Phase.RESET, Phase.RUNNING, Phase.FINISHED]
        assert {(episode.id, episode.seed, episode.task) for episode in (announced, begun, ended)} == {
            (number, 40 + number, "reach")
        }
        assert (announced.stamp, begun.stamp, ended.stamp) == (7, 8, 9)
        assert (begun.sample, ended.outcome) == ({"light": 1.0}, {"success": True})
        assert referee.is_last is (number == 1)


def test_only_answers_to_the_current_episode_count() -> None:
    referee = Referee("reach", seed=0, episodes=0, wait_for=("policy", "recorder"))
    referee.announce(0)
    referee.on_ready(Ready(node="policy", id=0))
    assert referee.missing == ["recorder"]
    referee.on_ready(Ready(node="recorder", id=0))
    assert referee.missing == []
    referee.announce(0)
    referee.on_ready(Ready(node="policy", id=0))  # late
    assert referee.missing == ["policy", "recorder"]
    assert not referee.is_last


def test_pace_asks_for_the_ticks_that_are_due_and_never_for_a_burst(clock: Clock) -> None:
    pace = Pace(2.0, TICK_S)
    pace.restart(tick=1000)
    clock.now += 1.01 * TICK_S
    assert pace.due(1000) == (2, False)
    assert pace.due(1002) == (0, False)
    clock.now += 1.0
    assert pace.due(1002) == (CATCH_UP_TICKS, True)
    assert pace.behind_s == pytest.approx(2.0, abs=2 * CATCH_UP_TICKS * TICK_S)
    assert pace.due(1002 + CATCH_UP_TICKS) == (0, False)  # what was given up is not due later


def test_frame_rate_falls_only_if_drawing_is_slow_and_recovers(clock: Clock) -> None:
    rate = FrameRate(frame_s=0.033)
    for _ in range(RENDERS):
        rate.add(0.002)
    assert rate.adapt(falls_behind=True) == 1  # something else holds time up
    for stride in range(2, SLOWEST_STRIDE + 3):
        for _ in range(RENDERS):
            rate.add(0.5)
        assert rate.adapt(falls_behind=True) == min(stride, SLOWEST_STRIDE)
    for _ in range(RENDERS):
        rate.add(0.002)
    assert rate.adapt(falls_behind=False) == SLOWEST_STRIDE  # not at once
    clock.now += RECOVERY_S + 0.1
    assert rate.adapt(falls_behind=False) == SLOWEST_STRIDE - 1
