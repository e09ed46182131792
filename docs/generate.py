"""Writes the parts of the documentation that follow from code and from measurements.

    .venv/bin/python docs/generate.py           # write
    .venv/bin/python docs/generate.py --check   # exit code 1 if a page is out of date

A part stands between two marks in a page, and `PARTS` says what makes it:

    <!-- generated: NAME -->
    ...
    <!-- end of NAME -->
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import camera_parts
import driver_parts
import safety_parts
from page_tables import field_comments, table

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "docs" / "measured"

PARTS: dict[str, Callable[[], str]] = {}
MARKS = re.compile(r"<!-- generated: (?P<name>[\w-]+) -->\n(?P<text>.*?)<!-- end of (?P=name) -->", re.DOTALL)


def part(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Make a function the maker of the part `name`."""

    def register(function: Callable[[], str]) -> Callable[[], str]:
        PARTS[name] = function
        return function

    return register


def sentence(text: str) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


UNITS = re.compile(r"(rad|m|s|kg|px|N m|Hz|ns|ms|mm)\b")
IDENTIFIER = re.compile(r"\w+[/_]\w")  # a topic or a field


def capitalised(text: str, values: Iterable[object] = ()) -> str:
    """A text that begins with a capital letter, unless it begins with a unit, an identifier, or one of the values."""
    first = text.partition(":")[0]
    as_it_is = UNITS.match(text) or IDENTIFIER.match(text) or first in ("true", "false", *map(str, values))
    return text if as_it_is else text[:1].upper() + text[1:]


# --- reference -------------------------------------------------------------------------------------------------------


@part("cli")
def cli() -> str:
    """Every command with its options."""
    from rlfp_ros.cli import build_parser

    return "\n\n".join(_commands(build_parser(), "rlfp", 2))


def _commands(parser: argparse.ArgumentParser, name: str, level: int) -> Iterator[str]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    options = [
        action for action in parser._actions if action not in groups and action.dest not in ("help", "command_plugins")
    ]
    if name != "rlfp":
        yield f"{'#' * min(level, 4)} {name}\n\n{parser.description or ''}"
    if options:
        yield table(("option", "what it does"), (_option(option) for option in options))
    for group in groups:
        for command, child in group.choices.items():
            yield from _commands(child, f"{name} {command}", level if name == "rlfp" else level + 1)


def _option(option: argparse.Action) -> tuple[str, str]:
    metavar = option.metavar or ("|".join(map(str, option.choices)) if option.choices else option.dest.upper())
    value = "" if option.nargs == 0 else f" {metavar if isinstance(metavar, str) else ' '.join(metavar)}"
    names = ", ".join(option.option_strings)
    help_text = (option.help or "").replace("%(default)s", str(option.default)).replace("%%", "%")
    return f"`{names}{value}`" if names else f"`{value.strip()}`", capitalised(help_text, option.choices or ())


@part("launch-sim")
def launch_sim() -> str:
    """Arguments of sim.launch.py."""
    return _launch("sim")


@part("launch-real-arm")
def launch_real_arm() -> str:
    """Arguments of real_arm.launch.py."""
    return _launch("real_arm")


def _launch(name: str) -> str:
    from rlfp_ros.graph.catalogue import find_graph

    graph = find_graph(f"{name}.launch.py")
    nodes = table(("node", "what it does"), ((f"`{node.executable}`", node.description) for node in graph.nodes))
    rows = []
    for argument in graph.arguments:
        choices = f" One of {', '.join(f'`{choice}`' for choice in argument.choices)}." if argument.choices else ""
        text = capitalised(argument.description, argument.choices or ()).rstrip(".") + "."
        rows.append((f"`{argument.name}`", f"`{argument.default}`" if argument.default else "", text + choices))
    return f"{graph.description}\n\n{nodes}\n\n{table(('argument', 'default', 'what it does'), rows)}"


