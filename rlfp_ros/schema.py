"""Configuration as data with a schema: unknown keys are refused, errors name file, field, found and expected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

LARGEST = 1e12  # of any number with a fraction; a larger one is a mistake in every unit
LARGEST_INTEGER = 2**63 - 1  # of ROS parameters, and of stamps in ns
LONGEST_SHOWN = 100  # characters of a value in a message
FARTHEST = 100.0  # m; coordinates in mm are beyond it
QUATERNION_TOLERANCE = 0.01  # of its length; numbers with three digits are accepted


class ConfigurationError(ValueError):
    """A mistake that the user can correct. The CLI and the nodes print its message without a traceback."""


class Schema(BaseModel):
    """Base of every configuration class: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_of_a_size_that_means_something(self) -> Self:
        for name, value in self:
            large = next(_too_large(value), None)
            if large is not None:
                limit = f"{LARGEST:g}" if isinstance(large, float) else str(LARGEST_INTEGER)
                raise ValueError(f"{name} is or contains {shown(large)}, expected at most {limit}; correct it")
        return self


def _too_large(value: Any) -> Iterator[float]:
    """Yield the numbers in a field's value whose size means nothing in any unit."""
    if (isinstance(value, float) and abs(value) > LARGEST) or (isinstance(value, int) and abs(value) > LARGEST_INTEGER):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _too_large(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _too_large(part)


# Numbers with a unit, for the fields of configuration classes.
Coordinate = Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)]  # m
Point = tuple[Coordinate, Coordinate, Coordinate]  # m
Direction = tuple[Coordinate, Coordinate, Coordinate]  # of any length
Edge = Annotated[float, Field(ge=0.001, le=10.0)]  # m, of a box
Angle = Annotated[float, Field(ge=-1000.0, le=1000.0)]  # rad; joints that turn many times have wide limits


class Pose(Schema):
    """A rigid transform `T_a_b`: maps coordinates of frame b into frame a."""

    xyz: Point  # m
    quaternion_xyzw: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)

    @model_validator(mode="after")
    def _is_a_rotation(self) -> Pose:
        length = float(np.linalg.norm(self.quaternion_xyzw))
        if abs(length - 1.0) > QUATERNION_TOLERANCE:
            raise ValueError(
                f"quaternion_xyzw is {list(self.quaternion_xyzw)} of length {length:.3g}, expected length 1; correct it"
            )
        return self

    def matrix(self) -> np.ndarray:
        """Return the homogeneous transform, 4 x 4."""
        x, y, z, w = np.asarray(self.quaternion_xyzw) / np.linalg.norm(self.quaternion_xyzw)
        transform = np.eye(4)
        transform[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        transform[:3, 3] = self.xyz
        return transform


Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but a field that is given twice is an error: YAML itself takes the last one silently."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if key.value in seen:
                problem = f"{key.value} is given twice; remove one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: Path) -> Any:
    """Read a YAML file. Raises ConfigurationError with line and column if it does not parse."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror or error}); correct that") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", error)).split())
        raise ConfigurationError(f"{path}{where}: not valid YAML ({reason})") from None
    except (ValueError, OverflowError) as error:  # a date such as 2020-13-45, or a value that its tag does not allow
        raise ConfigurationError(f"{path}: has a value that YAML cannot read ({error}); put it in quotes") from None
    except RecursionError:
        raise ConfigurationError(f"{path}: is nested too deeply, expected a configuration file; correct it") from None


def named_values(text: str, source: str, example: str) -> dict[str, Any]:
    """Parse names and values that a user gives as YAML in one argument or parameter; an empty text has none.

    Parameters
    ----------
    text
        Such as "{rate_hz: 30}".
    source
        How messages name it.
    example
        A valid text, for the message.

    Raises
    ------
    ConfigurationError
        If the text is anything else than names with values.
    """
    try:
        found = yaml.load(text, _Loader) if text.strip() else {}
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        found = text
    if not isinstance(found, dict):
        raise ConfigurationError(f"{source} is {shown(text)}, expected names and values, such as {example}")
    return found


def load(path: Path, model: type[Model]) -> Model:
    """Load a configuration file as `model`. Raises ConfigurationError naming file, field, found and expected."""
    return validate(read_yaml(path), model, source=str(path))


def validate(document: Any, model: type[Model], source: str) -> Model:
    """Validate `document` (from YAML or JSON) as `model`; `source` names it in errors."""
    if not isinstance(document, dict):
        found = "empty" if document is None else type(document).__name__
        raise ConfigurationError(f"{source}: is {found}, expected a mapping of fields")
    try:
        checked = model.model_validate(document)
    except ValidationError as error:
        raise refusal(error, source) from None
    for field, value in _booleans_as_numbers(document, checked):
        raise ConfigurationError(f"{source}: {field} is {str(value).lower()}, expected a number; correct it")
    return checked


def _booleans_as_numbers(given: Any, checked: Any, field: str = "") -> Iterator[tuple[str, bool]]:
    """Yield the fields that are true, false, yes or no in the document and became 1 or 0 in the model."""
    if isinstance(given, bool):
        if isinstance(checked, (int, float)) and not isinstance(checked, bool):
            yield field, given
        return
    parts: Iterable[tuple[Any, Any, Any]] = ()
    if isinstance(given, dict) and isinstance(checked, BaseModel):
        parts = ((key, value, getattr(checked, str(key), None)) for key, value in given.items())
    elif isinstance(given, dict) and isinstance(checked, dict):
        parts = ((key, value, checked.get(key)) for key, value in given.items())
    elif isinstance(given, (list, tuple)) and isinstance(checked, (list, tuple)):
        parts = ((place, *pair) for place, pair in enumerate(zip(given, checked, strict=False)))
    for key, value, other in parts:
        yield from _booleans_as_numbers(value, other, f"{field}.{key}" if field else str(key))


def refusal(error: ValidationError, source: str) -> ConfigurationError:
    """Convert a pydantic error to a ConfigurationError; `source` names the validated document."""
    return ConfigurationError("; ".join(_sentence(source, detail) for detail in error.errors()[:3]))


def shown(value: Any) -> str:
    """Return a value as messages show it, shortened if it is long."""
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return f"a whole number of about {value.bit_length() * 3 // 10} digits"
    try:
        text = repr(value)
    except ValueError:  # it contains such a number
        text = type(value).__name__
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _sentence(source: str, detail: Any) -> str:
    field = ".".join(str(part) for part in detail["loc"]) or "document"
    if detail["type"] == "extra_forbidden":
        return f"{source}: {field} is not a known field; remove it or correct its name"
    if detail["type"] == "missing":
        return f"{source}: {field} is missing; add it"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if detail["type"] == "value_error" and not isinstance(detail["input"], (str, int, float, list, tuple)):
        return f"{source}: {field}: {message}"  # several fields contradict each other; the message names them
    return f"{source}: {field} is {shown(detail['input'])}, but it {message}"
