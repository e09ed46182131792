"""Tests of the learning loop on linear systems, which it does not know."""

from __future__ import annotations

from collections.abc import Sequence

import linear_systems
import numpy as np
import pytest

from rlfp_ros.dynamics.ilqr import optimal_controller
from rlfp_ros.dynamics.learning_loop import LearningIteration, LocalLearning, Play, learn
from rlfp_ros.dynamics.linear_gaussian import LinearGaussianController, LinearGaussianDynamics, kl_divergences
from rlfp_ros.dynamics.played_trajectory import PlayedTrajectory
from rlfp_ros.dynamics.quadratic_cost import QuadraticCost
from rlfp_ros.schema import ConfigurationError, validate

SYSTEM = linear_systems.linear_system(0, steps=25, noise=0.005)
FIRST = LinearGaussianController.around_zero(25, 4, np.full(2, 0.3))


class KnownCost:
    """A quadratic cost as the loop sees it."""

    def __init__(self, quadratic: QuadraticCost) -> None:
        self.quadratic = quadratic

    def values(self, trajectory: PlayedTrajectory) -> np.ndarray:
        """Return the cost of each step."""
        actions = np.vstack([trajectory.actions, np.zeros((1, trajectory.actions.shape[1]))])
        z = np.concatenate([trajectory.states, actions], axis=1)
        squares = 0.5 * np.einsum("ti,tij,tj->t", z, self.quadratic.hessians, z)
        return self.quadratic.constants + np.einsum("ti,ti->t", self.quadratic.gradients, z) + squares

    def expanded(self, trajectory: PlayedTrajectory) -> QuadraticCost:
        """Return the cost itself."""
        return self.quadratic


COST = KnownCost(linear_systems.quadratic_cost(1, SYSTEM))


def player(system: LinearGaussianDynamics, seen: list[int] | None = None) -> Play:
    def play(controller: LinearGaussianController, seed: int) -> PlayedTrajectory:
        if seen is not None:
            seen.append(seed)
        return linear_systems.play(system, controller, np.random.default_rng(seed))

    return play


def expected_cost(controller: LinearGaussianController) -> float:
    without_noise = LinearGaussianController(controller.gains, controller.offsets, 1e-12 * controller.covariances)
    return float(COST.quadratic.expected(without_noise, SYSTEM.distribution(without_noise)).sum())


def test_the_cost_of_an_unknown_linear_system_falls_to_nearly_the_optimum() -> None:
    iterations: list[LearningIteration] = []
    settings = LocalLearning(iterations=6, regularisation=1e-6, smallest_deviation=0.02)
    found = learn(player(SYSTEM), COST, FIRST, settings, range(100), report=iterations.append)
    best, first = expected_cost(optimal_controller(SYSTEM, COST.quadratic)), expected_cost(FIRST)
    assert expected_cost(found) - best < 0.02 * (first - best)
    assert len(iterations) == 6
    for each in iterations:
        assert each.step is not None
        assert each.step.kl <= each.kl_bound * (1 + 1e-3)
        assert each.step.cost <= each.step.last_cost
    bounds = [each.kl_bound for each in iterations]
    assert bounds[0] == settings.kl * 25
    assert len(set(bounds)) > 1  # it adapts


def test_each_next_controller_is_played_and_the_last_one_returned() -> None:
    iterations: list[LearningIteration] = []
    settings, seen = LocalLearning(iterations=3, rollouts=4), list[int]()
    found = learn(player(SYSTEM, seen), COST, FIRST, settings, range(50, 90), report=iterations.append)
    assert seen == list(range(50, 62))
    steps = [each.step for each in iterations if each.step is not None]
    assert iterations[0].controller is FIRST
    assert [each.controller for each in iterations[1:]] == [step.controller for step in steps[:2]]
    assert found is steps[2].controller
    divergence = kl_divergences(steps[1].controller, steps[0].controller, SYSTEM.distribution(steps[1].controller))
    assert np.isfinite(divergence).all()


def test_a_controller_that_is_good_enough_is_returned_itself() -> None:
    iterations: list[LearningIteration] = []

    def enough(played: Sequence[PlayedTrajectory]) -> bool:
        return len(iterations) == 2

    found = learn(player(SYSTEM), COST, FIRST, LocalLearning(), range(100), enough, iterations.append)
    assert len(iterations) == 3
    assert iterations[-1].step is None
    assert found is iterations[-1].controller


def test_a_step_that_made_the_cost_higher_is_taken_back_and_becomes_smaller() -> None:
    iterations: list[LearningIteration] = []

    def play(controller: LinearGaussianController, seed: int) -> PlayedTrajectory:
        played = linear_systems.play(SYSTEM, controller, np.random.default_rng(seed))
        disturbed = 5.0 * (len(iterations) == 2)  # in the third iteration
        return PlayedTrajectory(played.states + disturbed, played.actions)

    learn(play, COST, FIRST, LocalLearning(iterations=4), range(100), report=iterations.append)
    second, third = iterations[1:3]
    assert [each.kept for each in iterations] == [True, True, False, True]
    assert second.step is not None
    assert third.step is not None
    assert third.kl_bound < second.kl_bound
    assert third.step.last_cost == second.step.last_cost  # the same controller and model
    assert third.step.kl < second.step.kl
    assert iterations[3].controller is third.step.controller


def test_the_same_seeds_give_the_same_controller() -> None:
    settings = LocalLearning(iterations=2)
    first, second = (learn(player(SYSTEM), COST, FIRST, settings, range(20)) for _ in range(2))
    assert np.array_equal(first.gains, second.gains)


def test_without_the_prior_the_fit_uses_the_trajectories_alone() -> None:
    with_prior, without = (
        learn(player(SYSTEM), COST, FIRST, LocalLearning(iterations=1, uses_prior=uses), range(20))
        for uses in (True, False)
    )
    assert not np.allclose(with_prior.gains, without.gains)


def test_too_few_seeds_are_refused_before_anything_is_played() -> None:
    seen: list[int] = []
    with pytest.raises(ConfigurationError, match="39 seeds for 8 iterations of 5 rollouts, expected 40"):
        learn(player(SYSTEM, seen), COST, FIRST, LocalLearning(), range(39))
    assert seen == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rollouts": 1}, "rollouts is 1"),
        ({"kl": 50.0}, "expected 0.1 (smallest_kl) to 20.0 (largest_kl)"),
        ({"smallest_deviation": 0.0}, "smallest_deviation is 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        validate(given, LocalLearning, "learning")
    assert words in str(refused.value)
