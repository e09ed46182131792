"""Learns to bring the end effector to a target pose on one arm, from nothing but its own trajectories."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from rlfp_ros.dynamics.learning_loop import LearningIteration, LocalLearning, learn
from rlfp_ros.dynamics.linear_gaussian import LinearGaussianController
from rlfp_ros.dynamics.played_trajectory import PlayedTrajectory
from rlfp_ros.dynamics.point_cost import PointCost
from rlfp_ros.dynamics.simulated_arm import SimulatedArm
from rlfp_ros.files import write_whole
from rlfp_ros.seeds import EVALUATION, EXPERIENCE

DEVIATION = 0.3  # of the first actions, which are random, in [-1, 1]
DECISIONS = 60  # 4 s
ACTION_WEIGHT = 0.5


@dataclass(frozen=True)
class LearnedReach:
    """The result of a learning.

    Parameters
    ----------
    controller
        The controller.
    iterations
        How it was learned.
    distance_m
        Distance of the tool from the goal at the end of a trajectory without noise, from the measured joints.
    true_distance_m
        The same from the simulator's true position of the tool.
    """

    controller: LinearGaussianController
    iterations: tuple[LearningIteration, ...]
    distance_m: float
    true_distance_m: float

    @property
    def rollouts(self) -> int:
        """Number of trajectories that were played to learn."""
        return sum(len(each.played) for each in self.iterations)


def learn_reach(
    arm: SimulatedArm,
    goal: np.ndarray,
    settings: LocalLearning,
    seed: int,
    within_m: float = 0.0,
    report: Callable[[LearningIteration], None] = lambda iteration: None,
) -> LearnedReach:
    """Learn to reach a goal with the orientation that the tool has at home.

    Parameters
    ----------
    arm
        Plays the controllers.
    goal
        [3] m, base frame, for the tool centre point.
    settings
        Of the learning.
    seed
        Of the learning.
    within_m
        The learning ends as soon as all trajectories of an iteration end this close to the goal, m.
    report
        Called after each iteration.

    Raises
    ------
    ConfigurationError
        If the goal is outside the arm's tool limits, or if the safety controller stops the arm.
    """
    state_of = arm.state_of
    cost = PointCost(state_of.places, state_of.target(goal), action=ACTION_WEIGHT)
    first = LinearGaussianController.around_zero(arm.decisions, state_of.size, np.full(state_of.actions, DEVIATION))
    seeds = EXPERIENCE.of_training(seed)
    iterations: list[LearningIteration] = []

    def end(iteration: LearningIteration) -> None:
        iterations.append(iteration)
        report(iteration)

    def close_enough(played: Sequence[PlayedTrajectory]) -> bool:
        return max(final_distances(arm, played, goal)) <= within_m

    controller = learn(arm.play, cost, first, settings, seeds, close_enough, end)
    last = arm.play(controller, EVALUATION.first + seed, noise=False)
    true = float(np.linalg.norm(arm.true_tool_position() - goal))
    return LearnedReach(controller, tuple(iterations), final_distances(arm, [last], goal)[0], true)


def final_distances(arm: SimulatedArm, played: Sequence[PlayedTrajectory], goal: np.ndarray) -> list[float]:
    """Return the distance of the tool from the goal at the end of each trajectory, m."""
    return [float(np.linalg.norm(arm.state_of.tool_position(each.states[-1]) - goal)) for each in played]


def write_result(folder: Path, learned: LearnedReach, goal: np.ndarray, settings: LocalLearning, seed: int) -> None:
    """Write `result.json` and `controller.npz` (gains, offsets, covariances) of a learning into a folder.

    Raises ConfigurationError if a file cannot be written.
    """
    rows = []
    for each in learned.iterations:
        row = {"number": each.number, "cost": each.cost, "kl_bound": each.kl_bound, "kept": each.kept}
        if each.step is not None:
            predicted = each.step.last_cost - each.step.cost
            row |= {"kl": each.step.kl, "eta": each.step.eta, "predicted_improvement": predicted}
        rows.append(row)
    document = {
        "goal": [float(value) for value in goal],
        "seed": seed,
        "settings": settings.model_dump(),
        "iterations": rows,
        "rollouts": learned.rollouts,
        "distance_m": learned.distance_m,
        "true_distance_m": learned.true_distance_m,
    }
    arrays = BytesIO()
    controller = learned.controller
    np.savez(arrays, gains=controller.gains, offsets=controller.offsets, covariances=controller.covariances)
    write_whole(folder / "controller.npz", arrays.getvalue())
    write_whole(folder / "result.json", json.dumps(document, indent=2) + "\n")
