"""Quadratic costs of trajectories, and the interface of costs that are expanded to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlfp_ros.dynamics.linear_gaussian import LinearGaussianController, TrajectoryDistribution
from rlfp_ros.dynamics.played_trajectory import PlayedTrajectory


@dataclass(frozen=True)
class QuadraticCost:
    """The cost `constants[t] + gradients[t] @ z + z @ hessians[t] @ z / 2` of z = (state, action) of each step.

    Parameters
    ----------
    constants
        [T + 1].
    gradients
        [T + 1, X + U]; the action's part of the last row is zero.
    hessians
        [T + 1, X + U, X + U]; the action's part of the last one is zero.
    """

    constants: np.ndarray
    gradients: np.ndarray
    hessians: np.ndarray

    @classmethod
    def around(
        cls, points: np.ndarray, values: np.ndarray, gradients: np.ndarray, hessians: np.ndarray
    ) -> QuadraticCost:
        """Return the expansion with these values [T + 1] and derivatives at points [T + 1, X + U]."""
        pulled = np.einsum("tij,tj->ti", hessians, points)
        constants = values - np.einsum("ti,ti->t", gradients, points) + 0.5 * np.einsum("ti,ti->t", pulled, points)
        return cls(constants, gradients - pulled, hessians)

    def expected(self, controller: LinearGaussianController, reached: TrajectoryDistribution) -> np.ndarray:
        """Return the expected cost of each step, [T + 1], for a controller and the states that it reaches."""
        steps, size = controller.steps, reached.means.shape[1]
        costs = np.empty(steps + 1)
        for t in range(steps + 1):
            mean = np.zeros(self.gradients.shape[1])
            second = np.zeros(self.hessians.shape[1:])
            mean[:size], second[:size, :size] = reached.means[t], reached.covariances[t]
            if t < steps:
                gain = controller.gains[t]
                mean[size:] = controller.mean(t, reached.means[t])
                second[size:, :size] = gain @ reached.covariances[t]
                second[:size, size:] = second[size:, :size].T
                second[size:, size:] = second[size:, :size] @ gain.T + controller.covariances[t]
            second += np.outer(mean, mean)
            costs[t] = self.constants[t] + self.gradients[t] @ mean + 0.5 * np.sum(self.hessians[t] * second)
        return costs


class TrajectoryCost(Protocol):
    """A cost of states and actions."""

    def values(self, trajectory: PlayedTrajectory) -> np.ndarray:
        """Return the cost of each step and of the last state, [T + 1]."""

    def expanded(self, trajectory: PlayedTrajectory) -> QuadraticCost:
        """Return a quadratic cost with the same values and gradients on the trajectory, and no negative curvature."""


def mean_expansion(cost: TrajectoryCost, trajectories: Sequence[PlayedTrajectory]) -> QuadraticCost:
    """Return the mean of a cost's expansions around several trajectories."""
    expansions = [cost.expanded(each) for each in trajectories]
    return QuadraticCost(
        np.mean([each.constants for each in expansions], axis=0),
        np.mean([each.gradients for each in expansions], axis=0),
        np.mean([each.hessians for each in expansions], axis=0),
    )
