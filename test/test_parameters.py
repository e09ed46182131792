"""Tests of ROS parameters made from settings: descriptions, ranges, and errors in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from pydantic import Field
from rclpy.node import Node
from rclpy.parameter import Parameter

from rlfp_ros.nodes import parameters
from rlfp_ros.nodes.parameters import LIVE, declare
from rlfp_ros.schema import ConfigurationError, Schema


class Limits(Schema):
    speed_m_s: float = Field(default=0.5, gt=0, le=2, description="tool speed, m/s")


class Settings(Schema):
    bundle: str = Field(description="bundle folder")
    rate_hz: float = Field(default=240.0, ge=1, le=1000, description="control rate, Hz")
    retries: int = Field(default=3, ge=0, description="how often")
    tick_on: Literal["timer", "joint_states"] = Field(default="timer", description="who ticks")
    wait_for: tuple[str, ...] = Field(default=(), description="nodes to wait for")
    weights: tuple[float, ...] = Field(default=(1.0, 2.0), description="weights")
    enabled: bool = Field(default=False, description="start enabled")
    timeout_s: float | None = Field(default=None, description="none: no limit")
    gain: float = Field(default=1.0, ge=0, le=1, description="residual gain", json_schema_extra=LIVE)
    limits: Limits = Limits()


@pytest.fixture
def make_node(ros_context: Any) -> Iterator[Callable[..., Node]]:
    nodes = []

    def make(**overrides: Any) -> Node:
        given = [Parameter(name.replace("__", "."), value=value) for name, value in overrides.items()]
        nodes.append(Node("settings_test", context=ros_context, parameter_overrides=given))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()


def test_defaults_and_overrides_arrive_validated(make_node: Callable[..., Node]) -> None:
    node = make_node(bundle="b", rate_hz=100, wait_for=["policy"], weights=[3, 4], timeout_s=1.5, limits__speed_m_s=0.2)
    settings = declare(node, Settings)
    assert settings == Settings(
        bundle="b",
        rate_hz=100.0,
        wait_for=("policy",),
        weights=(3.0, 4.0),
        timeout_s=1.5,
        limits=Limits(speed_m_s=0.2),
    )
    assert node.get_parameter("rate_hz").value == 100.0
    assert node.get_parameter("limits.speed_m_s").value == 0.2


def test_parameters_describe_themselves(make_node: Callable[..., Node]) -> None:
    node = make_node(bundle="b")
    declare(node, Settings)
    rate = node.describe_parameter("rate_hz")
    assert rate.description == "control rate, Hz"
    assert (rate.floating_point_range[0].from_value, rate.floating_point_range[0].to_value) == (1.0, 1000.0)
    assert rate.read_only
    retries = node.describe_parameter("retries")
    assert retries.integer_range[0].from_value == 0
    assert node.describe_parameter("tick_on").additional_constraints == "one of: timer, joint_states"
    assert node.describe_parameter("limits.speed_m_s").additional_constraints == "above 0"
    assert not node.describe_parameter("gain").read_only
    assert node.has_parameter("timeout_s")  # declared, and without a value
    assert node.has_parameter("wait_for")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({}, "settings_test parameters: bundle is missing; add it"),
        ({"bundle": "b", "rate": 3.0, "foo": 1}, "foo, rate is not a parameter of this node, which has: bundle,"),
        ({"bundle": "b", "rate_hz": "fast"}, "rate_hz is 'fast', which is a string, expected a number"),
        ({"bundle": 3}, "bundle is 3, which is an integer, expected a string"),
        ({"bundle": "b", "retries": 2.5}, "retries is 2.5, which is a number, expected an integer"),
        ({"bundle": "b", "wait_for": "policy"}, "wait_for is 'policy', which is a string, expected a list of strings"),
        ({"bundle": "b", "rate_hz": 0.5}, "rate_hz is 0.5, but it should be greater than or equal to 1"),
        ({"bundle": "b", "tick_on": "clock"}, "tick_on is 'clock', but it should be 'timer' or 'joint_states'"),
        ({"bundle": "b", "limits__speed_m_s": 0.0}, "limits.speed_m_s is 0.0, but it should be greater than 0"),
        ({"bundle": "b", "limits__speed": 1.0}, "limits.speed is not a parameter of this node"),
    ],
)
def test_wrong_parameters_are_refused_in_one_sentence(
    make_node: Callable[..., Node], overrides: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        declare(make_node(**overrides), Settings)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_use_sim_time_is_known_to_every_node(make_node: Callable[..., Node]) -> None:
    declare(make_node(bundle="b", use_sim_time=True), Settings)


def test_live_parameters_change_and_the_others_do_not(make_node: Callable[..., Node]) -> None:
    node = make_node(bundle="b")
    changes: list[Settings] = []
    declare(node, Settings, changes.append)
    assert node.set_parameters([Parameter("gain", value=0.25)])[0].successful
    assert [settings.gain for settings in changes] == [0.25]
    assert changes[0].bundle == "b"
    assert not node.set_parameters([Parameter("gain", value=1.5)])[0].successful
    assert not node.set_parameters([Parameter("rate_hz", value=50.0)])[0].successful
    assert not node.set_parameters([Parameter("gain", value="high")])[0].successful
    assert len(changes) == 1


def test_a_settings_class_without_a_ros_type_is_a_programming_error(make_node: Callable[..., Node]) -> None:
    class Odd(Schema):
        table: dict[str, float]

    with pytest.raises(TypeError, match="table"):
        parameters.declare(make_node(), Odd)
