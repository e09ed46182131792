"""The compiled control core: ready before the first tick, equal to its Python source, in a cache that may break."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import load_or_skip

from rlfp_ros.control import compiled
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.distances import Distances
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.safety.filter import SafetyFilter
from rlfp_ros.control.safety.limits import find_limits, pack, unpack

ROOT = Path(__file__).resolve().parents[1]
# Moves an arm with a post beside it for some ticks, into its limits too, and prints every number that the core gives.
DRIVE = """
import hashlib, json, sys
import numpy as np
from rlfp_ros.control.arm import Arm, load_arm
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.safety.filter import SafetyFilter

name, ticks = sys.argv[1], int(sys.argv[2])
post = {"name": "post", "size": (0.1, 0.6, 0.8), "pose": {"xyz": (0.7, 0.0, 0.4)}}
arm = Arm.model_validate(load_arm(name).model_dump() | {"obstacles": [post]})
safety = SafetyFilter(arm, Kinematics(arm), ControllerSettings())
safety.start(np.array(arm.home), np.full(len(arm.home), 0.1))
random, numbers = np.random.default_rng(1), []
for tick in range(ticks):
    if tick % 80 == 0:
        twist = random.uniform(-1, 1, 6) * (0.2, 0.2, 0.0, 0.5, 0.5, 0.5) - (0.0, 0.0, 0.3, 0.0, 0.0, 0.0)
    here = safety.locate()
    velocity = safety.joint_velocity(here, twist, random.uniform(-0.3, 0.3, len(arm.home)))
    safety.extend(here, velocity)
    command = safety.trajectory(tick)
    numbers += [here.position, here.rotation, here.jacobian, velocity, command.times, command.states]
    safety.advance()
flat = np.concatenate([np.ravel(part) for part in numbers])
counts = safety.counts
print(json.dumps([hashlib.sha256(flat.tobytes()).hexdigest(), counts.limited, counts.steps, flat[-40:].tolist()]))
"""


def drive(name: str, ticks: int, **environment: str) -> list[object]:
    command = [sys.executable, "-P", "-c", DRIVE, name, str(ticks)]
    found = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return list(json.loads(found.stdout))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "ticks"), [("panda", 400), ("so101", 150), ("xarm6", 150)])
def test_compiled_functions_give_the_same_bits_as_their_python_source(name: str, ticks: int) -> None:
    load_or_skip(name)
    ours, python = drive(name, ticks), drive(name, ticks, NUMBA_DISABLE_JIT="1")
    assert ours == python
    assert isinstance(ours[1], int)
    assert ours[1] > 0  # the quadratic programme was needed too


def test_every_module_with_compiled_functions_names_the_cache() -> None:
    """Otherwise a change in one would leave old machine code in its callers."""
    marked = set()
    for path in (ROOT / "rlfp_ros").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(
                ast.unparse(one).partition("(")[0].rpartition(".")[2] in ("compiled", "inlined", "entry_point")
                for one in node.decorator_list
            ):
                marked.add(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert marked <= set(compiled.MODULES)


def test_a_tick_never_compiles() -> None:
    arm = load_arm("panda")
    safety = SafetyFilter(arm, Kinematics(arm), ControllerSettings())
    points = compiled.entry_points()
    locate = next(point for point in points if point.py_func.__name__ == "locate")
    assert len(points) > 8
    assert all(len(point.signatures) == 1 for point in points)  # before the first tick
    with pytest.raises(TypeError, match="No matching definition"):
        locate(1, 2, 3, 4)
    for wanted in (np.full(7, 1, np.int32), np.full(14, 0.1)[::2], np.broadcast_to(0.1, 7)):
        here = safety.locate()
        safety.joint_velocity(here, np.zeros(6, np.float32), wanted)
        safety.extend(here, wanted)
        safety.advance()
    assert all(len(point.signatures) == 1 for point in points)


def test_limits_survive_being_packed() -> None:
    arm = load_or_skip("fr3")
    settings = ControllerSettings()
    limits = find_limits(arm, settings, Distances(Kinematics(arm), 0.02, 0.005, 0.05))
    found = compiled.as_python(unpack)(pack(limits))
    for ours, theirs in zip((*limits.joints, *limits.body), (*found.joints, *found.body), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found.numbers == limits.numbers


# --- the cache ----------------------------------------------------------------------------------------------------

PREPARE = "from rlfp_ros.control.compiled import prepare; prepare()"


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of its own with a copy of this session's machine code."""
    folder = compiled.cache_folder()
    assert folder is not None
    parent = tmp_path_factory.mktemp("cache") / "rlfp_ros"
    shutil.copytree(folder, parent / folder.name)
    return parent.parent


def start(cache: Path, root: Path = ROOT, program: str = PREPARE, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={**os.environ, "PYTHONPATH": str(root), compiled.CACHE: str(cache), **more},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(ROOT / "rlfp_ros", folder / "rlfp_ros", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_a_copy_of_the_sources_in_another_folder_starts_without_compilation(warm: Path, elsewhere: Path) -> None:
    (folder,) = (warm / "rlfp_ros").iterdir()
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name != "lock"}
    program = f"""{PREPARE}
from rlfp_ros.control import compiled
print(compiled.__file__, sum(sum(point.stats.cache_misses.values()) for point in compiled.entry_points()))"""
    found = start(warm, elsewhere, program)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.split() == [str(elsewhere / "rlfp_ros" / "control" / "compiled.py"), "0"]
    after = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name != "lock"}
    assert before == after


