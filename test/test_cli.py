"""Tests of the command line: help is quick, mistakes give one sentence, and each command passes on its arguments."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from python_process import run_python
from rlfp_command import ROOT, rlfp

from rlfp_ros import cli
from rlfp_ros.cli import doctor, parsing
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.sim import SIM


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["inspect", "no_such_bundle"], "no_such_bundle: no such file, and models/ has no 'no_such_bundle'"),
        (["launch", "nothing.launch.py"], "nothing.launch.py: no such launch file; there is: sim.launch.py"),
        (["launch"], "which launch file? There is: sim.launch.py, real_arm.launch.py"),
        (["launch", "sim.launch.py", "task:=juggle"], "task is 'juggle', expected one of: "),
        (["launch", "sim.launch.py", "task=reach"], "write task:=reach"),
        (["launch", "sim.launch.py", "bundle:=no_such_bundle"], "no_such_bundle: no such file"),
        (["calibrate", "board", "--squares", "7"], "--squares is '7', expected COLUMNSxROWS such as 7x5"),
        (["calibrate", "extrinsics", "--bag", "nothing"], "nothing: holds no bag, expected a folder with an .mcap"),
        (["align", "--bag", "nothing"], "nothing: holds no bag"),
        (["align", "image_kind:=bent", "--bag", "nothing"], "image_kind is 'bent'; it can be: auto, raw, rectified"),
        (["gap", "--bag", "nothing"], "nothing: holds no bag"),
        (["dataset", "nothing", "--out", "runs/no_dataset"], "nothing: holds no bag"),
        (["dataset", "nothing"], "dataset has no --out"),
        (["dataset", "nothing", "--out", "models"], "models: exists already; choose another folder"),
        (["dataset", "info", "nothing"], "nothing: is not a dataset, it has no dataset.yaml"),
        (["train", "reach", "--recipe", "magic"], "recipe is 'magic', expected one of: imitation"),
        (["train", "reach", "--feature-stack", "9"], "feature_stack is 9, expected 1 to 8"),
        (["demo", "--arm", "no_such.yaml"], "no_such.yaml: no such file; give the YAML file of an arm"),
        (["demo", "--arm", "examples/my_arm/my_arm.yaml"], "no such file, and models/ has no 'reach_my_arm'"),
        (["bench", "astrology"], "'astrology' is not a script in benchmarks/"),
    ],
)
def test_mistake_is_one_line_on_standard_error_and_exit_code_2(arguments: list[str], expected: str) -> None:
    done = rlfp(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_without_a_command_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    for command in (
        "demo",
        "test",
        "launch",
        "train",
        "evaluate",
        "report",
        "calibrate",
        "align",
        "gap",
        "dataset",
        "inspect",
        "doctor",
        "bench",
    ):
        assert command in shown


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "launch",
        "train",
        "evaluate",
        "report",
        "inspect",
        "doctor",
        "bench",
        "test",
        "calibrate",
        "align",
        "gap",
        "dataset",
    ],
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    assert "rlfp " + command in capsys.readouterr().out


@pytest.mark.parametrize("which", [SIM, REAL_ARM], ids=lambda which: which.name)
def test_launch_lists_every_argument_with_its_default(which: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["launch", f"{which.name}.launch.py", "-s"]) == 0
    shown = capsys.readouterr().out
    for argument in which.arguments:
        assert f"  {argument.name}:={argument.default}\n      {argument.description}" in shown


@pytest.mark.parametrize(("words", "kind"), [(["image_kind:=rectified"], "rectified"), ([], "auto")])
def test_align_takes_the_kind_of_images_as_the_graph_does(
    words: list[str], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlfp_ros.commissioning import calibrate

    kinds: list[str] = []

    def overlay(*given: Any) -> int:
        kinds.append(given[-1].image_kind)
        return 0

    monkeypatch.setattr(calibrate, "overlay", overlay)
    assert cli.main(["align", *words, "--bag", str(tmp_path)]) == 0
    assert kinds == [kind]


@pytest.mark.parametrize("command", ["preview", "launch"])
def test_a_doubtful_arm_is_pointed_out(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlfp_ros.evaluation import preview
    from rlfp_ros.graph import runner

    document = yaml.safe_load((ROOT / "config" / "arms" / "panda.yaml").read_text())
    file = tmp_path / "bare.yaml"
    file.write_text(yaml.safe_dump(document | {"name": "bare", "capsules": []}))
    monkeypatch.setattr(preview, "preview", lambda *given, **named: [])
    monkeypatch.setattr(runner.Runner, "__enter__", lambda self: self)
    monkeypatch.setattr(runner.Runner, "__exit__", lambda *_: None)
    monkeypatch.setattr(runner.Runner, "wait", lambda self: 0)
    words = {"preview": ["--arm", str(file)], "launch": ["sim.launch.py", "bundle:=reach_panda", f"arm:={file}"]}
    assert cli.main([command, *words[command]]) == 0
    shown = capsys.readouterr().err
    assert shown.startswith(f"warning: {file}: capsules: none")
    assert shown.count("\n") == 1


@pytest.mark.parametrize("wrong", ["0", "-3", "many"])
def test_number_of_episodes_must_make_sense(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["demo", "--episodes", wrong])
    assert end.value.code == 2
    assert "--episodes" in capsys.readouterr().err


def test_words_after_test_go_to_pytest_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []

    def noted(arguments: list[str]) -> int:
        given.append(arguments)
        return 0

    monkeypatch.setattr(pytest, "main", noted)
    monkeypatch.chdir(ROOT)
    assert cli.main(["test", "-k", "graph", "--lf", "test/test_graph.py"]) == 0
    assert cli.main(["test"]) == 0
    some, whole = given
    assert some == ["-k", "graph", "--lf", "test/test_graph.py"]
    assert whole[0] == "test"
    assert whole[1:3] == ["--durations", "20"]


def test_benchmark_gets_the_words_after_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks").mkdir()
    script = "def main(argv):\n    return 5 if argv == ['--json', 'f'] else 1\n"
    (tmp_path / "benchmarks" / "speed.py").write_text(script)
    monkeypatch.setattr(parsing, "source_tree", lambda folder: tmp_path)
    assert cli.main(["bench", "speed", "--json", "f"]) == 5


def test_missing_python_package_is_named_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Any) -> int:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(doctor, "run", fail)
    assert cli.main(["doctor"]) == 2
    assert "the Python package 'torch' is missing" in capsys.readouterr().err


def test_error_of_the_program_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> int:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(doctor, "run", fail)
    with pytest.raises(ValueError, match="of ours"):
        cli.main(["doctor"])


@pytest.mark.parametrize("first", [True, False])
def test_plugin_file_is_named_before_or_after_the_command(
    first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlfp_ros import plugins

    monkeypatch.setattr(doctor, "run", lambda _: 0)
    file = tmp_path / f"plugin_{tmp_path.name}.py"
    file.write_text("LOADED = True\n")
    option = ["--plugin", str(file)]
    monkeypatch.setenv(plugins.VARIABLE, "")
    assert cli.main([*option, "doctor"] if first else ["doctor", *option]) == 0
    assert os.environ[plugins.VARIABLE] == str(file)  # child processes load it too
    assert sys.modules[f"rlfp_plugin_{file.stem}"].LOADED


def test_plugin_file_that_fails_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlfp_ros import plugins

    monkeypatch.setenv(plugins.VARIABLE, "")
    file = tmp_path / "broken_plugin.py"
    file.write_text("x = 1\nimport no_such_module\n")
    assert cli.main(["--plugin", str(file), "doctor"]) == 2
    error = capsys.readouterr().err
    assert f"{file}: line 2: ModuleNotFoundError" in error
    assert error.count("\n") == 1


TASK_PLUGIN = '''
from rlfp_ros.simulation.tasks.reach import Reach
from rlfp_ros.simulation.tasks.task import TASKS


@TASKS.register("hover")
class Hover(Reach):
    """Keep the tool above the block."""
'''


def test_plugins_lists_every_registry_with_descriptions_and_the_file_of_a_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    file = tmp_path / "hover.py"
    file.write_text(TASK_PLUGIN)
    done = run_python("-P", "-m", "rlfp_ros.cli", "plugins", "--plugin", str(file), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert f"hover Keep the tool above the block. {file}" in rows
    for kind in ("task", "base controller"):
        assert kind in rows
    assert any(row.startswith("reach ") and row.endswith("rlfp_ros.simulation.tasks.reach") for row in rows)
    assert "ppo Proximal policy optimisation. rlfp_ros.learning.algorithms.ppo" in rows
    assert f"panda config/arms/panda.yaml {ROOT / 'config' / 'arms' / 'panda.yaml'}" in rows
