"""Tests of the layout's rules: imports point one way, only nodes/ needs ROS, only learning/ needs torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from python_process import run_python

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rlfp_ros"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if not path.name.startswith("."))

# What each part may import of the others, lowest first. The files at the top level that every part may use:
FOUNDATION = {
    "rlfp_ros",
    "schema",
    "paths",
    "requirements",
    "episode",
    "plugins",
    "files",
    "seeds",
    "version",
    "contract",
}
CORE = FOUNDATION | {"control", "perception"}
PARTS = {
    "schema": set(),
    "paths": {"schema"},
    "requirements": set(),
    "episode": {"schema"},
    "plugins": {"schema"},
    "files": {"schema"},
    "seeds": {"schema"},
    "version": set(),
    "contract": {"schema", "paths", "files", "seeds", "version"},
    "control": FOUNDATION,
    "perception": CORE,
    "recording": CORE,
    "data": CORE | {"recording"},
    "simulation": CORE,
    "evaluation": CORE | {"recording", "simulation"},
    "learning": CORE | {"simulation", "evaluation"},
    "dynamics": CORE | {"simulation"},
    "adaptation": CORE | {"data", "simulation", "evaluation", "learning"},
    "commissioning": CORE | {"recording", "data", "simulation", "evaluation"},
    "operator": CORE | {"recording", "commissioning"},
    "drivers": CORE,
    "nodes": CORE | {"recording", "simulation", "commissioning", "operator", "drivers"},
    "graph": CORE | {"recording", "simulation", "evaluation", "operator", "drivers", "nodes"},
    "cli": CORE
    | {"recording", "data", "simulation", "evaluation", "learning", "adaptation", "dynamics", "commissioning"}
    | {"drivers", "graph"},
}
ROS = {"rclpy", "cv_bridge", "rosbag2_py", "rosgraph_msgs", "ament_index_python", "tf2_ros", "builtin_interfaces"}
TORCH_PARTS = ("learning", "adaptation")
LONGEST_FILE = 400  # lines, unless CONTRIBUTING.md gives a reason
# `rlfp --help` must be there at once.
HEAVY_AT_START = {"torch", "pybullet", "rclpy", "matplotlib", "gymnasium", "numpy", "pydantic", "onnxruntime"}


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "rlfp_ros" if first == "__init__" else first


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those inside functions and under TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write rlfp_ros.{module}"
            if module == "rlfp_ros" or module.startswith("rlfp_ros."):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_cycles() -> list[set[str]]:
    """Return the sets of modules that import each other (Tarjan 1972), those under TYPE_CHECKING included."""
    modules = {module_name(path): path for path in FILES}
    graph: dict[str, list[str]] = {}
    for module, path in modules.items():
        found = {name if name in modules else name.rpartition(".")[0] for _, name in imports(path)}
        graph[module] = sorted((found & set(modules)) - {module})
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    waiting: list[str] = []
    cycles: list[set[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        waiting.append(module)
        for imported in graph[module]:
            if imported not in order:
                visit(imported)
            if imported in waiting:
                lowest[module] = min(lowest[module], lowest[imported])
        if lowest[module] == order[module]:
            together = set(waiting[waiting.index(module) :])
            del waiting[waiting.index(module) :]
            if len(together) > 1:
                cycles.append(together)

    for module in graph:
        if module not in order:
            visit(module)
    return cycles


def is_ros(module: str) -> bool:
    top = module.partition(".")[0]
    return top in ROS or top.endswith(("_msgs", "_srvs", "_interfaces"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part == "rlfp_ros":
        return
    assert part in PARTS, f"{part} has no place in the layout; give it one in PARTS"
    for line, module in imports(path):
        words = module.split(".")
        if words[0] == "rlfp_ros" and len(words) > 1:
            target = words[1] if (PACKAGE / words[1]).is_dir() or (PACKAGE / f"{words[1]}.py").exists() else "rlfp_ros"
            allowed = PARTS[part] | {part, "rlfp_ros"}
            assert target in allowed, f"{path}:{line}: {part} imports {target}, allowed: {', '.join(sorted(allowed))}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_nodes_import_ros_and_only_learning_imports_torch(path: Path) -> None:
    part = part_of(path)
    for line, module in imports(path):
        assert part == "nodes" or not is_ros(module), f"{path}:{line}: only nodes/ may import {module}"
        torch = module.partition(".")[0] in ("torch", "torchvision", "onnxscript")
        assert part in TORCH_PARTS or not torch, f"{path}:{line}: only learning/ and adaptation/ may import {module}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = import_cycles()
    assert not found, "\n".join(" <-> ".join(sorted(cycle)) for cycle in found)


def test_everything_outside_the_nodes_and_learning_imports_without_ros_and_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if part_of(path) not in ("nodes", *TORCH_PARTS) and path.name != "ros2_launch.py"
    ]
    program = (
        "import importlib, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.partition('.')[0]\n"
        "        if top in ('rclpy', 'torch', 'launch_ros', 'cv_bridge') or top.endswith(('_msgs', '_srvs')):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"for name in {modules!r}:\n    importlib.import_module(name)\n"
    )
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr[-2000:]


def test_command_line_starts_without_anything_heavy() -> None:
    program = (
        f"import sys, rlfp_ros.cli as cli; cli.build_parser(); print(*sorted(set(sys.modules) & {HEAVY_AT_START!r}))"
    )
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == []


def test_public_names_are_imported_when_they_are_used() -> None:
    program = (
        "import sys, rlfp_ros\n"
        f"print(*sorted(set(sys.modules) & {HEAVY_AT_START!r}))\n"
        "missing = [name for name in rlfp_ros.__all__ if getattr(rlfp_ros, name, None) is None]\n"
        "assert not missing and set(rlfp_ros.__all__) <= set(dir(rlfp_ros)), missing\n"
        "try:\n    rlfp_ros.nothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["", "module 'rlfp_ros' has no attribute 'nothing'"]


def test_no_grab_bag_files() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "common", "misc")]


def test_long_files_are_in_the_table_of_contributing() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Large files")[2]
    listed = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    folders = ("rlfp_ros", "test", "benchmarks", "examples", "docs", "launch")
    paths = [ROOT / "rlfp", *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    long = {
        str(path.relative_to(ROOT)) for path in paths if path.read_text(encoding="utf-8").count("\n") > LONGEST_FILE
    }
    assert sorted(long - listed) == []
    assert all((ROOT / name).is_file() for name in listed)


def test_a_public_class_name_appears_once() -> None:
    """One word for one thing: a reader who searches for a class finds one."""
    modules: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: where for name, where in modules.items() if len(where) > 1} == {}


# Names that begin with an underscore and are used outside their module all the same.
PRIVATE_ALLOWED = {
    "_exit": "os._exit is public: the standard library documents it",
    "_replace": "documented method of every NamedTuple",
    "_SubParsersAction": "argparse has no public name for what add_subparsers returns",
    "_actions": "argparse has no public list of a parser's arguments; the reference pages and a test read it",
    "_callback_type": "rclpy says only there whether a callback takes the message's info",
    "_parameter_overrides": "rclpy gives the parameters from the command line only there before they are declared",
    "_foreach_lerp_": "torch documents no other update of all target weights in one call",
    "_getvalue": "Numba's documentation builds the values of an extension with it",
    "_pending_of": "pytest-xdist's schedulers are extended by subclassing, which its documentation suggests",
    "_reschedule": "as above",
    "_initializing": "importlib has no public way to ask whether a module is being imported",
}
ATTRIBUTE_CALLS = {"getattr", "setattr", "hasattr", "delattr"}  # of builtins and of pytest's monkeypatch


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def names_bound_in(tree: ast.Module) -> set[str]:
    """Return the names that a module defines: functions, classes, variables, and attributes of self and cls."""
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("self", "cls")
        ):
            bound.add(node.attr)
    return bound


def foreign_private_names(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of every private name that a module uses and does not define, inherited ones included."""
    tree = ast.parse(source)
    bound = names_bound_in(tree)
    for node in ast.walk(tree):
        used: list[str] = []
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))
            used = (node.module or "").split(".")
        elif isinstance(node, ast.Import):
            used = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Attribute):
            used = [node.attr]
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            words = [a.value for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            if called in ATTRIBUTE_CALLS and words:
                used = words[0].split(".")
        yield from ((getattr(node, "lineno", 0), name) for name in used if is_private(name) and name not in bound)


@pytest.mark.parametrize("folder", ["rlfp_ros", "benchmarks", "test", "examples", "docs"])
def test_private_names_stay_in_their_module(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in paths
        for line, name in foreign_private_names(path.read_text(encoding="utf-8"))
        if name not in PRIVATE_ALLOWED
    ]
    assert not found, "make these public or use a public name:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "from rlfp_ros.seeds import _draw",
        "import rlfp_ros._version",
        "from rlfp_ros._version import text",
        "def f(world): return world._body",
        "class Mine(World):\n    def step(self): return self._episode",
        "def test_it(monkeypatch): monkeypatch.setattr(module, '_plan', None)",
        "def test_it(monkeypatch): monkeypatch.setattr('rlfp_ros.seeds._draw', None)",
        "x = getattr(node, '_streams')",
    ],
)
def test_uses_of_private_names_are_found(source: str) -> None:
    assert list(foreign_private_names(source))


def test_every_exception_for_a_private_name_is_still_needed() -> None:
    used = {
        name
        for folder in ("rlfp_ros", "benchmarks", "test", "docs")
        for path in (ROOT / folder).rglob("*.py")
        for _, name in foreign_private_names(path.read_text(encoding="utf-8"))
    }
    assert set(PRIVATE_ALLOWED) <= used
