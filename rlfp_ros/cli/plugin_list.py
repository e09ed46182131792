"""`rlfp plugins`: everything that is selectable by name, with its description and origin."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import rlfp_ros
from rlfp_ros import plugins
from rlfp_ros.plugins import Registry

# A registry is one assignment at the top level of a module.
_REGISTRY = re.compile(r"^([A-Z][A-Z_]*)(?:: [^=\n]+)? = _?\w*Registry(?:\[.+\])?\(", re.MULTILINE)


@dataclass(frozen=True)
class Selectable:
    """One entry of a registry."""

    name: str
    description: str  # first line of its docstring
    origin: str  # module, or file of a plugin


def run(console: Console | None = None) -> int:
    """Print every registry and return the exit code."""
    console = console or Console(highlight=False)
    plugins.load_plugins()
    for module, packages in registry_modules():
        try:
            found = registries_of(module)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("rlfp_ros"):
                raise
            console.print(f"[yellow]{packages}: not listed, the Python package {error.name!r} is missing[/]\n")
            continue
        for registry in found:
            table = Table(title=f"[bold]{registry.kind}[/]", title_justify="left", show_header=False, box=None)
            for column in ("name", "description", "origin"):
                table.add_column(column, overflow="fold")
            for entry in entries(registry):
                table.add_row(escape(entry.name), escape(entry.description), f"[dim]{escape(entry.origin)}[/]")
            console.print(table)
            console.print()
    return 0


def registries_of(module: str) -> list[Registry[Any]]:
    """Return the registries that a module defines, without those that it imports."""
    found = importlib.import_module(module)
    return [getattr(found, name) for name in _REGISTRY.findall(inspect.getsource(found))]


def entries(registry: Registry[Any]) -> Iterator[Selectable]:
    """Yield the entries of a registry in alphabetical order."""
    for name in registry.names():
        entry = registry[name]
        yield Selectable(name, _description(entry), _origin(entry))


def _description(entry: object) -> str:
    """Return one line: the path of a file, or the first line of the docstring."""
    if isinstance(entry, Path):
        root = Path(rlfp_ros.__file__).parents[1]
        return f"{entry.relative_to(root) if entry.is_relative_to(root) else entry}"
    if not _is_algorithm(entry):
        return (inspect.getdoc(entry) or "").partition("\n")[0]
    # An algorithm is a file, whose docstring names its publication behind a colon or a full stop.
    text = inspect.getdoc(sys.modules[_subject(entry).__module__]) or ""
    return re.split(r"[:.]\s", text.replace("\n", " "))[0].rstrip(".") + "."


def _is_algorithm(entry: object) -> bool:
    return not inspect.isclass(entry) and hasattr(entry, "train")


def _subject(entry: object) -> object:
    """Return the function of an algorithm; of anything else the entry itself."""
    return getattr(entry, "train") if _is_algorithm(entry) else entry  # noqa: B009 - an object of any registry


def _origin(entry: object) -> str:
    if isinstance(entry, Path):
        return f"{entry}"
    entry = _subject(entry)
    module = sys.modules.get(getattr(entry, "__module__", ""))
    if module is not None and not module.__name__.startswith("rlfp_ros."):
        return str(getattr(module, "__file__", module.__name__))
    return module.__name__ if module is not None else "unknown"


def registry_modules() -> Iterator[tuple[str, str]]:
    """Yield (module, package) of every module of this package that defines a registry."""
    root = Path(rlfp_ros.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if _REGISTRY.search(path.read_text(encoding="utf-8")):
            words = path.relative_to(root.parent).with_suffix("").parts
            module = ".".join(words).removesuffix(".__init__")
            yield module, module.rpartition(".")[0]
