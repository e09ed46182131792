"""Learns a controller from played trajectories: play, fit local models, improve within a KL bound, and play again.

The loop knows neither arms nor simulators: what it needs is a function that plays a controller.

References
----------
S. Levine, P. Abbeel: Learning Neural Network Policies with Guided Policy Search under Unknown Dynamics, NIPS 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from rlfp_ros.dynamics.ilqr import Improvement, improve, next_step_size
from rlfp_ros.dynamics.linear_gaussian import LinearGaussianController, LinearGaussianDynamics
from rlfp_ros.dynamics.local_models import DynamicsPrior, fit_dynamics
from rlfp_ros.dynamics.played_trajectory import PlayedTrajectory
from rlfp_ros.dynamics.quadratic_cost import QuadraticCost, TrajectoryCost, mean_expansion
from rlfp_ros.schema import ConfigurationError, Schema

Play = Callable[[LinearGaussianController, int], PlayedTrajectory]  # controller, seed


class LocalLearning(Schema):
    """Number of trajectories, how far a controller may move from one iteration to the next, and the fit."""

    iterations: int = Field(default=8, ge=1, le=1000)
    rollouts: int = Field(default=5, ge=2, le=1000)  # trajectories per iteration
    kl: float = Field(default=2.0, gt=0, le=1000)  # nats per decision; bound of the first iteration
    smallest_kl: float = Field(default=0.1, gt=0, le=1000)  # nats per decision
    largest_kl: float = Field(default=20.0, gt=0, le=1000)  # nats per decision
    smallest_deviation: float = Field(default=0.05, gt=0, le=1)  # of actions in [-1, 1]
    uses_prior: bool = True
    clusters: int = Field(default=20, ge=1, le=1000)  # Gaussians of the prior, at most
    prior_weight: float = Field(default=1.0, gt=0, le=1000)  # trajectories that the prior counts for
    prior_rollouts: int = Field(default=20, ge=2, le=10_000)  # newest trajectories, to which the prior is fitted
    regularisation: float = Field(default=1e-3, gt=0, le=1)  # variance, in units of that of states and actions

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> LocalLearning:
        if not self.smallest_kl <= self.kl <= self.largest_kl:
            raise ValueError(
                f"kl is {self.kl}, expected {self.smallest_kl} (smallest_kl) to {self.largest_kl} (largest_kl)"
            )
        return self


@dataclass(frozen=True)
class LearningIteration:
    """One iteration: what was played, and the step that followed from it.

    Parameters
    ----------
    number
        From 1.
    controller
        The controller that was played.
    played
        Its trajectories.
    cost
        Their mean cost.
    kl_bound
        Largest divergence of the next controller's trajectories, nats.
    kept
        Whether this controller is the one that the step improves. If its cost is higher than that of the controller
        that it came from, that one is improved again, by a smaller step.
    step
        The step to the next controller; None if the learning ended because this one is good enough.
    """

    number: int
    controller: LinearGaussianController
    played: tuple[PlayedTrajectory, ...]
    cost: float
    kl_bound: float
    kept: bool
    step: Improvement | None


@dataclass(frozen=True)
class _Model:
    """A controller with its measured cost and what was fitted to its trajectories."""

    controller: LinearGaussianController
    cost: float
    dynamics: LinearGaussianDynamics
    expansion: QuadraticCost


def learn(
    play: Play,
    cost: TrajectoryCost,
    controller: LinearGaussianController,
    settings: LocalLearning,
    seeds: Sequence[int],
    enough: Callable[[Sequence[PlayedTrajectory]], bool] = lambda played: False,
    report: Callable[[LearningIteration], None] = lambda iteration: None,
) -> LinearGaussianController:
    """Return the first controller that is good enough, or else the one that follows from the last iteration.

    Parameters
    ----------
    play
        Plays a controller in the episode of a seed, with the seed's noise on the actions.
    cost
        To be lowered.
    controller
        The first controller. It has to explore: its noise shows what actions do.
    settings
        Numbers of iterations and of trajectories, and bounds.
    seeds
        One for each trajectory.
    enough
        Returns whether the trajectories of an iteration are good enough.
    report
        Called after each iteration.

    Raises
    ------
    ConfigurationError
        If there are too few seeds, or if nothing can be fitted to what was played.
    """
    needed = settings.iterations * settings.rollouts
    if len(seeds) < needed:
        raise ConfigurationError(
            f"learning: there are {len(seeds)} seeds for {settings.iterations} iterations of {settings.rollouts} "
            f"rollouts, expected {needed}; give more seeds"
        )
    rng = np.random.default_rng(list(seeds[:1]))
    history: list[PlayedTrajectory] = []
    kl, eta = settings.kl, 1.0
    best: _Model | None = None
    step: Improvement | None = None
    for number in range(settings.iterations):
        first = number * settings.rollouts
        played = tuple(play(controller, seed) for seed in seeds[first : first + settings.rollouts])
        history = [*history, *played][-settings.prior_rollouts :]
        measured = float(np.mean([cost.values(each).sum() for each in played]))
        kept = best is None or measured <= best.cost
        if best is not None and step is not None:
            predicted = step.last_cost - step.cost
            kl = next_step_size(kl, predicted, best.cost - measured, settings.smallest_kl, settings.largest_kl)
        bound = kl * controller.steps
        if enough(played):
            report(LearningIteration(number + 1, controller, played, measured, bound, True, None))
            break
        if best is None or kept:
            prior = None
            if settings.uses_prior:
                prior = DynamicsPrior.fit(history, rng, settings.clusters, weight=settings.prior_weight)
            dynamics = fit_dynamics(played, prior, settings.regularisation)
            best = _Model(controller, measured, dynamics, mean_expansion(cost, played))
        step = improve(best.dynamics, best.expansion, best.controller, bound, eta, settings.smallest_deviation)
        report(LearningIteration(number + 1, controller, played, measured, bound, kept, step))
        eta, controller = step.eta, step.controller
    return controller
