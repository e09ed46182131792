"""Registries of classes and functions that are selectable by name and open to plugins.

A registry is one line beside the interface that its entries satisfy, and an entry is one decorator:

    TASKS = Registry[type[Task]]("task", builtin="rlfp_ros.simulation.tasks")

    @TASKS.register("reach")
    class Reach(Task): ...

The modules of the package `builtin` are imported when a name is first looked up, and so are plugins. A plugin is a
module that registers something when it is imported. There are two ways to name one:

- a package declares it as an entry point of the group `rlfp_ros.plugins`,
- `rlfp --plugin my_task.py` loads one file. The option sets the environment variable `RLFP_PLUGINS`, which child
  processes (nodes, vector environments) inherit.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from rlfp_ros.schema import ConfigurationError

ENTRY_POINTS = "rlfp_ros.plugins"
MODULE_PREFIX = "rlfp_plugin_"  # before the stem of a plugin's file
VARIABLE = "RLFP_PLUGINS"  # files, separated like the entries of PATH

Entry = TypeVar("Entry")
Registered = TypeVar("Registered")


class Registry(Generic[Entry]):
    """Entries of one kind, by name.

    Parameters
    ----------
    kind
        What an entry is, for messages: "task", "encoder".
    builtin
        Package whose modules register the entries that ship.
    entry_type
        Base class of entries that are classes, type of other entries.
    members
        Attributes and methods that an entry must have.
    """

    def __init__(
        self, kind: str, builtin: str, entry_type: type | tuple[type, ...] = object, members: Sequence[str] = ()
    ) -> None:
        self.kind = kind
        self._builtin = builtin
        self._entry_type = entry_type if isinstance(entry_type, tuple) else (entry_type,)
        self._members = members
        self._entries: dict[str, Entry] = {}
        self._places: dict[str, str] = {}  # name -> where it was registered
        self._complete = False

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Return a decorator that makes a class or function selectable as `name`.

        Raises
        ------
        ConfigurationError
            If another entry has this name.
        """

        def decorate(entry: Registered) -> Registered:
            self.add(name, entry)  # type: ignore[arg-type]  # a decorator returns the very type it was given
            return entry

        return decorate

    def add(self, name: str, entry: Entry) -> None:
        """Make `entry` selectable as `name`.

        Raises
        ------
        ConfigurationError
            If another entry has this name, or if this one is of another type or lacks a method.
        """
        place = _place()
        self._check(name, entry, place)
        before = self._entries.get(name)
        if before is not None and (self._places[name], _label(before)) != (place, _label(entry)):
            raise ConfigurationError(
                f"{self.kind} {name!r} is registered twice, in {self._places[name]} and in {place}; rename one"
            )
        self._entries[name] = entry
        self._places[name] = place

    def remove(self, name: str) -> None:
        """Make `name` unknown again, if it is known; for tests that add entries."""
        self._entries.pop(name, None)
        self._places.pop(name, None)

    def _check(self, name: str, entry: object, place: str) -> None:
        found = f"{place}: {self.kind} {name!r} is {_label(entry)}"
        fits = issubclass(entry, self._entry_type) if isinstance(entry, type) else isinstance(entry, self._entry_type)
        if not fits:
            expected = " or ".join(each.__name__ for each in self._entry_type)
            raise ConfigurationError(f"{found}, expected {expected} or a subclass of it")
        lacking = [member for member in self._members if not hasattr(entry, member)]
        lacking += sorted(getattr(entry, "__abstractmethods__", ()))
        if lacking:
            raise ConfigurationError(f"{found}, which lacks {', '.join(lacking)}; add what is missing")

    def names(self) -> list[str]:
        """All names, those of plugins included, in alphabetical order."""
        self._load()
        return sorted(self._entries)

    def __getitem__(self, name: str) -> Entry:
        """Return the entry `name`. Raises ConfigurationError that lists the names if there is none."""
        if name not in self._entries:
            self._load()
        if name not in self._entries:
            raise ConfigurationError(
                f"{self.kind} is {name!r}, expected one of: {', '.join(self.names())}; "
                f"one of your own is loaded with --plugin FILE or from {VARIABLE}"
            )
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _load(self) -> None:
        if not self._complete:
            self._complete = True
            package = importlib.import_module(self._builtin)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._builtin}.{module.name}")
        load_plugins()


def load_plugins() -> None:
    """Import every plugin that is installed or named in `RLFP_PLUGINS`, each once.

    Raises
    ------
    ConfigurationError
        If a plugin cannot be imported; the message names the plugin and the cause.
    """
    if _being_imported():
        return  # a plugin would find that module half made; it is loaded at the next look-up
    _load_installed()
    for name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        load_file(Path(name))


def _being_imported() -> bool:
    """Whether a module of this package is being imported right now: importing Gymnasium there looks up all tasks."""
    return any(
        getattr(getattr(module, "__spec__", None), "_initializing", False)
        for name, module in list(sys.modules.items())
        if name.startswith("rlfp_ros.")
    )


def load_file(path: Path) -> ModuleType:
    """Import one plugin file, once. Raises ConfigurationError if it is missing or cannot be imported."""
    path = path.expanduser().resolve()
    name = f"{MODULE_PREFIX}{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path):
        return loaded
    if loaded is not None:
        raise ConfigurationError(f"{path}: a plugin of this name is loaded from {loaded.__file__}; rename one file")
    if not path.is_file() or path.suffix != ".py":
        raise ConfigurationError(f"{path}: not a Python file; --plugin and {VARIABLE} take the path of one")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, so that its classes can be pickled
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        if isinstance(error, ConfigurationError):
            raise error if str(path) in str(error) else ConfigurationError(f"{path}: {error}") from None
        raise ConfigurationError(f"{path}: {_cause(error, path)}") from error
    return module


_installed_loaded = False


def _load_installed() -> None:
    global _installed_loaded
    if _installed_loaded:
        return
    _installed_loaded = True
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except ConfigurationError:
            raise
        except Exception as error:
            package = entry.dist.name if entry.dist else "unknown package"
            raise ConfigurationError(
                f"plugin {entry.name} of {package} cannot be imported ({type(error).__name__}: {error}); "
                f"correct or uninstall {package}"
            ) from error


class _PluginFinder:
    """Imports a plugin file by its module's name: a spawned process unpickles objects before it looks anything up."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        for file in map(Path, filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))):
            if name == f"{MODULE_PREFIX}{file.stem}" and file.is_file():
                return importlib.util.spec_from_file_location(name, file.expanduser().resolve())
        return None


sys.meta_path.append(_PluginFinder())


def _place() -> str:
    """The module that is being imported, or the file of a plugin: what registers something now."""
    frame = inspect.currentframe()
    assert frame is not None
    while frame.f_back is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    name = str(frame.f_globals.get("__name__", "?"))
    return frame.f_code.co_filename if name.startswith(MODULE_PREFIX) else name


def _label(entry: object) -> str:
    return f"class {entry.__qualname__}" if isinstance(entry, type) else f"a {type(entry).__name__}"


def _cause(error: Exception, path: Path) -> str:
    """Return which line of the plugin's file failed, and why."""
    line, traceback = getattr(error, "lineno", None), error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return f"line {line}: {type(error).__name__}: {error}; correct the file"