@part("topics")
def topics() -> str:
    """Every topic of the graph with its type and quality of service."""
    from rlfp_ros.nodes import messages

    rows = []
    for value in vars(messages).values():
        if isinstance(value, messages.Topic):
            package, name = value.type.__module__.split(".")[0], value.type.__name__
            qos = value.qos
            policies = [str(qos.reliability.name).lower().replace("_", " "), f"depth {qos.depth}"]
            if qos.durability.name == "TRANSIENT_LOCAL":
                policies.append("latched")
            if qos.deadline.nanoseconds and qos.deadline.nanoseconds < 2**62:
                policies.append(f"deadline {qos.deadline.nanoseconds / 1e9:g} s")
            rows.append((f"`{value.name}`", f"{package}/{name}", ", ".join(policies)))
    return table(("topic", "type", "offered quality of service"), rows)


NODES = {
    "simulator": "simulator",
    "perception": "perception",
    "policy": "policy",
    "residual_controller": "residual_controller",
    "recorder": "recorder",
    "arm_twin": "arm_twin",
    "camera": "camera",
    "arm_driver": "arm_driver",
    "checklist": "checklist",
    "operator": "operator",
}


@part("parameters")
def parameters() -> str:
    """Every parameter of every node."""
    parts = []
    for node in NODES:
        module = import_module(f"rlfp_ros.nodes.{node}")
        settings = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == module.__name__
        ]
        parts.append(f"## {node}\n\n{sentence(module.__doc__ or '')}")
        rows = [_parameter(name, field) for model in settings[:1] for name, field in model.model_fields.items()]
        parts.append(table(("parameter", "default", "range", "what it is"), rows))
    return "\n\n".join(parts)


def _parameter(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    default = "required" if field.is_required() else f"`{_plain(field.default)}`"
    live = " May change while the node runs." if field.json_schema_extra else ""
    text = (field.description or "").strip()
    return (
        f"`{name}`",
        default,
        _range(field),
        capitalised(text, typing.get_args(field.annotation)).rstrip(".") + "." + live,
    )


def _plain(value: Any) -> str:
    return (
        str(value).lower() if isinstance(value, bool) else "''" if value == "" else str(getattr(value, "value", value))
    )


def _range(field: FieldInfo) -> str:
    bounds = {}
    for constraint in field.metadata:
        for attribute in ("ge", "gt", "le", "lt"):
            if getattr(constraint, attribute, None) is not None:
                bounds[attribute] = f"{getattr(constraint, attribute):g}"
    words = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}
    if bounds:
        return " ".join(words[name].format(bounds[name]) for name in words if name in bounds)
    arguments = typing.get_args(field.annotation)
    return ", ".join(f"`{value}`" for value in arguments if isinstance(value, str))


@part("contract")
def contract() -> str:
    """Every field of bundle.yaml."""
    from rlfp_ros.contract import Contract

    return "\n\n".join(_schemas(Contract, {}))


@part("arm-file")
def arm_file() -> str:
    """Every field of an arm's file."""
    from rlfp_ros.control.arm import Arm

    return "\n\n".join(_schemas(Arm, {}))


@part("cell-file")
def cell_file() -> str:
    """Every field of a cell's file."""
    from rlfp_ros.control.workspace import CellFile

    return "\n\n".join(_schemas(CellFile, {}))


