"""The cost of the papers: distance of points from their targets, squared and logarithmic, and size of the action.

References
----------
S. Levine, C. Finn, T. Darrell, P. Abbeel: End-to-End Training of Deep Visuomotor Policies, JMLR 17, 2016.
C. Finn et al.: Deep Spatial Autoencoders for Visuomotor Learning, ICRA 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlfp_ros.dynamics.played_trajectory import PlayedTrajectory
from rlfp_ros.dynamics.quadratic_cost import QuadraticCost
from rlfp_ros.schema import ConfigurationError


@dataclass(frozen=True)
class PointCost:
    """The cost `w_t (square d^2 + logarithm log(d^2 + softness)) + action |u|^2 + speed |v|^2` of each step.

    d is the distance of all points from their targets: the norm of the stacked differences. The square pulls from far
    away, the logarithm gives precision close to the target. v are chosen components of the state.

    Parameters
    ----------
    places
        Indices [D] of the points' coordinates in the state.
    targets
        [D], in the unit of the state, m for points of the end effector.
    square, logarithm
        Weights, 1/m^2 and without a unit.
    softness
        m^2; the logarithm is sharp at distances of its root.
    action
        Weight of the squared action.
    final
        Factor of the last state's weight.
    moving
        Indices [V] of velocities in the state that should be small; none by default.
    speed
        Weight of their squares.

    Raises
    ------
    ConfigurationError
        If targets do not fit the places, or if a weight is negative or not finite.
    """

    places: np.ndarray
    targets: np.ndarray
    square: float = 1.0
    logarithm: float = 1.0
    softness: float = 1e-5
    action: float = 1e-2
    final: float = 10.0
    moving: tuple[int, ...] = ()
    speed: float = 0.0

    def __post_init__(self) -> None:
        if np.shape(self.places) != np.shape(self.targets) or not np.isfinite(self.targets).all():
            raise ConfigurationError(
                f"point cost: there are {np.size(self.places)} coordinates and the targets are {self.targets}, "
                "expected one finite number for each coordinate; correct the goal"
            )
        for name in ("square", "logarithm", "action", "final", "speed"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise ConfigurationError(f"point cost: {name} is {value}, expected a number from 0; correct it")
        if not (np.isfinite(self.softness) and self.softness > 0):
            raise ConfigurationError(f"point cost: softness is {self.softness}, expected a number above 0; correct it")

    def values(self, trajectory: PlayedTrajectory) -> np.ndarray:
        """Return the cost of each step and of the last state, [T + 1]."""
        squares = np.square(trajectory.states[:, self.places] - self.targets).sum(axis=1)
        costs = self.square * squares + self.logarithm * np.log(squares + self.softness)
        costs[-1] *= self.final
        costs += self.speed * np.square(trajectory.states[:, list(self.moving)]).sum(axis=1)
        costs[:-1] += self.action * np.square(trajectory.actions).sum(axis=1)
        return costs

    def derivatives(self, trajectory: PlayedTrajectory) -> tuple[np.ndarray, np.ndarray]:
        """Return gradients [T + 1, X + U] and exact Hessians [T + 1, X + U, X + U] with respect to (state, action)."""
        gradients, hessians, apart = self._majorised(trajectory)
        squares = np.square(apart).sum(axis=1)
        turned = self._weights(trajectory) * self.logarithm * 4 / np.square(squares + self.softness)
        block = np.ix_(np.arange(len(apart)), self.places, self.places)
        hessians[block] -= turned[:, None, None] * apart[:, :, None] * apart[:, None, :]
        return gradients, hessians

    def expanded(self, trajectory: PlayedTrajectory) -> QuadraticCost:
        """Return a quadratic upper bound that touches the cost on the trajectory.

        The logarithm is concave in d^2, so its tangent in d^2 lies above it. The exact Hessian of the logarithm is
        negative towards the target, and a backward pass with it would have no minimum.
        """
        gradients, hessians, _ = self._majorised(trajectory)
        actions = np.concatenate([trajectory.actions, np.zeros((1, trajectory.actions.shape[1]))])
        points = np.concatenate([trajectory.states, actions], axis=1)
        return QuadraticCost.around(points, self.values(trajectory), gradients, hessians)

    def _weights(self, trajectory: PlayedTrajectory) -> np.ndarray:
        weights = np.ones(trajectory.steps + 1)
        weights[-1] = self.final
        return weights

    def _majorised(self, trajectory: PlayedTrajectory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return gradients, the Hessians of the upper bound, and the differences [T + 1, D] from the targets."""
        states, actions = trajectory.states, trajectory.actions
        size = states.shape[1]
        apart = states[:, self.places] - self.targets
        squares = np.square(apart).sum(axis=1)
        slopes = 2 * self._weights(trajectory) * (self.square + self.logarithm / (squares + self.softness))
        gradients = np.zeros((len(states), size + actions.shape[1]))
        curvatures = np.zeros_like(gradients)
        gradients[:, self.places] += slopes[:, None] * apart
        curvatures[:, self.places] += slopes[:, None]
        moving = list(self.moving)
        gradients[:, moving] += 2 * self.speed * states[:, moving]
        curvatures[:, moving] += 2 * self.speed
        gradients[:-1, size:] = 2 * self.action * actions
        curvatures[:-1, size:] = 2 * self.action
        hessians = curvatures[:, :, None] * np.eye(gradients.shape[1])
        return gradients, hessians, apart
