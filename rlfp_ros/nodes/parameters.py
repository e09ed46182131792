"""ROS parameters from a pydantic settings class, which defines name, type, default, range, unit and description.

    class Settings(Schema):
        bundle: str = Field(description="bundle folder, or name of one in models/")
        rate_hz: float = Field(default=240.0, ge=1.0, le=1000.0, description="control rate, Hz")
        gain: float = Field(default=1.0, ge=0.0, le=1.0, description="residual gain", json_schema_extra=LIVE)

    settings = declare(node, Settings)

Supported field types: bool, int, float, str, string Literals and enums, tuples of bool, int, float or str, `X | None`
of the scalar types (None: the parameter is declared and not set), and other Schema classes (names joined by a dot).
"""

from __future__ import annotations

import enum
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from rlfp_ros import schema
from rlfp_ros.schema import ConfigurationError

LIVE: dict[str, Any] = {"live": True}  # json_schema_extra of a field that can be changed while the node runs

Settings = TypeVar("Settings", bound=BaseModel)
_Type = Parameter.Type
_SCALARS = {bool: _Type.BOOL, int: _Type.INTEGER, float: _Type.DOUBLE, str: _Type.STRING, Path: _Type.STRING}
_ARRAYS = {
    bool: _Type.BOOL_ARRAY,
    int: _Type.INTEGER_ARRAY,
    float: _Type.DOUBLE_ARRAY,
    str: _Type.STRING_ARRAY,
}
_WORDS = {
    _Type.NOT_SET: "nothing",
    _Type.BOOL: "a boolean (true or false)",
    _Type.INTEGER: "an integer",
    _Type.DOUBLE: "a number",
    _Type.STRING: "a string",
    _Type.BYTE_ARRAY: "a list of bytes",
    _Type.BOOL_ARRAY: "a list of booleans",
    _Type.INTEGER_ARRAY: "a list of integers",
    _Type.DOUBLE_ARRAY: "a list of numbers",
    _Type.STRING_ARRAY: "a list of strings",
}
_INTEGER_LIMIT = 2**63 - 1


@dataclass(frozen=True)
class _Declared:
    name: str  # with dots for nested settings
    type: Parameter.Type
    default: Any  # None if it is not set
    required: bool
    live: bool
    descriptor: ParameterDescriptor


def declare(node: Node, settings: type[Settings], on_change: Callable[[Settings], None] | None = None) -> Settings:
    """Declare every field of `settings` on `node` and return the validated values.

    Values come from the overrides that the node was started with (`-p name:=value`, a parameter file), else from the
    defaults. `on_change` gets the new settings whenever a LIVE parameter was set; every other one is read-only.
    Call it first in a node's constructor. Raises ConfigurationError, one sentence, for an unknown parameter, a wrong
    type, a value out of its range, or a required one that is missing.
    """
    where = f"{node.get_name()} parameters"
    declared = list(_flatten(settings))
    by_name = {parameter.name: parameter for parameter in declared}
    # rclpy has no public way to list a node's overrides other than declaring all of them unchecked.
    overrides: Mapping[str, Parameter] = node._parameter_overrides
    _refuse_unknown(node, where, overrides, by_name)
    values = {name: _typed(where, by_name[name], overrides[name]) for name in overrides if name in by_name}
    current = schema.validate(_nest(values), settings, source=where)

    for parameter in declared:
        value = _ros_value(_pick(current, parameter.name))
        if value is None or value == []:
            # An empty list has no type and None has no value, so these are declared by type.
            node.declare_parameter(parameter.name, parameter.type, parameter.descriptor, ignore_override=True)
        else:
            node.declare_parameter(parameter.name, value, parameter.descriptor, ignore_override=True)

    if any(parameter.live for parameter in declared):
        _follow_changes(node, where, by_name, settings, current, on_change)
    return current


def _refuse_unknown(
    node: Node, where: str, overrides: Mapping[str, Parameter], by_name: Mapping[str, _Declared]
) -> None:
    # rclpy's own are declared by the Node already, or (qos_overrides, start_type_description_service) later.
    unknown = [
        name
        for name in overrides
        if name not in by_name
        and not node.has_parameter(name)
        and not name.startswith("qos_overrides.")
        and name not in ("use_sim_time", "start_type_description_service")
    ]
    if unknown:
        raise ConfigurationError(
            f"{where}: {', '.join(sorted(unknown))} is not a parameter of this node, "
            f"which has: {', '.join(sorted(by_name))}"
        )


