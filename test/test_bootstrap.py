"""Tests of ./rlfp: it makes the environment once, installs what changed, and otherwise starts at once."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from bootstrap_script import load_bootstrap

from rlfp_ros import cli

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 100.0


@pytest.fixture
def bootstrap(tmp_path: Path) -> Any:
    """The script as a module that lives in a folder of its own, with a setup.cfg of its own."""
    module: Any = load_bootstrap()
    module.ROOT = tmp_path
    write_setup(tmp_path)
    return module


def write_setup(folder: Path, core: str = "alpha>=1", sim: str = "beta") -> None:
    sets = dict.fromkeys(("ros-wheels", "sim", "train", "dev"), "") | {"sim": sim}
    extras = "".join(f"{name} =\n    {line}\n" for name, line in sets.items())
    text = f"[options]\ninstall_requires =\n    # why\n    {core}\n[options.extras_require]\n{extras}"
    (folder / "setup.cfg").write_text(text)


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def pip(bootstrap: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What pip would have been asked to install, call by call; environments are empty folders."""
    calls: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "pip_install", lambda python, lines, ros: calls.append(lines))
    monkeypatch.setattr(
        bootstrap,
        "make_environment",
        lambda directory, ros: executable(bootstrap.environment_python(directory), "#!/bin/sh\necho 3.11\n"),
    )
    return calls


# --- what is installed, and when -------------------------------------------------------------------------------------


def test_the_first_start_installs_the_commands_requirements_and_the_second_nothing(
    bootstrap: Any, pip: list[list[str]]
) -> None:
    directory = bootstrap.ROOT / ".venv"
    bootstrap.install(directory, ("core", "sim"))
    bootstrap.install(directory, ("core", "sim"))
    assert pip == [["alpha>=1", "beta"]]


def test_command_that_needs_less_installs_nothing(bootstrap: Any, pip: list[list[str]]) -> None:
    directory = bootstrap.ROOT / ".venv"
    bootstrap.install(directory, ("core", "sim"))
    bootstrap.install(directory, ("core",))
    assert len(pip) == 1


def test_a_changed_requirement_is_installed_together_with_the_present_ones(
    bootstrap: Any, pip: list[list[str]]
) -> None:
    directory = bootstrap.ROOT / ".venv"
    bootstrap.install(directory, ("core", "sim"))
    write_setup(bootstrap.ROOT, core="alpha>=2")
    bootstrap.install(directory, ("core",))
    assert pip[1:] == [["alpha>=2", "beta"]]


def test_changed_comment_installs_nothing(bootstrap: Any, pip: list[list[str]]) -> None:
    directory = bootstrap.ROOT / ".venv"
    bootstrap.install(directory, ("core",))
    setup = bootstrap.ROOT / "setup.cfg"
    setup.write_text(setup.read_text().replace("# why", "# for another reason"))
    bootstrap.install(directory, ("core",))
    assert len(pip) == 1


@pytest.mark.parametrize("damage", ["", "{", '{"sets": 3}', "[]"])
def test_damaged_stamp_is_as_good_as_none(bootstrap: Any, pip: list[list[str]], damage: str) -> None:
    directory = bootstrap.ROOT / ".venv"
    bootstrap.install(directory, ("core",))
    (directory / bootstrap.STAMP).write_text(damage)
    bootstrap.install(directory, ("core",))
    assert len(pip) == 2


def test_sets_that_another_version_of_the_project_installed_are_no_error(bootstrap: Any, pip: list[list[str]]) -> None:
    """As after `git checkout` of an older version."""
    directory = bootstrap.ROOT / ".venv"
    bootstrap.install(directory, ("core",))
    stamp = json.loads((directory / bootstrap.STAMP).read_text())
    stamp["sets"]["page"] = "of a newer version"
    (directory / bootstrap.STAMP).write_text(json.dumps(stamp))
    bootstrap.install(directory, ("core", "sim"))
    assert pip[1:] == [["alpha>=1", "beta"]]


