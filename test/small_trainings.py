"""Trainings by reinforcement of a few decisions, for tests."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from rlfp_ros.learning.algorithms.environments import TaskEnvironment  # noqa: E402
from rlfp_ros.learning.recipes.expert import (  # noqa: E402
    ExpertLessons,
    ExpertSettings,
)

STATE = TaskEnvironment("reach", profile="none", observation="state", images_per_decision=3, past_actions=3)


def quiet(done: int, text: str, **figures: float) -> None:
    """Show nothing."""


def expert_lessons(**changes: Any) -> ExpertLessons:
    settings = ExpertSettings(steps=90, round_steps=30, random_rounds=1, updates_per_step=0.2)
    sac = settings.sac.changed(hidden=16, batch=16, capacity=200)
    return ExpertLessons(STATE, settings.changed(sac=sac, **changes))


def untrained_expert() -> Any:
    lessons = expert_lessons()
    env = lessons.environment()
    learner = lessons.learner(env)
    env.close()
    return learner
