"""Tests of linear-Gaussian controllers and of iLQR: the optimum of LQR, the KL bound, densities and divergences."""

from __future__ import annotations

import linear_systems
import numpy as np
import pytest

from rlfp_ros.dynamics.ilqr import improve, next_step_size, optimal_controller
from rlfp_ros.dynamics.linear_gaussian import LinearGaussianController, LinearGaussianDynamics, kl_divergences
from rlfp_ros.dynamics.local_models import fit_dynamics
from rlfp_ros.dynamics.quadratic_cost import QuadraticCost
from rlfp_ros.schema import ConfigurationError


def riccati_gain(A: np.ndarray, B: np.ndarray, Q: np.ndarray, R: np.ndarray, N: np.ndarray) -> np.ndarray:
    """Return the gain of the infinite horizon, by repeating the discrete Riccati equation until it stands still."""
    P = Q.copy()
    for _ in range(10_000):
        gain = -np.linalg.inv(R + B.T @ P @ B) @ (B.T @ P @ A + N.T)
        following = Q + A.T @ P @ A + (A.T @ P @ B + N) @ gain
        if np.abs(following - P).max() < 1e-13:
            break
        P = following
    return gain


def parts(system: LinearGaussianDynamics, cost: QuadraticCost) -> tuple[np.ndarray, ...]:
    size = system.offsets.shape[1]
    A, B = system.transitions[0, :, :size], system.transitions[0, :, size:]
    hessian = cost.hessians[0]
    return A, B, hessian[:size, :size], hessian[size:, size:], hessian[:size, size:]


def some_controller(system: LinearGaussianDynamics, seed: int, gain: float = 0.05) -> LinearGaussianController:
    rng = np.random.default_rng(seed)
    steps, size = system.offsets.shape
    acting = system.transitions.shape[2] - size
    roots = 0.2 * rng.normal(size=(steps, acting, acting))
    return LinearGaussianController(
        gain * rng.normal(size=(steps, acting, size)),
        0.1 * rng.normal(size=(steps, acting)),
        roots @ np.swapaxes(roots, 1, 2) + 0.05 * np.eye(acting),
    )


@pytest.mark.parametrize("seed", range(5))
def test_on_a_known_linear_system_the_first_gain_is_that_of_the_riccati_equation(seed: int) -> None:
    system = linear_systems.linear_system(seed, steps=300)
    cost = linear_systems.quadratic_cost(seed + 100, system)
    found = optimal_controller(system, cost).gains[0]
    assert np.abs(found - riccati_gain(*parts(system, cost))).max() < 1e-6


def test_from_played_trajectories_of_an_unknown_system_the_optimum_is_found() -> None:
    system = linear_systems.linear_system(7, steps=60, noise=0.0)
    cost = linear_systems.quadratic_cost(8, system)
    rng = np.random.default_rng(9)
    played = [linear_systems.play(system, some_controller(system, 10), rng) for _ in range(20)]
    fitted = fit_dynamics(played, regularisation=1e-13)
    known, found = (optimal_controller(each, cost) for each in (system, fitted))
    assert np.abs(found.gains - known.gains).max() < 1e-6
    assert np.abs(found.offsets - known.offsets).max() < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_no_other_offsets_and_gains_have_a_lower_expected_cost(seed: int) -> None:
    system = linear_systems.linear_system(seed)
    cost = linear_systems.quadratic_cost(seed + 50, system)
    best = optimal_controller(system, cost)
    lowest = cost.expected(best, system.distribution(best)).sum()
    rng = np.random.default_rng(seed)
    for _ in range(20):
        other = LinearGaussianController(
            best.gains + 0.03 * rng.normal(size=best.gains.shape),
            best.offsets + 0.03 * rng.normal(size=best.offsets.shape),
            best.covariances,
        )
        assert cost.expected(other, system.distribution(other)).sum() > lowest