def _follow_changes(
    node: Node,
    where: str,
    by_name: Mapping[str, _Declared],
    settings: type[Settings],
    current: Settings,
    on_change: Callable[[Settings], None] | None,
) -> None:
    held = current.model_dump()

    def check(parameters: Iterable[Parameter]) -> SetParametersResult:
        try:
            candidate = _merge(held, parameters)
            schema.validate(candidate, settings, source=where)
        except ConfigurationError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def apply(parameters: Iterable[Parameter]) -> None:
        ours = [parameter for parameter in parameters if parameter.name in by_name]
        if ours:
            held.update(_merge(held, ours))
            if on_change:
                on_change(schema.validate(held, settings, source=where))

    def _merge(base: dict[str, Any], parameters: Iterable[Parameter]) -> dict[str, Any]:
        flat = {name: _typed(where, by_name[name], p) for p in parameters if (name := p.name) in by_name}
        return _overlay(base, _nest(flat))

    node.add_on_set_parameters_callback(lambda parameters: check(parameters))
    node.add_post_set_parameters_callback(lambda parameters: apply(parameters))


def _flatten(settings: type[BaseModel], prefix: str = "", default: Any = None) -> Iterable[_Declared]:
    hints = typing.get_type_hints(settings)
    for name, field in settings.model_fields.items():
        kind = _unwrapped(hints[name])
        full = prefix + name
        value = getattr(default, name) if default is not None else None
        if value is None and not field.is_required():
            value = field.get_default(call_default_factory=True)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _flatten(kind, f"{full}.", value)
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        ros_type = _ros_type(kind, full)
        live = bool(extra.get("live"))
        yield _Declared(
            name=full,
            type=ros_type,
            default=value,
            required=field.is_required(),
            live=live,
            descriptor=_descriptor(full, kind, ros_type, field, live),
        )


def _unwrapped(kind: Any) -> Any:
    """Return X for the type `X | None`."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        rest = [part for part in typing.get_args(kind) if part is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return kind


def _ros_type(kind: Any, name: str) -> Parameter.Type:
    origin = typing.get_origin(kind)
    if origin is typing.Literal or (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        return _Type.STRING
    if isinstance(kind, type) and kind in _SCALARS:
        return _SCALARS[kind]
    if origin in (tuple, list):
        element = next(iter(typing.get_args(kind)), None)
        if element in _ARRAYS:
            return _ARRAYS[element]
    raise TypeError(f"settings field {name} is {kind}, which has no ROS parameter type")


def _descriptor(name: str, kind: Any, ros_type: Parameter.Type, field: FieldInfo, live: bool) -> ParameterDescriptor:
    bounds: dict[str, float] = {}
    for constraint in field.metadata:
        for bound in ("ge", "gt", "le", "lt"):
            value = getattr(constraint, bound, None)
            if value is not None:
                bounds[bound] = float(value)
    words = [
        f"{text} {bounds[bound]:g}" for bound, text in (("gt", "above"), ("lt", "below")) if bound in bounds
    ]  # ROS ranges include their ends
    choices: list[Any] = []
    if typing.get_origin(kind) is typing.Literal:
        choices = list(typing.get_args(kind))
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        choices = [member.value for member in kind]
    if choices:
        words.append("one of: " + ", ".join(str(choice) for choice in choices))
    descriptor = ParameterDescriptor(
        name=name,
        type=ros_type.value,
        description=field.description or "",
        additional_constraints="; ".join(words),
        read_only=not live,
    )
    if bounds and ros_type == _Type.DOUBLE:
        low = bounds.get("ge", math.nextafter(bounds["gt"], math.inf) if "gt" in bounds else -sys.float_info.max)
        high = bounds.get("le", math.nextafter(bounds["lt"], -math.inf) if "lt" in bounds else sys.float_info.max)
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    elif bounds and ros_type == _Type.INTEGER:
        least = int(bounds["ge"]) if "ge" in bounds else int(bounds["gt"]) + 1 if "gt" in bounds else -_INTEGER_LIMIT
        most = int(bounds["le"]) if "le" in bounds else int(bounds["lt"]) - 1 if "lt" in bounds else _INTEGER_LIMIT
        descriptor.integer_range = [IntegerRange(from_value=least, to_value=most, step=1)]
    return descriptor


def _typed(where: str, declared: _Declared, given: Parameter) -> Any:
    """Convert an override to the setting's type; an integer is accepted for a float, as a user expects of `2`."""
    value = given.value
    if given.type_ == declared.type:
        return list(value) if declared.type.name.endswith("ARRAY") else value
    if declared.type == _Type.DOUBLE and given.type_ == _Type.INTEGER:
        return float(value)
    if declared.type == _Type.DOUBLE_ARRAY and given.type_ == _Type.INTEGER_ARRAY:
        return [float(element) for element in value]
    if given.type_ == _Type.NOT_SET and not declared.required:
        return declared.default
    if declared.type.name.endswith("ARRAY") and given.type_.name.endswith("ARRAY") and len(value) == 0:
        return []  # `[]` in YAML has no type of its own
    raise ConfigurationError(
        f"{where}: {declared.name} is {value!r}, which is {_WORDS[given.type_]}, expected {_WORDS[declared.type]}"
    )


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return nested


def _overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        merged[name] = _overlay(merged[name], value) if isinstance(value, dict) and name in merged else value
    return merged


def _pick(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


def _ros_value(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, (tuple, list)) else value
