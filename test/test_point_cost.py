"""Tests of the cost of points: its derivatives, and the upper bound that iLQR minimises."""

from __future__ import annotations

import numpy as np
import pytest

from rlfp_ros.dynamics.played_trajectory import PlayedTrajectory
from rlfp_ros.dynamics.point_cost import PointCost
from rlfp_ros.schema import ConfigurationError

STATES, ACTIONS, STEPS = 7, 2, 4


def cost() -> PointCost:
    return PointCost(
        np.array([1, 2, 5]),
        np.array([0.3, -0.2, 0.1]),
        square=2.0,
        logarithm=0.7,
        softness=0.05,
        action=0.3,
        final=4.0,
        moving=(3, 4),
        speed=0.2,
    )


def trajectory(seed: int = 0) -> PlayedTrajectory:
    rng = np.random.default_rng(seed)
    return PlayedTrajectory(rng.normal(size=(STEPS + 1, STATES)), rng.normal(size=(STEPS, ACTIONS)))


def moved(played: PlayedTrajectory, step: int, by: np.ndarray) -> PlayedTrajectory:
    states, actions = played.states.copy(), played.actions.copy()
    states[step] += by[:STATES]
    if step < STEPS:
        actions[step] += by[STATES:]
    return PlayedTrajectory(states, actions)


def units(step: int) -> np.ndarray:
    """Unit vectors of what can be moved at a step: the last one has no action."""
    return np.eye(STATES + ACTIONS)[: STATES + ACTIONS * (step < STEPS)]


@pytest.mark.parametrize("step", [0, 2, STEPS])
def test_gradients_and_hessians_are_those_of_finite_differences(step: int) -> None:
    played, small = trajectory(), 1e-5
    gradients, hessians = cost().derivatives(played)
    for number, unit in enumerate(units(step)):
        ahead, behind = (moved(played, step, sign * small * unit) for sign in (1, -1))
        slope = (cost().values(ahead)[step] - cost().values(behind)[step]) / (2 * small)
        assert gradients[step, number] == pytest.approx(slope, abs=1e-7)
        turn = (cost().derivatives(ahead)[0][step] - cost().derivatives(behind)[0][step]) / (2 * small)
        assert hessians[step, number] == pytest.approx(turn, abs=1e-6)


def test_the_value_is_that_of_the_formula() -> None:
    states, actions = np.zeros((2, 3)), np.array([[0.5, 0.0]])
    played = PlayedTrajectory(states, actions)
    found = PointCost(
        np.array([0, 1]), np.array([3.0, 4.0]), square=2.0, logarithm=1.5, softness=1.0, final=10.0, action=0.2
    )
    place = 2.0 * 25 + 1.5 * np.log(26)
    assert found.values(played) == pytest.approx([place + 0.2 * 0.25, 10 * place])


def test_the_expansion_touches_the_cost_and_lies_above_it() -> None:
    played = trajectory()
    expansion = cost().expanded(played)

    def bound(at: PlayedTrajectory) -> np.ndarray:
        z = np.concatenate([at.states, np.vstack([at.actions, np.zeros((1, ACTIONS))])], axis=1)
        quadratic = 0.5 * np.einsum("ti,tij,tj->t", z, expansion.hessians, z)
        return expansion.constants + np.einsum("ti,ti->t", expansion.gradients, z) + quadratic

    assert bound(played) == pytest.approx(cost().values(played))
    assert np.linalg.eigvalsh(expansion.hessians).min() >= 0
    for seed in range(50):
        other = trajectory(seed)
        assert np.all(bound(other) >= cost().values(other) - 1e-9)
    small = 1e-6
    for number, unit in enumerate(units(1)):
        ahead, behind = (moved(played, 1, sign * small * unit) for sign in (1, -1))
        slope = (bound(ahead)[1] - bound(behind)[1]) / (2 * small)
        assert cost().derivatives(played)[0][1, number] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": np.array([0.0, np.nan])}, "expected one finite number for each coordinate"),
        ({"targets": np.zeros(3)}, "expected one finite number for each coordinate"),
        ({"square": -1.0}, "square is -1.0, expected a number from 0"),
        ({"action": np.inf}, "action is inf"),
        ({"softness": 0.0}, "softness is 0.0, expected a number above 0"),
    ],
)
def test_wrong_targets_and_weights_are_refused(change: dict[str, float], words: str) -> None:
    given = {"places": np.array([0, 1]), "targets": np.zeros(2)} | change
    with pytest.raises(ConfigurationError, match=words):
        PointCost(**given)  # type: ignore[arg-type]  # values of several types
