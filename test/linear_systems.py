"""Random linear systems with noise, for tests of local models."""

from __future__ import annotations

import numpy as np

from rlfp_ros.dynamics.linear_gaussian import LinearGaussianController, LinearGaussianDynamics
from rlfp_ros.dynamics.played_trajectory import PlayedTrajectory
from rlfp_ros.dynamics.quadratic_cost import QuadraticCost


def linear_system(
    seed: int, states: int = 4, actions: int = 2, steps: int = 30, noise: float = 0.01
) -> LinearGaussianDynamics:
    """Return a stable system that does not change with time, with some spread of the first state."""
    rng = np.random.default_rng(seed)
    of_state = rng.normal(size=(states, states))
    of_state *= 0.95 / np.abs(np.linalg.eigvals(of_state)).max()
    transition = np.concatenate([of_state, rng.normal(size=(states, actions))], axis=1)
    return LinearGaussianDynamics(
        np.repeat(transition[None], steps, axis=0),
        np.repeat(rng.normal(size=(1, states)) * 0.1, steps, axis=0),
        np.repeat(noise**2 * np.eye(states)[None], steps, axis=0),
        rng.normal(size=states),
        0.1**2 * np.eye(states),
    )


def play(
    system: LinearGaussianDynamics, controller: LinearGaussianController, rng: np.random.Generator
) -> PlayedTrajectory:
    """Draw a trajectory."""
    states = [rng.multivariate_normal(system.initial_mean, system.initial_covariance)]
    actions = []
    for t in range(controller.steps):
        actions.append(controller.draw(t, states[-1], rng))
        mean = system.predict(t, states[-1], actions[-1])
        states.append(rng.multivariate_normal(mean, system.covariances[t]))
    return PlayedTrajectory(np.array(states), np.array(actions))


def quadratic_cost(seed: int, system: LinearGaussianDynamics, terms: bool = True) -> QuadraticCost:
    """Return a cost that is convex in state and action, the same at each step; `terms` also gives it linear terms."""
    rng = np.random.default_rng(seed)
    steps, size = system.offsets.shape
    whole = system.transitions.shape[2]
    root = rng.normal(size=(whole, whole))
    hessians = np.repeat((root @ root.T / whole + 0.1 * np.eye(whole))[None], steps + 1, axis=0)
    gradients = np.repeat(rng.normal(size=(1, whole)) * terms, steps + 1, axis=0)
    hessians[-1, size:] = hessians[-1, :, size:] = gradients[-1, size:] = 0.0
    return QuadraticCost(rng.normal(size=steps + 1), gradients, hessians)