@pytest.mark.parametrize("bound", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_kl_bound_holds_and_is_reached_if_the_optimum_is_further_away(seed: int, bound: float) -> None:
    system = linear_systems.linear_system(seed)
    cost = linear_systems.quadratic_cost(seed + 20, system)
    last = some_controller(system, seed)
    found = improve(system, cost, last, bound)
    measured = kl_divergences(found.controller, last, system.distribution(found.controller)).sum()
    assert measured == pytest.approx(found.kl)
    assert bound * (1 - 1e-2) < measured <= bound * (1 + 1e-3)
    assert found.cost < found.last_cost


def test_a_wider_bound_gives_a_lower_cost() -> None:
    system = linear_systems.linear_system(3)
    cost = linear_systems.quadratic_cost(4, system)
    last = some_controller(system, 5)
    costs = [improve(system, cost, last, bound).cost for bound in (0.1, 1.0, 10.0, 100.0)]
    assert np.all(np.diff(costs) < 0)


def test_if_the_optimum_is_within_the_bound_it_is_found() -> None:
    system = linear_systems.linear_system(3)
    cost = linear_systems.quadratic_cost(4, system)
    best = optimal_controller(system, cost, smallest_deviation=0.3)
    last = LinearGaussianController(best.gains, best.offsets + 0.01, best.covariances)
    found = improve(system, cost, last, kl_bound=50.0, smallest_deviation=0.3)
    assert found.kl < 50.0
    assert np.abs(found.controller.gains - best.gains).max() < 1e-6
    assert np.abs(found.controller.offsets - best.offsets).max() < 1e-6


def test_the_divergence_is_the_mean_difference_of_the_log_densities_of_played_trajectories() -> None:
    system = linear_systems.linear_system(1, steps=4, noise=0.4)
    new, old = some_controller(system, 2, gain=0.3), some_controller(system, 3, gain=0.3)
    rng = np.random.default_rng(4)
    played = [linear_systems.play(system, new, rng) for _ in range(2000)]
    differences = [new.log_densities(each).sum() - old.log_densities(each).sum() for each in played]
    expected = kl_divergences(new, old, system.distribution(new)).sum()
    assert np.mean(differences) == pytest.approx(expected, abs=4 * np.std(differences) / np.sqrt(len(played)))
    assert np.allclose(kl_divergences(new, new, system.distribution(new)), 0.0)


def test_the_distribution_is_that_of_played_trajectories() -> None:
    system = linear_systems.linear_system(1, steps=5, noise=0.1)
    controller = some_controller(system, 2)
    rng = np.random.default_rng(4)
    states = np.stack([linear_systems.play(system, controller, rng).states for _ in range(2000)])
    reached = system.distribution(controller)
    deviations = np.sqrt(np.diagonal(reached.covariances, axis1=1, axis2=2))
    assert np.all(np.abs(states.mean(axis=0) - reached.means) < 5 * deviations / np.sqrt(len(states)))
    expected = reached.covariances[-1]
    sampling = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / len(states))
    assert np.all(np.abs(np.cov(states[:, -1].T) - expected) < 5 * sampling)


def test_the_expected_cost_is_the_mean_cost_of_played_trajectories() -> None:
    system = linear_systems.linear_system(1, steps=5, noise=0.1)
    cost = linear_systems.quadratic_cost(6, system)
    controller = some_controller(system, 2)
    rng = np.random.default_rng(4)
    costs = []
    for _ in range(2000):
        played = linear_systems.play(system, controller, rng)
        z = np.concatenate([played.states, np.vstack([played.actions, np.zeros((1, 2))])], axis=1)
        quadratic = 0.5 * np.einsum("ti,tij,tj->t", z, cost.hessians, z)
        costs.append((cost.constants + np.einsum("ti,ti->t", cost.gradients, z) + quadratic).sum())
    expected = cost.expected(controller, system.distribution(controller)).sum()
    assert np.mean(costs) == pytest.approx(expected, abs=4 * np.std(costs) / np.sqrt(len(costs)))


@pytest.mark.parametrize(
    ("predicted", "actual", "expected"),
    [(1.0, 1.0, 5.0), (1.0, 0.5, 1.0), (1.0, 0.0, 0.5), (1.0, -9.0, 0.1), (-1.0, 1.0, 0.1)],
    ids=["as predicted", "half", "nothing", "much worse", "predicted nothing"],
)
def test_the_step_grows_if_the_prediction_was_right(predicted: float, actual: float, expected: float) -> None:
    assert next_step_size(1.0, predicted, actual, 0.01, 100.0) == pytest.approx(expected)
    assert next_step_size(1.0, predicted, actual, 0.6, 2.0) == pytest.approx(np.clip(expected, 0.6, 2.0))


def test_a_smallest_deviation_holds_and_without_one_a_collapsed_covariance_is_refused() -> None:
    system = linear_systems.linear_system(3)
    cost = linear_systems.quadratic_cost(4, system)
    last = some_controller(system, 5)
    found = improve(system, cost, last, 1000.0, smallest_deviation=0.1).controller
    assert np.linalg.eigvalsh(found.covariances).min() > 0.1**2 * (1 - 1e-9)
    with pytest.raises(ConfigurationError, match="eigenvalue"):
        LinearGaussianController(last.gains, last.offsets, 0 * last.covariances)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.inf])
def test_a_bound_that_is_not_above_zero_is_refused(bound: float) -> None:
    system = linear_systems.linear_system(3)
    with pytest.raises(ConfigurationError, match="KL bound"):
        improve(system, linear_systems.quadratic_cost(4, system), some_controller(system, 5), bound)


def test_a_cost_without_a_minimum_over_the_actions_is_refused() -> None:
    system = linear_systems.linear_system(3)
    cost = linear_systems.quadratic_cost(4, system)
    with pytest.raises(ConfigurationError, match="no minimum over the actions"):
        optimal_controller(system, QuadraticCost(cost.constants, cost.gradients, -cost.hessians))
