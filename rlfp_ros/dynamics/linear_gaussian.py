"""Time-varying linear-Gaussian controllers and dynamics, and the trajectories that they make together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rlfp_ros.dynamics.played_trajectory import PlayedTrajectory
from rlfp_ros.schema import ConfigurationError

LOG_TWO_PI = float(np.log(2 * np.pi))


def symmetric(matrices: np.ndarray) -> np.ndarray:
    """Return the symmetric part of matrices [..., D, D]."""
    return 0.5 * (matrices + np.swapaxes(matrices, -1, -2))


@dataclass(frozen=True)
class LinearGaussianController:
    """Draws the action of step t from a Gaussian with mean `gains[t] @ state + offsets[t]`.

    Parameters
    ----------
    gains
        [T, U, X].
    offsets
        [T, U].
    covariances
        [T, U, U], positive definite.

    Raises
    ------
    ConfigurationError
        If a value is not finite, or if a covariance is not positive definite.
    """

    gains: np.ndarray
    offsets: np.ndarray
    covariances: np.ndarray

    def __post_init__(self) -> None:
        for name in ("gains", "offsets", "covariances"):
            if not np.isfinite(getattr(self, name)).all():
                raise ConfigurationError(
                    f"linear-Gaussian controller: {name} has a value that is not finite; scale states and cost to "
                    "values near 1"
                )
        _ = self.roots

    @classmethod
    def around_zero(cls, steps: int, states: int, deviation: np.ndarray) -> LinearGaussianController:
        """Return a controller without feedback that draws actions [U] around zero with a standard deviation [U]."""
        actions = len(deviation)
        covariances = np.broadcast_to(np.diag(np.square(deviation)), (steps, actions, actions)).copy()
        return cls(np.zeros((steps, actions, states)), np.zeros((steps, actions)), covariances)

    @property
    def steps(self) -> int:
        """Number of actions."""
        return len(self.offsets)

    @cached_property
    def roots(self) -> np.ndarray:
        """Lower Cholesky factors of the covariances, [T, U, U]. Raises ConfigurationError if there is none."""
        try:
            return np.linalg.cholesky(self.covariances)
        except np.linalg.LinAlgError:
            smallest = float(np.linalg.eigvalsh(symmetric(self.covariances)).min())
            raise ConfigurationError(
                f"linear-Gaussian controller: a covariance has the eigenvalue {smallest:.3g}, expected all of them "
                "above 0; keep a minimum deviation of the actions"
            ) from None

    @cached_property
    def precisions(self) -> np.ndarray:
        """Inverse covariances, [T, U, U]."""
        return symmetric(np.linalg.inv(self.covariances))

    @cached_property
    def log_determinants(self) -> np.ndarray:
        """Logarithms of the covariances' determinants, [T]."""
        return 2 * np.log(np.diagonal(self.roots, axis1=1, axis2=2)).sum(axis=1)

    def mean(self, step: int, state: np.ndarray) -> np.ndarray:
        """Return the mean action [U] in a state [X]."""
        return self.gains[step] @ state + self.offsets[step]

    def draw(self, step: int, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return an action [U] drawn in a state [X]."""
        return self.mean(step, state) + self.roots[step] @ rng.standard_normal(self.offsets.shape[1])

    def log_densities(self, trajectory: PlayedTrajectory) -> np.ndarray:
        """Return the logarithm of the density of each of a trajectory's actions in its state, [T]."""
        means = np.einsum("tux,tx->tu", self.gains, trajectory.states[:-1]) + self.offsets
        errors = trajectory.actions - means
        squares = np.einsum("tu,tuv,tv->t", errors, self.precisions, errors)
        return -0.5 * (squares + self.log_determinants + self.offsets.shape[1] * LOG_TWO_PI)


@dataclass(frozen=True)
class TrajectoryDistribution:
    """Gaussian marginals of the states of a controller under some dynamics.

    Parameters
    ----------
    means
        [T + 1, X].
    covariances
        [T + 1, X, X].
    """

    means: np.ndarray
    covariances: np.ndarray


@dataclass(frozen=True)
class LinearGaussianDynamics:
    """Draws the next state from a Gaussian with mean `transitions[t] @ (state, action) + offsets[t]`.

    Parameters
    ----------
    transitions
        [T, X, X + U].
    offsets
        [T, X].
    covariances
        [T, X, X], positive semi-definite.
    initial_mean
        [X], of the first state.
    initial_covariance
        [X, X], of the first state.
    """

    transitions: np.ndarray
    offsets: np.ndarray
    covariances: np.ndarray
    initial_mean: np.ndarray
    initial_covariance: np.ndarray

    def predict(self, step: int, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Return the mean [X] of the next state."""
        return self.transitions[step] @ np.concatenate([state, action]) + self.offsets[step]

    def distribution(self, controller: LinearGaussianController) -> TrajectoryDistribution:
        """Return the marginals of the states that a controller reaches."""
        steps, size = self.offsets.shape
        means, covariances = np.zeros((steps + 1, size)), np.zeros((steps + 1, size, size))
        means[0], covariances[0] = self.initial_mean, self.initial_covariance
        for t in range(steps):
            of_state, of_action = self.transitions[t, :, :size], self.transitions[t, :, size:]
            closed = of_state + of_action @ controller.gains[t]
            means[t + 1] = closed @ means[t] + of_action @ controller.offsets[t] + self.offsets[t]
            noise = of_action @ controller.covariances[t] @ of_action.T + self.covariances[t]
            covariances[t + 1] = symmetric(closed @ covariances[t] @ closed.T + noise)
        return TrajectoryDistribution(means, covariances)


def kl_divergences(
    new: LinearGaussianController, old: LinearGaussianController, reached: TrajectoryDistribution
) -> np.ndarray:
    """Return the expected Kullback-Leibler divergence of the actions of each step, [T] nats.

    Parameters
    ----------
    new, old
        The divergence is that of `new` from `old`.
    reached
        The states that `new` reaches; the expectation is over them. The sum over all steps is the divergence of the
        distributions of whole trajectories, because both have the same dynamics.
    """
    gains, offsets = new.gains - old.gains, new.offsets - old.offsets
    means, covariances = reached.means[:-1], reached.covariances[:-1]
    shifts = np.einsum("tux,tx->tu", gains, means) + offsets
    spread = new.covariances + gains @ covariances @ np.swapaxes(gains, 1, 2)
    squares = np.einsum("tuv,tvu->t", old.precisions, spread) + np.einsum(
        "tu,tuv,tv->t", shifts, old.precisions, shifts
    )
    return 0.5 * (squares - new.offsets.shape[1] + old.log_determinants - new.log_determinants)
