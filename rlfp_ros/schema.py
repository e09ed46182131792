"""Configuration as data with a schema: unknown keys are refused, errors name file, field, found and expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigurationError(ValueError):
    """A mistake that the user can correct. The CLI and the nodes print its message without a traceback."""


class Schema(BaseModel):
    """Base of every configuration class: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Pose(Schema):
    """A rigid transform `T_a_b`: maps coordinates of frame b into frame a."""

    xyz: tuple[float, float, float]  # m
    quaternion_xyzw: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)

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


def read_yaml(path: Path) -> Any:
    """Read a YAML file. Raises ConfigurationError with line and column if it does not parse."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from None


def load(path: Path, model: type[Model]) -> Model:
    """Load a configuration file as `model`. Raises ConfigurationError naming file, field, found and expected."""
    return validate(read_yaml(path), model, source=str(path))


def validate(document: Any, model: type[Model], source: str) -> Model:
    """Validate `document` (from YAML or JSON) as `model`; `source` names it in errors."""
    if not isinstance(document, dict):
        raise ConfigurationError(f"{source}: is {type(document).__name__}, expected a mapping of fields")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise refusal(error, source) from None


def refusal(error: ValidationError, source: str) -> ConfigurationError:
    """Convert a pydantic error to a ConfigurationError; `source` names the validated document."""
    return ConfigurationError("; ".join(_sentence(source, detail) for detail in error.errors()[:3]))


def _sentence(source: str, detail: Any) -> str:
    field = ".".join(str(part) for part in detail["loc"]) or "document"
    if detail["type"] == "extra_forbidden":
        return f"{source}: {field} is not a known field; remove it or correct its name"
    if detail["type"] == "missing":
        return f"{source}: {field} is missing; add it"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if detail["type"] == "value_error" and not isinstance(detail["input"], (str, int, float)):
        return f"{source}: {field}: {message}"  # several fields contradict each other; the message names them
    return f"{source}: {field} is {detail['input']!r}, but it {message}"
