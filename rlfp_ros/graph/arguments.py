"""Parses launch arguments `name:=value`, each by the kind of its argument."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlfp_ros.graph.description import Argument, Arguments, Graph
from rlfp_ros.schema import ConfigurationError

DEFAULT_ARM = "panda"  # its bundle runs if neither `bundle` nor `arm` is given


def parse_assignments(words: Sequence[str], source: str) -> dict[str, str]:
    """Parse `["task:=reach", ...]` to a dictionary. Raises ConfigurationError for a word that is not an assignment."""
    values = {}
    for word in words:
        name, assigned, value = word.partition(":=")
        if not assigned or not name:
            hint = word.replace("=", ":=", 1) if "=" in word else f"{word.lstrip('-')}:=VALUE"
            raise ConfigurationError(f"{source}: {word!r} is not of the form name:=value; write {hint}")
        values[name] = value
    return values


def parse_arguments(graph: Graph, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Parse defaults and overrides by kind. Raises ConfigurationError that lists the possible values."""
    source = f"{graph.name}.launch.py"
    known = {argument.name: argument for argument in graph.arguments}
    unknown = [name for name in overrides if name not in known]
    if unknown:
        raise ConfigurationError(f"{source}: has no argument {', '.join(unknown)}; it has: {', '.join(known)}")
    given = {name: _text(value) for name, value in overrides.items()}
    texts = {name: given.get(name, argument.default) for name, argument in known.items()}
    for name, argument in known.items():
        if name not in given and "{" in argument.default:
            texts[name] = argument.default.format_map({**texts, "arm": _arm_label(texts["arm"])})
    return {name: _parse(argument, texts[name], source) for name, argument in known.items()}


def _arm_label(text: str) -> str:
    """Return the arm's part of a shipped bundle's name; for a file, its name without the suffix."""
    return Path(text).stem if Path(text).suffix in (".yaml", ".yml") else text or DEFAULT_ARM


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(argument: Argument, text: str, source: str) -> Any:
    where = f"{source}: {argument.name} is {text!r}"
    value: Any = text.strip()
    if argument.choices and value not in argument.choices:
        raise ConfigurationError(f"{where}; it can be: {', '.join(argument.choices)}")
    if argument.kind == "flag":
        if value.lower() not in ("true", "false"):
            raise ConfigurationError(f"{where}; it can be: true, false")
        return value.lower() == "true"
    if argument.kind in ("integer", "number"):
        try:
            value = int(value) if argument.kind == "integer" else float(value)
        except ValueError:
            raise ConfigurationError(f"{where}, expected {_range(argument)}") from None
        low = -float("inf") if argument.minimum is None else argument.minimum
        high = float("inf") if argument.maximum is None else argument.maximum
        if not low <= value <= high or value in (float("inf"), -float("inf")):
            raise ConfigurationError(f"{where}, expected {_range(argument)}")
    elif argument.pattern and not re.fullmatch(argument.pattern, value):
        raise ConfigurationError(f"{where}, expected {argument.description}")
    return value


def _range(argument: Argument) -> str:
    noun = "a whole number" if argument.kind == "integer" else "a number"
    if argument.minimum is not None and argument.maximum is not None:
        return f"{noun} from {argument.minimum:g} to {argument.maximum:g}"
    if argument.minimum is not None:
        return f"{noun} of at least {argument.minimum:g}"
    return noun


def image_size(arguments: Arguments) -> tuple[int, int] | None:
    """Return (width, height) px of the `image_size` argument, or None for the bundle's size."""
    text = arguments.get("image_size", "bundle")
    if text == "bundle":
        return None
    width, _, height = text.partition("x")
    return int(width), int(height or width)
