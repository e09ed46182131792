"""Fits time-varying linear-Gaussian dynamics to a few played trajectories, with a mixture of Gaussians as the prior.

References
----------
S. Levine, P. Abbeel: Learning Neural Network Policies with Guided Policy Search under Unknown Dynamics, NIPS 2014.
S. Levine, C. Finn, T. Darrell, P. Abbeel: End-to-End Training of Deep Visuomotor Policies, JMLR 17, 2016, appendix A.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlfp_ros.dynamics.gaussian_mixture import GaussianMixture, fit_mixture
from rlfp_ros.dynamics.linear_gaussian import LinearGaussianDynamics, symmetric
from rlfp_ros.dynamics.played_trajectory import PlayedTrajectory, stacked_tuples
from rlfp_ros.schema import ConfigurationError

FEWEST = 2  # trajectories of a fit
STILL = 1e-9  # deviation, in a component's own unit, below which it counts as constant
SAME_ACTIONS = 1e-6  # deviation of the actions of one step, in action units, below which their effect is unknown
REGULARISATION = 1e-6  # variance that is added to states and actions, in units of their own variance


@dataclass(frozen=True)
class Standard:
    """Centre and deviation of tuples (state, action, next state), each [X + U + X].

    Fits run in these units, so that a regularisation means the same for metres and radians.
    """

    centre: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, tuples: np.ndarray, states: int) -> Standard:
        """Measure tuples [N, T, X + U + X]; both states get the same units."""
        points = tuples.reshape(-1, tuples.shape[-1])
        both = np.concatenate([points[:, :states], points[:, -states:]])
        centre = np.concatenate([both.mean(axis=0), points[:, states:-states].mean(axis=0), both.mean(axis=0)])
        deviation = np.concatenate([both.std(axis=0), points[:, states:-states].std(axis=0), both.std(axis=0)])
        return cls(centre, np.where(deviation > STILL, deviation, 1.0))

    def __call__(self, tuples: np.ndarray) -> np.ndarray:
        """Return tuples [..., X + U + X] in standard units."""
        return (tuples - self.centre) / self.deviation


@dataclass(frozen=True)
class DynamicsPrior:
    """What earlier trajectories tell about tuples (state, action, next state), as a mixture of Gaussians.

    Parameters
    ----------
    mixture
        Of tuples in standard units.
    standard
        Those units.
    weight
        How many trajectories the prior counts for.
    """

    mixture: GaussianMixture
    standard: Standard
    weight: float

    @classmethod
    def fit(
        cls,
        trajectories: Sequence[PlayedTrajectory],
        rng: np.random.Generator,
        clusters: int = 20,
        tuples_per_cluster: int = 40,
        weight: float = 1.0,
    ) -> DynamicsPrior:
        """Fit the prior to trajectories, usually those of all iterations.

        Parameters
        ----------
        trajectories
            Of any controllers.
        rng
            Chooses where the mixture's Gaussians begin.
        clusters
            Largest number of Gaussians.
        tuples_per_cluster
            Fewer Gaussians are used if there are fewer tuples than this for each.
        weight
            How many trajectories the prior counts for.
        """
        tuples = stacked_tuples(trajectories)
        standard = Standard.of(tuples, trajectories[0].states.shape[1])
        points = standard(tuples).reshape(-1, tuples.shape[-1])
        count = max(1, min(clusters, len(points) // tuples_per_cluster))
        return cls(fit_mixture(points, count, rng), standard, weight)


def fit_dynamics(
    trajectories: Sequence[PlayedTrajectory],
    prior: DynamicsPrior | None = None,
    regularisation: float = REGULARISATION,
) -> LinearGaussianDynamics:
    """Fit linear-Gaussian dynamics to each step of trajectories of one controller.

    The Gaussian over (state, action, next state) of a step is the posterior under a normal-inverse-Wishart prior whose
    mean and covariance come from the mixture; conditioning it on state and action gives the dynamics.

    Parameters
    ----------
    trajectories
        At least 2, of the same number of steps.
    prior
        The prior; without one the fit is a ridge regression.
    regularisation
        Variance added to states and actions, relative to their own variance.

    Raises
    ------
    ConfigurationError
        If there are too few trajectories, or if their actions are all the same.
    """
    tuples = stacked_tuples(trajectories)
    if len(trajectories) < FEWEST:
        raise ConfigurationError(
            f"local models: there are {len(trajectories)} trajectories, expected at least {FEWEST}; play more of them"
        )
    size, acting = trajectories[0].states.shape[1], trajectories[0].actions.shape[1]
    spread = np.sqrt(tuples[:, :, size : size + acting].var(axis=0).mean(axis=0))
    if spread.min() < SAME_ACTIONS:
        raise ConfigurationError(
            f"local models: component {int(spread.argmin())} of the actions differs by {spread.min():.2g} between the "
            f"{len(trajectories)} trajectories, expected at least {SAME_ACTIONS:g}, so its effect cannot be found; "
            "raise the deviation of the actions"
        )
    standard = Standard.of(tuples, size) if prior is None else prior.standard
    points = standard(tuples)
    known = size + acting
    steps = points.shape[1]
    transitions, offsets = np.empty((steps, size, known)), np.empty((steps, size))
    covariances = np.empty((steps, size, size))
    for t in range(steps):
        mean, covariance = _posterior(points[:, t], prior)
        cause = covariance[:known, :known] + regularisation * np.eye(known)
        slope = np.linalg.solve(cause, covariance[:known, known:]).T
        rest = covariance[known:, known:] - slope @ covariance[:known, :known] @ slope.T
        transitions[t] = slope
        offsets[t] = mean[known:] - slope @ mean[:known]
        covariances[t] = _without_negative(rest)
    return _in_own_units(transitions, offsets, covariances, standard, tuples[:, 0, :size])


def _posterior(points: np.ndarray, prior: DynamicsPrior | None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean [D] and covariance [D, D] of points [N, D] under a normal-inverse-Wishart prior."""
    mean, count = points.mean(axis=0), len(points)
    apart = points - mean
    scatter = apart.T @ apart
    if prior is None:
        return mean, scatter / count
    expected, covariance = prior.mixture.moments(points)
    shift = mean - expected
    scatter += prior.weight * covariance + count * prior.weight / (count + prior.weight) * np.outer(shift, shift)
    return mean, scatter / (count + prior.weight)


def _without_negative(covariance: np.ndarray) -> np.ndarray:
    """Return a covariance whose eigenvalues that rounding made negative are zero."""
    values, vectors = np.linalg.eigh(symmetric(covariance))
    return symmetric((vectors * np.maximum(values, 0.0)) @ vectors.T)


def _in_own_units(
    transitions: np.ndarray, offsets: np.ndarray, covariances: np.ndarray, standard: Standard, first: np.ndarray
) -> LinearGaussianDynamics:
    """Convert dynamics from standard units; `first` [N, X] are the first states in their own units."""
    size = first.shape[1]
    known = len(standard.centre) - size
    unit = standard.deviation[known:]
    own = transitions * unit[:, None] / standard.deviation[:known]
    return LinearGaussianDynamics(
        own,
        offsets * unit + standard.centre[known:] - own @ standard.centre[:known],
        covariances * np.outer(unit, unit),
        first.mean(axis=0),
        np.diag(first.var(axis=0)),
    )
