"""Tests of dynamics fitted to played trajectories, of their prior, and of the mixture of Gaussians."""

from __future__ import annotations

import linear_systems
import numpy as np
import pytest

from rlfp_ros.dynamics.gaussian_mixture import fit_mixture
from rlfp_ros.dynamics.linear_gaussian import LinearGaussianController, LinearGaussianDynamics
from rlfp_ros.dynamics.local_models import DynamicsPrior, fit_dynamics
from rlfp_ros.dynamics.played_trajectory import PlayedTrajectory
from rlfp_ros.schema import ConfigurationError


def explorer(system: LinearGaussianDynamics, deviation: float = 0.3) -> LinearGaussianController:
    steps, size = system.offsets.shape
    return LinearGaussianController.around_zero(steps, size, np.full(system.transitions.shape[2] - size, deviation))


def played(system: LinearGaussianDynamics, count: int, seed: int) -> list[PlayedTrajectory]:
    rng = np.random.default_rng(seed)
    return [linear_systems.play(system, explorer(system), rng) for _ in range(count)]


def error(dynamics: LinearGaussianDynamics, held_out: list[PlayedTrajectory]) -> float:
    """Return the root mean square error of the predicted next states."""
    errors = [
        dynamics.predict(t, each.states[t], each.actions[t]) - each.states[t + 1]
        for each in held_out
        for t in range(each.steps)
    ]
    return float(np.sqrt(np.square(errors).mean()))


def test_many_trajectories_without_noise_give_the_system_exactly() -> None:
    system = linear_systems.linear_system(0, noise=0.0)
    fitted = fit_dynamics(played(system, 20, 1), regularisation=1e-13)
    assert np.abs(fitted.transitions - system.transitions).max() < 1e-7
    assert np.abs(fitted.offsets - system.offsets).max() < 1e-7


def test_the_noise_of_the_system_is_found() -> None:
    system = linear_systems.linear_system(0, steps=10, noise=0.05)
    fitted = fit_dynamics(played(system, 400, 1))
    deviations = np.sqrt(np.diagonal(fitted.covariances, axis1=1, axis2=2))
    assert np.abs(deviations / 0.05 - 1).max() < 0.15


@pytest.mark.parametrize("seed", range(3))
def test_with_the_prior_5_trajectories_of_14_states_predict_better_than_without(seed: int) -> None:
    system = linear_systems.linear_system(seed, states=14, actions=3, steps=40, noise=0.02)
    data, held_out = played(system, 5, seed + 10), played(system, 10, seed + 20)
    prior = DynamicsPrior.fit(data, np.random.default_rng(0))
    with_prior, without = error(fit_dynamics(data, prior), held_out), error(fit_dynamics(data), held_out)
    assert with_prior < 0.5 * without
    assert with_prior < 3 * 0.02


def test_units_do_not_change_the_fit() -> None:
    system = linear_systems.linear_system(4)
    data = played(system, 6, 5)
    factors = np.array([1e-3, 1.0, 10.0, 1e3])
    scaled = [PlayedTrajectory(each.states * factors, each.actions) for each in data]
    fits = [fit_dynamics(each, DynamicsPrior.fit(each, np.random.default_rng(0))) for each in (data, scaled)]
    states = [data[0].states[3], scaled[0].states[3]]
    first, second = (fit.predict(3, state, data[0].actions[3]) for fit, state in zip(fits, states, strict=True))
    assert second == pytest.approx(first * factors, rel=1e-6)


def test_a_state_that_never_changes_is_kept() -> None:
    system = linear_systems.linear_system(4)
    still = [PlayedTrajectory(np.insert(each.states, 1, 0.7, axis=1), each.actions) for each in played(system, 6, 5)]
    fitted = fit_dynamics(still, DynamicsPrior.fit(still, np.random.default_rng(0)))
    assert fitted.predict(3, still[0].states[3], still[0].actions[3])[1] == pytest.approx(0.7)
    assert np.isfinite(fitted.transitions).all()


def test_one_trajectory_is_too_few() -> None:
    system = linear_systems.linear_system(0)
    with pytest.raises(ConfigurationError, match="there are 1 trajectories, expected at least 2"):
        fit_dynamics(played(system, 1, 0))
    with pytest.raises(ConfigurationError, match="no trajectories"):
        fit_dynamics([])


def test_actions_that_are_all_the_same_are_refused() -> None:
    system = linear_systems.linear_system(0)
    data = played(system, 4, 0)
    same = [PlayedTrajectory(each.states, data[0].actions) for each in data]
    with pytest.raises(ConfigurationError, match="its effect cannot be found"):
        fit_dynamics(same)


@pytest.mark.parametrize("name", ["states", "actions"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    arrays = {"states": np.zeros((6, 2)), "actions": np.zeros((5, 1))}
    arrays[name][3, 0] = value
    with pytest.raises(ConfigurationError, match=f"component 0 of {name} is {value} at step 3"):
        PlayedTrajectory(**arrays)


def test_trajectories_of_other_shapes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="states have shape"):
        PlayedTrajectory(np.zeros((5, 2)), np.zeros((5, 1)))
    system = linear_systems.linear_system(0)
    data = played(system, 2, 0)
    with pytest.raises(ConfigurationError, match="2 different shapes"):
        fit_dynamics([data[0], PlayedTrajectory(data[1].states[:-1], data[1].actions[:-1])])


def test_the_mixture_finds_clusters() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[-5.0, 0.0], [5.0, 0.0], [0.0, 8.0]])
    points = np.concatenate(
        [rng.normal(centre, 0.3, size=(count, 2)) for centre, count in zip(centres, (300, 100, 200), strict=True)]
    )
    mixture = fit_mixture(points, 3, rng)
    order = [int(np.linalg.norm(mixture.means - centre, axis=1).argmin()) for centre in centres]
    assert np.abs(mixture.means[order] - centres).max() < 0.15
    assert mixture.weights[order] == pytest.approx([300 / 600, 100 / 600, 200 / 600], abs=0.01)
    mean, covariance = mixture.moments(points)
    assert mean == pytest.approx(points.mean(axis=0), abs=0.1)
    assert np.diag(covariance) == pytest.approx(points.var(axis=0), rel=0.05)
    mean, covariance = mixture.moments(np.array([[5.1, 0.1]]))
    assert mean == pytest.approx([5.0, 0.0], abs=0.15)
    assert np.all((np.sqrt(np.diag(covariance)) > 0.25) & (np.sqrt(np.diag(covariance)) < 0.55))


def test_a_mixture_of_too_few_points_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="2 points for 3 Gaussians"):
        fit_mixture(np.zeros((2, 2)), 3, np.random.default_rng(0))
    with pytest.raises(ConfigurationError, match="not finite"):
        fit_mixture(np.full((5, 2), np.nan), 1, np.random.default_rng(0))


def test_a_mixture_of_equal_points_keeps_a_covariance() -> None:
    mixture = fit_mixture(np.ones((50, 3)), 2, np.random.default_rng(0))
    assert np.linalg.eigvalsh(mixture.covariances).min() > 1e-7
