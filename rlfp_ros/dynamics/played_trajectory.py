"""States and actions that were played, checked before anything is fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlfp_ros.schema import ConfigurationError


@dataclass(frozen=True)
class PlayedTrajectory:
    """The states and actions of one played episode.

    Parameters
    ----------
    states
        [T + 1, X]; the last one is the state after the last action.
    actions
        [T, U], as they were given to the arm.

    Raises
    ------
    ConfigurationError
        If the shapes do not fit each other, or if a value is not finite.
    """

    states: np.ndarray
    actions: np.ndarray

    def __post_init__(self) -> None:
        states, actions = np.shape(self.states), np.shape(self.actions)
        if len(states) != 2 or len(actions) != 2 or states[0] != actions[0] + 1 or 0 in (*states, *actions):
            raise ConfigurationError(
                f"played trajectory: states have shape {states} and actions {actions}, expected [T + 1, X] and [T, U]; "
                "correct the function that plays"
            )
        for name, values in (("states", self.states), ("actions", self.actions)):
            wrong = np.argwhere(~np.isfinite(values))
            if len(wrong):
                step, component = wrong[0]
                raise ConfigurationError(
                    f"played trajectory: component {component} of {name} is {values[step, component]} at step {step}, "
                    "expected finite values; correct the source of the measurement"
                )

    @property
    def steps(self) -> int:
        """Number of actions."""
        return len(self.actions)

    def tuples(self) -> np.ndarray:
        """Return (state, action, next state) of every step, [T, X + U + X]."""
        return np.concatenate([self.states[:-1], self.actions, self.states[1:]], axis=1)


def stacked_tuples(trajectories: Sequence[PlayedTrajectory]) -> np.ndarray:
    """Return (state, action, next state) of several trajectories of one shape, [N, T, X + U + X].

    Raises ConfigurationError if there are none or if their shapes differ.
    """
    if not trajectories:
        raise ConfigurationError("local models: there are no trajectories, expected at least 2; play more of them")
    shapes = {(each.states.shape, each.actions.shape) for each in trajectories}
    if len(shapes) > 1:
        raise ConfigurationError(
            f"local models: the trajectories have {len(shapes)} different shapes, expected one; play all of them with "
            "the same number of decisions"
        )
    return np.stack([each.tuples() for each in trajectories])