def _schemas(model: type[BaseModel], seen: dict[type[BaseModel], None]) -> Iterator[str]:
    """A table for each schema that `model` consists of, `model` first."""
    seen[model] = None
    comments = field_comments(model)
    rows, children = [], []
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        inner = [kind for kind in _kinds(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        children += [kind for kind in inner if kind not in seen]
        default = _default(field)
        text = field.description or comments.get(name, "")
        text = (
            capitalised(text) if text else ", ".join(f"[{kind.__name__}](#{kind.__name__.lower()})" for kind in inner)
        )
        rows.append((f"`{field.alias or name}`", default, _range(field), text))
    yield f"## {model.__name__}\n\n{sentence(model.__doc__ or '')}"
    yield table(("field", "default", "range", "what it is"), rows)
    for child in dict.fromkeys(children):
        if child not in seen:
            yield from _schemas(child, seen)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory_takes_validated_data:
        return "from other fields"
    return f"`{_plain(field.get_default(call_default_factory=True))}`"


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in typing.get_args(annotation):
        yield from _kinds(argument)


@part("names")
def names() -> str:
    """Everything that is selectable by name."""
    from rlfp_ros.cli.plugin_list import entries, registries_of, registry_modules

    parts = []
    for module, _ in registry_modules():
        for registry in registries_of(module):
            parts.append(f"## {registry.kind.capitalize()}s")
            rows = ((f"`{entry.name}`", entry.description) for entry in entries(registry))
            parts.append(table(("name", "what it is"), rows))
    return "\n\n".join(parts)


# --- measurements ----------------------------------------------------------------------------------------------------


@part("success")
def success() -> str:
    """Success of the shipped bundles by place, from docs/measured/transfer.json."""
    document = json.loads((MEASURED / "transfer.json").read_text(encoding="utf-8"))
    shipped = [row for row in document["rows"] if row["policy"] == row["bundle"]]
    places = list(dict.fromkeys(row["profile"] for row in shipped))
    rows = []
    for bundle in dict.fromkeys(row["bundle"] for row in shipped):
        by_place = {row["profile"]: row for row in shipped if row["bundle"] == bundle}
        rows.append(
            [f"`{bundle}`", *(f"{by_place[place]['successes']}" if place in by_place else "-" for place in places)]
        )
    episodes = sorted({row["episodes"] for row in shipped})
    dates = sorted({row["date"] for row in shipped})
    header = ["bundle", *(place.replace("twin_", "") for place in places)]
    measured = f"Measured {dates[0]} to {dates[-1]}" if len(dates) > 1 else f"Measured {dates[0]}"
    return (
        f"{table(header, rows)}\n\n{measured} on {shipped[0]['machine']}: episodes that succeeded, of "
        f"{' or '.join(map(str, episodes))} with the same seeds in every column. `train` and `validation` are "
        "PyBullet, the others are rooms of the MuJoCo twin that no training has seen. By `./rlfp bench transfer`."
    )


part("cameras")(lambda: driver_parts.cameras(_parameter))
part("arm-drivers")(lambda: driver_parts.arm_drivers(_parameter))
part("reason-codes")(safety_parts.reason_codes)
part("safety-stops")(safety_parts.safety_stops)
part("safety-filter")(safety_parts.safety_filter)


@part("training-curve")
def training_curve() -> str:
    """What the image of a training curve shows."""
    curve = json.loads((MEASURED / "training_curve.json").read_text(encoding="utf-8"))
    return (
        f"`{curve['command']}`: {curve['result']['successes']} of {curve['result']['episodes']} fresh episodes succeed "
        f"after {curve['steps']:,} steps and {curve['minutes']:.0f} minutes on {curve['machine']} ({curve['date']}). "
        f"The lines are means over {curve['window']} episodes."
    )


part("camera-latency")(camera_parts.latency)


# --- pages -----------------------------------------------------------------------------------------------------------


def pages() -> list[Path]:
    """Every page that may have generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def rendered(text: str, source: str) -> str:
    """A page with its parts made anew. Raises ValueError if it names a part that nothing makes."""

    def make(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in PARTS:
            raise ValueError(f"{source}: nothing makes the part {name!r}; there are: {', '.join(sorted(PARTS))}")
        return f"<!-- generated: {name} -->\n\n{PARTS[name]().strip()}\n\n<!-- end of {name} -->"

    return MARKS.sub(make, text)


def main(arguments: list[str] | None = None) -> int:
    """Write every page that is out of date; with --check only name them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is out of date")
    options = parser.parse_args(arguments)
    stale = []
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = rendered(before, str(page.relative_to(ROOT)))
        if after != before:
            stale.append(page)
            if not options.check:
                page.write_text(after, encoding="utf-8")
    for page in stale:
        print(f"{page.relative_to(ROOT)}: {'out of date; run docs/generate.py' if options.check else 'written'}")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