def test_failed_install_is_tried_again(bootstrap: Any, pip: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise bootstrap.BootstrapError("pip could not")

    directory = bootstrap.ROOT / ".venv"
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "pip_install", fail)
        with pytest.raises(bootstrap.BootstrapError):
            bootstrap.install(directory, ("core",))
    bootstrap.install(directory, ("core",))
    assert len(pip) == 1


def test_every_command_of_the_cli_has_its_requirement_sets(bootstrap: Any) -> None:
    parser = cli.build_parser()
    (actions,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    missing = set(actions.choices) - set(bootstrap.NEEDS)
    assert not missing


def test_requirement_sets_are_those_of_setup_cfg(bootstrap: Any) -> None:
    bootstrap.ROOT = ROOT
    for sets in bootstrap.NEEDS.values():
        declared = bootstrap.requirements(sets)
        assert all(declared.values())
    assert "torch==2.13.0" in bootstrap.requirements(["train"])["train"]
    assert not any("torch" in line for line in bootstrap.requirements(["core"])["core"])


@pytest.mark.parametrize(
    ("words", "needs_page"),
    [
        ("demo", False),
        ("demo --operate", True),
        ("launch sim.launch.py operator:=true", True),
        ("launch sim.launch.py operator:=false", False),
        ("operate", True),
        ("operate --terminal", False),
    ],
)
def test_only_commands_that_serve_the_page_install_its_packages(bootstrap: Any, words: str, needs_page: bool) -> None:
    arguments = words.split()
    assert ("operate" in bootstrap.sets_for(bootstrap.command_of(arguments), arguments)) is needs_page


@pytest.mark.parametrize("name", ["", "feetech"])
def test_a_driver_brings_its_requirements(bootstrap: Any, name: str) -> None:
    sets = bootstrap.sets_for("launch", ["launch", "real_arm.launch.py", f"driver:={name}", "operator:=true"])
    assert ("feetech" in sets) is bool(name)
    assert "operate" in sets


# --- the interpreter -------------------------------------------------------------------------------------------------


def test_shim_that_does_not_run_is_passed_over(bootstrap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "shims" / "python3.11", "#!/bin/sh\necho 'python3.11: command not found' >&2\nexit 127\n")
    works = executable(tmp_path / "bin" / "python3.12", "#!/bin/sh\necho 3.12\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}{os.pathsep}{tmp_path / 'bin'}{os.pathsep}/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    monkeypatch.setattr(bootstrap.sys, "executable", "/nonexistent")
    found = [Path(path) for _, path in bootstrap.candidates()]
    assert tmp_path / "shims" / "python3.11" in found
    monkeypatch.setattr(bootstrap, "candidates", lambda: [("3.11", tmp_path / "shims" / "python3.11"), ("3.12", works)])
    assert bootstrap.find_python(None) == str(works)


def test_no_suitable_python_is_one_sentence_with_the_command(bootstrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "candidates", list)
    with pytest.raises(bootstrap.BootstrapError, match=r"apt-get install python3\.11 python3\.11-venv"):
        bootstrap.find_python(None)


def test_chosen_interpreter_of_another_version_is_refused(bootstrap: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("RLFP_PYTHON", str(executable(tmp_path / "old", "#!/bin/sh\necho 3.9\n")))
    with pytest.raises(bootstrap.BootstrapError, match=r"RLFP_PYTHON is .*, expected a Python 3\.11 or 3\.12"):
        bootstrap.find_python(None)


@pytest.mark.parametrize(("what", "package"), [("venv", "python3.12-venv"), ("compiler", "g\\+\\+")])
def test_missing_debian_package_is_named_to_a_user_who_is_not_root(
    bootstrap: Any, monkeypatch: pytest.MonkeyPatch, what: str, package: str
) -> None:
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: "/usr/bin/apt-get")
    with pytest.raises(bootstrap.BootstrapError, match=f"run: sudo apt-get install {package}"):
        bootstrap.get_packages(what, "3.12", "reason")


def test_missing_debian_package_is_installed_for_root(
    bootstrap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "apt.log"
    executable(tmp_path / "bin" / "apt-get", f'#!/bin/sh\necho "$@" >> {log}\n')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/bin{os.pathsep}/usr/bin")
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 0)
    bootstrap.get_packages("venv", "3.11", "reason")
    assert "python3.11-venv" in log.read_text().splitlines()[-1]


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_pybullet_is_built_with_numpy_in_reach_on_the_python_that_has_no_wheel(
    version: str, bootstrap: Any, pip: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PyBullet that pip builds in isolation has no NumPy images, and the demo on Python 3.12 never ended."""
    write_setup(bootstrap.ROOT, core="numpy>=1.26,<3", sim="pybullet>=3.2.6,<3.3")
    asked: list[str] = []
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    monkeypatch.setattr(bootstrap, "get_packages", lambda what, version, reason: asked.append(what))
    monkeypatch.setattr(bootstrap, "runs", lambda python, code: False)
    monkeypatch.setattr(bootstrap, "output_of", lambda python, code: version)
    bootstrap.install(bootstrap.ROOT / ".venv", ("core", "sim"))
    everything = ["numpy>=1.26,<3", "pybullet>=3.2.6,<3.3"]
    if version == "3.11":
        assert pip == [everything]
    else:
        assert pip == [
            ["numpy>=1.26,<3", "setuptools", "wheel"],
            ["--no-build-isolation", "pybullet>=3.2.6,<3.3"],
            ["--no-cache-dir", "--force-reinstall", "--no-deps", "--no-build-isolation", "pybullet>=3.2.6,<3.3"],
            everything,
        ]
    assert ("compiler" in asked) == ("headers" in asked) == (version == "3.12")


# --- a ROS 2 installation --------------------------------------------------------------------------------------------


def sourced(monkeypatch: pytest.MonkeyPatch, prefix: Path, distro: str, python: str) -> None:
    module = prefix / "lib" / f"python{python}" / "site-packages" / "rclpy"
    module.mkdir(parents=True)
    (module / "__init__.py").touch()
    monkeypatch.setenv("ROS_DISTRO", distro)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{prefix}/lib{os.pathsep}/opt/mine")


def test_sourced_jazzy_is_used_instead_of_the_wheels(bootstrap: Any, tmp_path: Path, monkeypatch: Any) -> None:
    sourced(monkeypatch, tmp_path / "jazzy", "jazzy", "3.12")
    monkeypatch.setattr(bootstrap, "find_python", lambda version: f"/usr/bin/python{version}")
    assert bootstrap.sourced_ros() == {"distro": "jazzy", "python": "/usr/bin/python3.12"}
    installed: list[Any] = []
    monkeypatch.setattr(bootstrap, "install", lambda directory, sets, ros: installed.append((directory.name, sets)))
    monkeypatch.setattr(bootstrap, "become", lambda python, arguments: None)
    bootstrap.main(["demo"])
    assert installed == [(".venv-jazzy", ("core", "sim"))]


def test_a_sourced_humble_is_removed_from_the_environment(bootstrap: Any, tmp_path: Path, monkeypatch: Any) -> None:
    sourced(monkeypatch, tmp_path / "humble", "humble", "3.10")
    assert bootstrap.sourced_ros() is None
    bootstrap.forget_other_ros()
    assert os.environ["LD_LIBRARY_PATH"] == "/opt/mine"
    assert "ROS_DISTRO" not in os.environ


def test_a_workspace_without_rclpy_is_not_a_ros_installation(bootstrap: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert bootstrap.sourced_ros() is None


# --- the script itself, with real processes --------------------------------------------------------------------------


def wheel(folder: Path) -> str:
    """A requirement line for a package that pip can install without a network."""
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny.py", "VALUE = 42\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return f"tiny @ {path.as_uri()}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A clone in small: the real script, one requirement, and a command line that says what it was given."""
    folder = tmp_path / "with a space"
    (folder / "rlfp_ros").mkdir(parents=True)
    shutil.copy(ROOT / "rlfp", folder / "rlfp")
    write_setup(folder, core=wheel(tmp_path))
    (folder / "setup.cfg").write_text((folder / "setup.cfg").read_text().replace("beta", ""))
    (folder / "rlfp_ros" / "__init__.py").touch()
    (folder / "rlfp_ros" / "cli.py").write_text("import sys, tiny\nprint(tiny.VALUE, sys.prefix, *sys.argv[1:])\n")
    return folder


def start(project: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "ROS_DISTRO", "AMENT_PREFIX_PATH")}
    return subprocess.Popen(
        [sys.executable, "-S", str(project / "rlfp"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean | environment,
        cwd="/",
    )


def test_two_first_starts_at_once_make_one_environment_and_a_further_start_is_quick(project: Path) -> None:
    both = [start(project, "demo", "--episodes", "3") for _ in range(2)]
    answers = [process.communicate(timeout=LIMIT_S) for process in both]
    for process, (out, error) in zip(both, answers, strict=True):
        assert process.returncode == 0, error
        assert out.split(maxsplit=1)[0] == "42"
        assert out.endswith("demo --episodes 3\n")
        assert str(project / ".venv") in out
    installs = "".join(error for _, error in answers).count("installing core")
    assert installs == 1

    # What is left of a further start is two starts of Python; the second is the command's own.
    times = []
    for _ in range(3):
        began = time.monotonic()
        process = start(project, "demo")
        _, error = process.communicate(timeout=LIMIT_S)
        times.append(time.monotonic() - began)
        assert error == ""
    began = time.monotonic()
    subprocess.run([project / ".venv/bin/python", "-c", "pass"], check=True)
    assert min(times) - (time.monotonic() - began) < 0.3


def test_start_waits_for_another_that_makes_a_broken_environment_anew(project: Path, bootstrap: Any) -> None:
    directory = project / ".venv"
    (directory / "bin").mkdir(parents=True)
    (directory / "bin" / "python").write_text("broken")
    with bootstrap.one_at_a_time(directory):
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(directory)], check=True)
        process = start(project, "demo")
        assert process.stderr is not None
        assert "waiting for another ./rlfp" in process.stderr.readline()
    out, error = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, error
    assert out.startswith("42")


def test_a_requirement_that_cannot_be_installed_is_reported_and_the_command_does_not_run(project: Path) -> None:
    write_setup(project, core=f"tiny @ {(project / 'missing-1.0-py3-none-any.whl').as_uri()}")
    process = start(project, "demo")
    out, error = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2
    assert out == ""
    assert "pip could not install the requirements" in error
    assert "missing-1.0" in error
    assert "Traceback" not in error


def test_help_needs_no_environment(project: Path) -> None:
    (project / "rlfp_ros" / "cli.py").write_text("import sys\nprint('help', *sys.argv[1:])\n")
    for arguments in (["--help"], ["demo", "--help"], []):
        out, _ = start(project, *arguments).communicate(timeout=LIMIT_S)
        assert out.split() == ["help", *arguments]
    assert not (project / ".venv").exists()


def test_command_line_starts_with_the_mark_of_another_environment_removed(project: Path, bootstrap: Any) -> None:
    """A child that keeps the wheels' mark but not their library path could not import rclpy."""
    (project / "rlfp_ros" / "cli.py").write_text("import os\nprint(os.environ.get('_ROS_WHEELS_BOOTSTRAP_COMPLETE'))\n")
    # Not one of an environment that is active here: its own start-up hook would set the mark again.
    python = Path(sys.base_prefix) / "bin" / "python{}.{}".format(*sys.version_info[:2])
    marked = start(project, "--help", _ROS_WHEELS_BOOTSTRAP_COMPLETE="1", RLFP_PYTHON=str(python))
    out, _ = marked.communicate(timeout=LIMIT_S)
    assert out.strip() == "None"


@pytest.mark.parametrize("words", [["--plugin", "my_task.py", "train", "reach"], ["--plugin=my_task.py", "train"]])
def test_the_file_after_the_plugin_option_is_not_the_command(bootstrap: Any, words: list[str]) -> None:
    assert bootstrap.command_of(words) == "train"