@pytest.mark.parametrize("changed", ["control/chain.py", "control/safety/steps.py", "control/compiled.py", "numba"])
def test_other_code_has_another_folder(tmp_path: Path, elsewhere: Path, changed: str) -> None:
    program = "from rlfp_ros.control.compiled import cache_folder; print(cache_folder().name)"
    same = start(tmp_path, elsewhere, program).stdout
    assert same == start(tmp_path, ROOT, program).stdout
    if changed == "numba":
        found = start(tmp_path, elsewhere, program, NUMBA_BOUNDSCHECK="1")
    else:
        file = elsewhere / "rlfp_ros" / changed
        text = file.read_text("utf-8")
        file.write_text(text + "# changed\n", "utf-8")
        found = start(tmp_path, elsewhere, program)
        file.write_text(text, "utf-8")
    assert found.returncode == 0
    assert found.stdout.startswith("compiled-")
    assert found.stdout != same


def test_compiled_functions_take_constants_only_from_the_modules_that_name_the_cache() -> None:
    """Numba writes the values of constants into the machine code, so a change in another module would be lost."""
    compiled.prepare()
    for name in compiled.MODULES:
        module = sys.modules[name]
        used = {
            one
            for value in vars(module).values()
            if getattr(value, "__module__", None) == name and hasattr(value, "py_func")
            for one in value.py_func.__code__.co_names
        }
        assert used
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("rlfp_ros"):
                taken = {alias.asname or alias.name for alias in node.names} & used
                assert not taken or node.module in (*compiled.MODULES, compiled.__name__), (name, taken)


def test_a_folder_that_other_users_can_write_is_not_used(warm: Path, tmp_path: Path) -> None:
    """Loading machine code runs it, so the files must be the user's own."""
    cache = tmp_path / "cache"
    shutil.copytree(warm, cache)
    (folder,) = (cache / "rlfp_ros").iterdir()
    assert compiled.private(folder)
    folder.chmod(0o777)
    assert not compiled.private(folder)
    folder.chmod(0o700)
    assert compiled.private(folder)
    if os.getuid() == 0:
        os.chown(folder, 12345, -1)
        assert not compiled.private(folder)


def test_a_second_start_says_nothing_and_changes_nothing(warm: Path) -> None:
    (folder,) = (warm / "rlfp_ros").iterdir()
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name != "lock"}
    assert len(before) > 8
    found = start(warm)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    after = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name != "lock"}
    assert before == after


@pytest.mark.timeout(600)
def test_a_broken_cache_is_made_again_with_one_line(warm: Path, tmp_path: Path) -> None:
    """Two processes that start at once: one compiles, the other waits for it and loads."""
    cache = tmp_path / "cache"
    shutil.copytree(warm, cache)
    (folder,) = (cache / "rlfp_ros").iterdir()
    code = max(folder.rglob("*.nbc"), key=lambda file: file.stat().st_size)
    code.write_bytes(code.read_bytes()[:5000])
    command = [sys.executable, "-P", "-c", PREPARE]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), compiled.CACHE: str(cache)}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=500)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("compiling the control core, once on this machine" in text for text in said) == 1
    assert all(text.count("\n") <= 1 for text in said)
    assert start(cache).stderr == ""


def test_processes_load_side_by_side_and_say_nothing(warm: Path) -> None:
    """A graph starts many at once: none waits for another that only loads, and each line of its log means something."""
    (folder,) = (warm / "rlfp_ros").iterdir()
    with open(folder / compiled.LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # another process loads
        found = start(warm)
    assert (found.returncode, found.stderr) == (0, "")


def test_a_process_that_waits_for_the_compilation_of_another_says_so(warm: Path) -> None:
    (folder,) = (warm / "rlfp_ros").iterdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), compiled.CACHE: str(warm)}
    with open(folder / compiled.LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process compiles
        waiting = subprocess.Popen(
            [sys.executable, "-P", "-c", PREPARE], env=environment, stderr=subprocess.PIPE, text=True
        )
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert waiting.communicate(timeout=300)[1] == ""
    assert said == "rlfp: waiting for another process that compiles the control core\n"
    assert waiting.returncode == 0


@pytest.mark.parametrize("broken", ["garbage", "truncated", "missing", "no manifest"])
def test_damage_to_the_cache_is_noticed(warm: Path, tmp_path: Path, broken: str) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(warm, cache)
    (folder,) = (cache / "rlfp_ros").iterdir()
    code = next(iter(sorted(folder.rglob("*.nbc"))))
    assert compiled.complete(folder)
    if broken == "garbage":
        code.write_bytes(b"\x00" * code.stat().st_size)
    elif broken == "truncated":
        code.write_bytes(code.read_bytes()[:100])
    elif broken == "missing":
        code.unlink()
    else:
        (folder / "manifest.json").write_text("{")
    assert not compiled.complete(folder)
