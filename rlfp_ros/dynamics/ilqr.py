"""Improves a linear-Gaussian controller by a maximum-entropy LQR pass, and no further than a KL bound allows.

The problem is to minimise the expected cost under the constraint that the divergence of the new distribution of
trajectories from the last one is at most a bound. Its Lagrangian, divided by the multiplier eta, is the cost
`cost / eta - log p_last(action | state)` minus the entropy of the new controller. For linear-Gaussian dynamics and a
quadratic cost its minimum is an LQR pass whose covariances are the inverse curvatures of the Q-function. The divergence
falls as eta rises, so the eta of the bound is found by bracketing and bisection.

References
----------
S. Levine, P. Abbeel: Learning Neural Network Policies with Guided Policy Search under Unknown Dynamics, NIPS 2014.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlfp_ros.dynamics.linear_gaussian import (
    LinearGaussianController,
    LinearGaussianDynamics,
    kl_divergences,
    symmetric,
)
from rlfp_ros.dynamics.quadratic_cost import QuadraticCost
from rlfp_ros.schema import ConfigurationError

SMALLEST_ETA, LARGEST_ETA = 1e-8, 1e16
FACTOR = 10.0  # of eta, from one try to the next, until the bound is between two tries
TOLERANCE = 1e-3  # relative; the divergence is at most this far below the bound
LONGEST_SEARCH = 60  # bisections


@dataclass(frozen=True)
class Improvement:
    """A better controller.

    Parameters
    ----------
    controller
        The new controller.
    eta
        The multiplier of the KL bound; `SMALLEST_ETA` if the bound is not active.
    kl
        Divergence of the trajectories from those of the last controller, nats.
    last_cost, cost
        Expected cost of the last and of the new controller, both under the same model.
    """

    controller: LinearGaussianController
    eta: float
    kl: float
    last_cost: float
    cost: float


class _NoMinimum(Exception):
    """The Q-function of a step has no minimum over the actions."""


def optimal_controller(
    dynamics: LinearGaussianDynamics, cost: QuadraticCost, smallest_deviation: float = 0.0
) -> LinearGaussianController:
    """Return the controller that minimises a quadratic cost minus the entropy of the actions.

    Its gains and offsets are those of the optimum of LQR.

    Raises
    ------
    ConfigurationError
        If the cost has no minimum over the actions.
    """
    try:
        return _backward(dynamics, cost, None, 1.0, smallest_deviation)
    except _NoMinimum:
        raise ConfigurationError(
            "iLQR: the cost has no minimum over the actions; give the actions a weight above 0"
        ) from None


def improve(
    dynamics: LinearGaussianDynamics,
    cost: QuadraticCost,
    last: LinearGaussianController,
    kl_bound: float,
    eta: float = 1.0,
    smallest_deviation: float = 0.0,
) -> Improvement:
    """Return the controller of the lowest expected cost whose divergence from the last one is within a bound.

    Parameters
    ----------
    dynamics, cost
        The model.
    last
        The controller whose trajectories the model was fitted to.
    kl_bound
        Largest divergence of whole trajectories, nats.
    eta
        Where the search begins, such as the last iteration's.
    smallest_deviation
        Smallest standard deviation of the new controller's actions in any direction.

    Raises
    ------
    ConfigurationError
        If the bound is not above 0, or if no controller within it is found.
    """
    if not (np.isfinite(kl_bound) and kl_bound > 0):
        raise ConfigurationError(f"iLQR: the KL bound is {kl_bound}, expected a number above 0; correct it")

    def attempt(eta: float) -> tuple[LinearGaussianController | None, float]:
        try:
            found = _backward(dynamics, cost, last, eta, smallest_deviation)
        except (_NoMinimum, ConfigurationError):
            return None, np.inf
        kl = float(kl_divergences(found, last, dynamics.distribution(found)).sum())
        return found, kl if np.isfinite(kl) else np.inf

    eta = float(np.clip(eta, SMALLEST_ETA, LARGEST_ETA))
    new, kl = attempt(eta)
    low = high = eta  # the divergence is within the bound at `high` and beyond it at `low`
    while kl > kl_bound and high < LARGEST_ETA:
        low, high = high, min(high * FACTOR, LARGEST_ETA)
        new, kl = attempt(high)
    if new is None or kl > kl_bound:
        raise ConfigurationError(
            f"iLQR: no controller within a KL bound of {kl_bound:.3g} was found, expected states and costs of a size "
            "near 1; change their units"
        )
    if low == high:  # within the bound at once: how far can eta fall?
        while low > SMALLEST_ETA:
            low = max(low / FACTOR, SMALLEST_ETA)
            tried, tried_kl = attempt(low)
            if tried is None or tried_kl > kl_bound:
                break
            new, kl, high = tried, tried_kl, low
    for _ in range(LONGEST_SEARCH):
        if low >= high or kl >= kl_bound * (1 - TOLERANCE) or high / low < 1 + 1e-12:
            break
        middle = float(np.sqrt(low * high))
        tried, tried_kl = attempt(middle)
        if tried is None or tried_kl > kl_bound:
            low = middle
        else:
            new, kl, high = tried, tried_kl, middle
    before = float(cost.expected(last, dynamics.distribution(last)).sum())
    after = float(cost.expected(new, dynamics.distribution(new)).sum())
    return Improvement(new, high, kl, before, after)


def next_step_size(step: float, predicted: float, actual: float, smallest: float, largest: float) -> float:
    """Return the KL bound per decision for the next iteration.

    The improvement is modelled as `a KL + b KL^2`, with a from the prediction and b from how far reality fell short of
    it; its maximum is at `KL predicted / (2 (predicted - actual))`. The factor of one change is 0.1 to 5.

    Parameters
    ----------
    step
        The bound of the last iteration.
    predicted, actual
        Improvement of the expected cost under the model, and of the measured cost.
    smallest, largest
        Bounds of the result.
    """
    short = max(predicted - actual, 1e-4 * abs(predicted), 1e-12)
    return float(np.clip(step * np.clip(predicted / (2 * short), 0.1, 5.0), smallest, largest))


def _backward(
    dynamics: LinearGaussianDynamics,
    cost: QuadraticCost,
    last: LinearGaussianController | None,
    eta: float,
    smallest_deviation: float,
) -> LinearGaussianController:
    """Return the minimum of cost / eta - log p_last - entropy; without a last controller that term is left out."""
    steps, size = dynamics.offsets.shape
    acting = dynamics.transitions.shape[2] - size
    gains, offsets = np.empty((steps, acting, size)), np.empty((steps, acting))
    covariances = np.empty((steps, acting, acting))
    hessians, gradients = cost.hessians / eta, cost.gradients / eta
    if last is not None:
        error = np.concatenate([last.gains, np.broadcast_to(-np.eye(acting), (steps, acting, acting))], axis=2)
        weighted = np.swapaxes(error, 1, 2) @ last.precisions
        hessians[:-1] += weighted @ error
        gradients[:-1] += np.einsum("tzu,tu->tz", weighted, last.offsets)
    curvature, slope = hessians[-1, :size, :size], gradients[-1, :size]
    for t in range(steps - 1, -1, -1):
        transition = dynamics.transitions[t]
        onward = transition.T @ curvature
        quadratic = symmetric(hessians[t] + onward @ transition)
        linear = gradients[t] + transition.T @ slope + onward @ dynamics.offsets[t]
        of_actions, cross = quadratic[size:, size:], quadratic[size:, :size]
        values, vectors = np.linalg.eigh(of_actions)
        if not values[0] > 1e-14 * max(values[-1], 0.0):
            raise _NoMinimum
        inverse = (vectors / values) @ vectors.T
        gains[t], offsets[t] = -inverse @ cross, -inverse @ linear[size:]
        covariances[t] = (vectors * np.maximum(1 / values, smallest_deviation**2)) @ vectors.T
        curvature = symmetric(quadratic[:size, :size] + cross.T @ gains[t])
        slope = linear[:size] + cross.T @ offsets[t]
    return LinearGaussianController(gains, offsets, symmetric(covariances))
