"""Tests of a user's own task in one file outside the package."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from fixture_bundle import make_bundle
from gymnasium.utils.env_checker import check_env
from python_process import run_python

from rlfp_ros import cli, plugins
from rlfp_ros.contract import load_bundle
from rlfp_ros.evaluation import preview
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.sim import SIM
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.gymnasium_ids import environment_id
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.tasks.task import TASKS, load_task

HOVER = '''
import numpy as np
from rlfp_ros.simulation.tasks.task import TASKS, Task

@TASKS.register("NAME")
class Hover(Task):
    """Hold the tool 8 cm above the block."""

    def distance(self, scene):
        return float(np.linalg.norm(self.object_pose(scene)[0] + (0, 0, 0.08) - scene.tool_position()))

    def reward(self, scene, success):
        return -5 * self.distance(scene) + 5 * success
'''
Write = Callable[..., str]
numbers = itertools.count()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """write(text): load a plugin file with `text` as `--plugin` does; returns the name of its task, `NAME` in it."""
    names: list[str] = []

    def written(text: str = HOVER, settings: str = "") -> str:
        name = f"hover_{next(numbers)}"
        if settings:
            (tmp_path / f"{name}.yaml").write_text(settings)
        file = tmp_path / f"my_{name}.py"
        file.write_text(text.replace("NAME", name))
        monkeypatch.setenv(plugins.VARIABLE, str(file))
        names.append(name)
        return name

    yield written
    for name in names:
        TASKS.remove(name)


def test_reward_and_distance_are_enough_for_an_environment(write: Write) -> None:
    name = write()
    env = gymnasium.make(environment_id(load_task(name).settings.task), observation="both", profile="train")
    observation, _ = env.reset(seed=1)
    assert observation["state"].shape == (17,)
    *_, info = env.step(env.action_space.sample())
    made = env.unwrapped
    assert isinstance(made, ManipulationEnv)
    world = made.world
    expected = world.task.object_pose(world)[0] + (0, 0, 0.08) - world.tool_position()
    assert info["distance_m"] == pytest.approx(float(np.linalg.norm(expected)))
    assert len(world.keypoints()) == 4
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_success_can_be_a_condition_instead_of_a_distance(write: Write) -> None:
    text = HOVER.replace("def distance(self, scene):", "def success(self, scene):").replace(
        "return float(np.linalg.norm(self.object_pose(scene)[0] + (0, 0, 0.08) - scene.tool_position()))",
        "return bool(scene.tool_position()[2] > 0.0)",
    )
    env = gymnasium.make(environment_id(load_task(write(text)).settings.task), observation="state", profile="none")
    env.reset(seed=1)
    ended, steps = False, 0
    while not ended:
        *_, ended, _, info = env.step(np.zeros(3, np.float32))
        steps += 1
    assert info["success"]
    assert steps / 30 == pytest.approx(0.1, abs=0.04)  # `hold`
    env.close()


def test_workers_of_a_vector_environment_load_it_too(write: Write) -> None:
    name = load_task(write()).settings.task
    vector = gymnasium.make_vec(
        environment_id(name),
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
        observation="state",
    )
    observation, _ = vector.reset(seed=1)
    assert observation["state"].shape == (2, 17)
    vector.close()


def test_preview_and_rollout_play_it_and_the_graph_takes_it(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "LATER_FRAMES", 2)
    name = write(settings="time_limit: 0.5\n")
    out = tmp_path / "sheet.png"
    assert cli.main(["preview", "--task", name, "--profile", "none", "--out", str(out)]) == 0
    assert out.stat().st_size > 1000
    bundle = make_bundle(tmp_path / "bundles", name="own", task=name).directory
    rollout = Rollout(load_bundle(bundle), load_profile("none"))
    assert rollout.play(0).outcome.steps == 15
    rollout.close()
    resolved = resolve(SIM, {"task": name, "bundle": str(bundle), "profile": "none"})
    assert resolved.arguments["task"] == name


def test_the_recipe_asks_for_a_teacher_in_one_sentence(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    name = write()
    folders = ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    code = cli.main(["train", name, "--recipe", "imitation", "--work", "0.01", *folders])
    said = capsys.readouterr().err
    assert code == 2
    assert f"task {name}: has no teacher" in said
    assert "add a method `teacher` to class Hover" in said
    assert not (tmp_path / "run").exists()


def test_settings_come_from_the_class_or_from_a_file_beside_the_plugin(write: Write, tmp_path: Path) -> None:
    assert load_task(write()).settings.hold == 0.1
    assert load_task(write(settings="hold: 0.4\n")).settings.hold == 0.4
    name = write(settings="hold: 0.4\nholt: 1\n")
    with pytest.raises(ConfigurationError, match=rf"{name}\.yaml: holt is not a known field"):
        load_task(name)
    with pytest.raises(ConfigurationError, match="task is 'push', expected"):
        load_task(write(settings="task: push\n"))


def test_a_settings_file_with_the_plugins_name_belongs_to_the_task_that_it_names(write: Write, tmp_path: Path) -> None:
    name = write()
    (tmp_path / f"my_{name}.yaml").write_text(f"task: {name}\nhold: 0.7\n")
    assert load_task(name).settings.hold == 0.7
    (tmp_path / f"my_{name}.yaml").write_text("task: other\nhold: 0.7\n")
    assert load_task(name).settings.hold == 0.1


def test_a_task_that_nothing_wins_is_refused(write: Write) -> None:
    name = write(HOVER.replace("def distance", "def far"))
    with pytest.raises(ConfigurationError, match="defines neither `distance` nor `success`"):
        load_task(name)


def test_a_second_task_of_the_same_name_is_refused(write: Write) -> None:
    write(HOVER.replace("NAME", "push"))
    with pytest.raises(ConfigurationError, match="task 'push' is registered twice"):
        TASKS.names()


@pytest.mark.parametrize("imports", ["rlfp_ros, gymnasium", "gymnasium, rlfp_ros"])
def test_importing_both_packages_in_either_order_is_enough_for_gymnasium(imports: str) -> None:
    program = f"import {imports}\nenv = gymnasium.make('rlfp_ros/Push-v0', profile='none')\nenv.reset(seed=1)\n"
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr[-2000:]


def test_gymnasium_can_be_imported_although_a_plugin_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / "broken.py"))
    program = "import rlfp_ros, gymnasium; print('rlfp_ros/Push-v0' in gymnasium.registry)"
    done = run_python("-c", program)
    assert done.stdout.split() == ["True"], done.stderr[-2000:]
    assert "broken.py: line 1: ModuleNotFoundError" in done.stderr
