"""Every number of every configuration class has bounds: no NaN, no infinity, nothing beyond what its unit can mean."""

from __future__ import annotations

import importlib
import math
import pkgutil
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError

import rlfp_ros
from rlfp_ros import schema
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.schema import LARGEST, LARGEST_INTEGER, ConfigurationError, Schema
from rlfp_ros.simulation.tasks.task_settings import GoalSettings, TaskSettings

# Modules that cannot be imported here: they need a ROS installation, or run when they are imported.
SKIPPED = ("rlfp_ros.graph.ros2_launch",)
ELSEWHERE = {  # fields whose numbers are checked together with others, or that are not written by hand
    "Range.low": "against the limits of the parameter that it belongs to",
    "Range.high": "against the limits of the parameter that it belongs to",
    "Pose.quaternion_xyzw": "has length 1",
    "SafetyState.stamp": "ns",
    "ArmTwinSettings.seed": "any whole number",
    "SimulatorSettings.seed": "any whole number",
    "Episode.id": "counts",
    "Episode.seed": "any whole number",
    "Episode.stamp": "ns",
    "Ready.id": "counts",
    "Jog.stamp": "ns",
    "ListedBag.start_ms": "ms since the epoch",
    "FeatureStatistics.mean": "an encoder's numbers have no unit",
    "FeatureStatistics.covariance": "an encoder's numbers have no unit",
    "BaseControllerContract.parameters": "by the base controller's own class",
}


def _schemas() -> list[type[BaseModel]]:
    for module in pkgutil.walk_packages(rlfp_ros.__path__, "rlfp_ros."):
        if module.name not in SKIPPED and not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    return sorted(
        {kind for kind in below(BaseModel) if kind.__module__.startswith("rlfp_ros.")}, key=lambda kind: kind.__name__
    )


SCHEMAS = _schemas()


def _with(annotation: Any, number: float) -> Any:
    """A value of this type whose numbers are all `number`; None if it contains none."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (int, float):
        return number
    if origin is typing.Annotated:
        return _with(parts[0], number)
    if origin is tuple:
        values = [_with(part, number) for part in parts if part is not Ellipsis]
        return values if any(value is not None for value in values) else None
    if origin is dict:
        value = _with(parts[1], number)
        return None if value is None else {"a": value}
    if origin in (typing.Union, __import__("types").UnionType):
        return next((value for part in parts if (value := _with(part, number)) is not None), None)
    return None


REQUIRED = {"algorithm": "sac", "task": "reach"}  # of a training's plan
NUMBERS = [
    (kind, name, field)
    for kind in SCHEMAS
    for name, field in kind.model_fields.items()
    if _with(field.annotation, 1.0) is not None
]
IDS = [f"{kind.__name__}.{name}" for kind, name, _ in NUMBERS]


def _refused_fields(kind: type[BaseModel], name: str, value: Any) -> set[str]:
    with pytest.raises(ValidationError) as refused:  # at least for what is missing, if a class has other fields
        kind.model_validate({name: value, "no such field": 0})
    return {str(error["loc"][0]) for error in refused.value.errors() if error["loc"]}


def test_every_configuration_class_has_the_common_base() -> None:
    assert len(SCHEMAS) > 60
    assert [kind for kind in SCHEMAS if not issubclass(kind, Schema)] == []


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("kind", "name", "field"), NUMBERS, ids=IDS)
def test_no_number_may_be_nan_or_infinite(kind: type[BaseModel], name: str, field: Any, number: float) -> None:
    alias = field.alias or name
    assert alias in _refused_fields(kind, alias, _with(field.annotation, number))


@pytest.mark.parametrize("number", [1e11, -1e11])
@pytest.mark.parametrize("place", [place for place in IDS if place not in ELSEWHERE])
def test_every_number_has_bounds(place: str, number: float) -> None:
    kind, name, field = NUMBERS[IDS.index(place)]
    if issubclass(kind, TrainingSettings):  # as a whole, not field by field
        return
    assert name in _refused_fields(kind, name, _with(field.annotation, number))


def test_every_exception_is_a_field() -> None:
    assert set(ELSEWHERE) <= set(IDS)


class Anything(Schema):
    """One field of each kind, without bounds of its own."""

    number: float = 0.0
    count: int = 0
    numbers: tuple[float, ...] = ()
    table: dict[str, tuple[float, ...]] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", 10 * LARGEST),
        ("number", -10 * LARGEST),
        ("number", str(10 * LARGEST)),
        ("number", 10**400),
        ("count", LARGEST_INTEGER + 1),
        ("count", -(10**400)),
        ("count", 10**5000),  # longer than Python converts to text
        ("numbers", [10**5000]),
        ("numbers", [0.0, 10 * LARGEST]),
        ("table", {"a": [10 * LARGEST]}),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_a_number_of_a_size_without_a_meaning_is_refused_in_one_sentence(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=field) as refused:
        schema.validate({field: value}, Anything, "file.yaml")
    assert str(refused.value).startswith("file.yaml: ")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("kind", [kind for kind in SCHEMAS if issubclass(kind, TrainingSettings)])
def test_a_setting_of_a_training_that_cannot_be_computed_is_refused(kind: type[BaseModel]) -> None:
    required = {name: REQUIRED[name] for name, field in kind.model_fields.items() if field.is_required()}
    for name, field in kind.model_fields.items():
        value = _with(field.annotation, 1e10)
        if value is not None:
            with pytest.raises(ConfigurationError, match=name):
                schema.validate(required | {name: value}, kind, "settings")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_size": [0.0, 0.03, 0.03]}, "block_size.0"),
        ({"block_size": [0.03, -0.03, 0.03]}, "block_size.1"),
        ({"block_size": [35, 35, 35]}, "block_size.0"),  # mm
        ({"region": {"lower": [360, -180], "upper": [580, 180]}}, "region.lower.0"),
        ({"success_distance": 20}, "success_distance"),
        ({"time_limit": 1e7}, "time_limit"),
        ({"hold": 8.0}, "expected less than time_limit"),
    ],
)
def test_a_task_s_settings_that_make_no_episode_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        schema.validate({"task": "own", **changes}, TaskSettings, "own.yaml")


def test_distances_to_a_goal_in_millimetres_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="goal_distance"):
        schema.validate({"task": "own", "goal_distance": [100, 300]}, GoalSettings, "own.yaml")
