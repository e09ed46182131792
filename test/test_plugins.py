"""Tests of plugins of every kind, in this process, in spawned workers and in nodes; a wrong one gives one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from python_process import run_python

from rlfp_ros import cli, plugins

ROOT = Path(__file__).resolve().parents[1]

# What each file registers, without torch.
CELL = """
from pathlib import Path

from rlfp_ros.contract import BaseControllerContract
from rlfp_ros.control.arm import ARMS
from rlfp_ros.control.base_controllers.base_controller import BASE_CONTROLLERS
from rlfp_ros.control.base_controllers.hold import Hold
from rlfp_ros.simulation.tasks.reach import Reach
from rlfp_ros.simulation.tasks.task import TASKS

ARMS.add("own_arm", Path(__file__).with_name("own_arm.yaml"))


@BASE_CONTROLLERS.register("own_hold")
class OwnHold(Hold):
    pass


@TASKS.register("own_reach")
class OwnReach(Reach):
    base_controller = BaseControllerContract(name="own_hold")
"""

LEARNING = """
from rlfp_ros.learning.algorithms.algorithm import ALGORITHMS, algorithm
from rlfp_ros.learning.algorithms.ppo import PpoSettings, train
from rlfp_ros.learning.encoders.cnn import CnnEncoder
from rlfp_ros.learning.encoders.encoder import ENCODERS
from rlfp_ros.learning.objectives.autoencoder import Autoencoder
from rlfp_ros.learning.objectives.objective import OBJECTIVES


@ENCODERS.register("own_encoder")
class OwnEncoder(CnnEncoder):
    pass


@OBJECTIVES.register("own_objective")
class OwnObjective(Autoencoder):
    pass


algorithm("own_ppo", PpoSettings(), steps=1000)(train)
"""

VECTOR = """
import sys

import numpy as np

from rlfp_ros import make_vector

if __name__ == "__main__":
    vector = make_vector(2, task="own_reach", arm="own_arm", profile="none", observation="state")
    vector.reset(seed=0)
    print(vector.step(np.zeros(vector.action_space.shape, np.float32))[1].shape)
    vector.close()
"""


@pytest.fixture
def own_cell(tmp_path: Path) -> Path:
    """A plugin file with an arm, a base controller and a task."""
    document = yaml.safe_load((ROOT / "config" / "arms" / "panda.yaml").read_text())
    (tmp_path / "own_arm.yaml").write_text(yaml.safe_dump(document | {"name": "own_arm"}))
    file = tmp_path / "own_cell.py"
    file.write_text(CELL)
    return file


def test_arm_task_and_base_controller_reach_spawned_environments(own_cell: Path, tmp_path: Path) -> None:
    program = tmp_path / "vector.py"
    program.write_text(VECTOR)
    done = run_python("-P", str(program), environment={plugins.VARIABLE: str(own_cell)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "(2,)"


def test_a_plugins_object_is_unpickled_in_a_process_that_has_looked_nothing_up(own_cell: Path, tmp_path: Path) -> None:
    write = (
        "import pickle, sys; from rlfp_ros.simulation.tasks.task import TASKS; from pathlib import Path; "
        "Path(sys.argv[1]).write_bytes(pickle.dumps(TASKS['own_reach']))"
    )
    read = "import pickle, sys; import rlfp_ros.plugins; print(pickle.load(open(sys.argv[1], 'rb')).__name__)"
    environment = {plugins.VARIABLE: str(own_cell)}
    for program, said in ((write, ""), (read, "OwnReach\n")):
        done = run_python("-P", "-c", program, str(tmp_path / "class"), environment=environment)
        assert (done.returncode, done.stdout) == (0, said), done.stderr[-2000:]


def test_encoder_objective_and_algorithm_are_listed_with_their_file(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    file = tmp_path / "own_learning.py"
    file.write_text(LEARNING)
    done = run_python("-P", "-m", "rlfp_ros.cli", "--plugin", str(file), "plugins")
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("own_encoder", "own_objective", "own_ppo"):
        assert name in done.stdout


def test_a_plugin_is_not_loaded_into_a_module_that_is_being_imported(tmp_path: Path) -> None:
    """As in a spawned worker, whose first import is a module that the plugin needs, and that imports Gymnasium."""
    pytest.importorskip("torch")
    file = tmp_path / "own_learning.py"
    file.write_text(LEARNING)
    program = (
        "import rlfp_ros.learning.algorithms.environments\n"
        "from rlfp_ros.learning.encoders.encoder import ENCODERS\n"
        "print('own_encoder' in ENCODERS)"
    )
    done = run_python("-P", "-W", "error::RuntimeWarning", "-c", program, environment={plugins.VARIABLE: str(file)})
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-2000:]


TASK = "from rlfp_ros.simulation.tasks.task import TASKS, Task\n"
WRONG = {
    "raises": ("x = 1\nx / 0\n", "line 2: ZeroDivisionError"),
    "imports_nothing": ("import no_such_module\n", "line 1: ModuleNotFoundError"),
    "syntax": ("def\n", "line 1: SyntaxError"),
    "same_name": (
        "from rlfp_ros.simulation.tasks.reach import Reach\n"
        + TASK
        + "TASKS.register('reach')(type('R', (Reach,), {}))",
        "task 'reach' is registered twice, in rlfp_ros.simulation.tasks.reach and in ",
    ),
    "not_a_task": (TASK + "TASKS.register('odd')(int)", "task 'odd' is class int, expected Task or a subclass of it"),
    "lacks_reward": (
        TASK + "TASKS.register('lazy')(type('Lazy', (Task,), {}))",
        "task 'lazy' is class Lazy, which lacks reward; add what is missing",
    ),
    "no_arm": (
        "from rlfp_ros.control.arm import ARMS\nARMS.add('a', 'a.yaml')",
        "arm 'a' is a str, expected Path or Arm",
    ),
    "no_controller": (
        "from rlfp_ros.control.base_controllers.base_controller import BASE_CONTROLLERS\n"
        "BASE_CONTROLLERS.register('still')(type('Still', (), {'follows_object': False}))",
        "base controller 'still' is class Still, which lacks Parameters, start, wanted",
    ),
}
WRONG_LEARNING = {
    "lacks_see": (
        "from rlfp_ros.learning.encoders.encoder import ENCODERS, Encoder\n"
        "ENCODERS.register('blind')(type('Blind', (Encoder,), {}))",
        "encoder 'blind' is class Blind, which lacks describe, pose, see",
    ),
    "lacks_loss": (
        "from rlfp_ros.learning.objectives.objective import OBJECTIVES, Objective\n"
        "OBJECTIVES.register('idle')(type('Idle', (Objective,), {}))",
        "objective 'idle' is class Idle, which lacks loss",
    ),
    "other_train": (
        "from rlfp_ros.learning.algorithms.algorithm import algorithm\n"
        "from rlfp_ros.learning.runs.settings import TrainingSettings\n"
        "@algorithm('short', TrainingSettings(), steps=10)\ndef train(make_env): ...\n",
        "algorithm 'short': train cannot be called with make_env, settings, steps, seed and log",
    ),
}


@pytest.mark.parametrize("case", [*WRONG, *WRONG_LEARNING])
def test_a_wrong_plugin_ends_in_one_sentence(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if case in WRONG_LEARNING:
        pytest.importorskip("torch")
    text, expected = (WRONG | WRONG_LEARNING)[case]
    file = tmp_path / f"{case}_plugin.py"
    file.write_text(text)
    monkeypatch.setenv(plugins.VARIABLE, "")
    assert cli.main(["--plugin", str(file), "doctor"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rlfp: ")
    assert str(file) in error
    assert expected in error
    assert error.count("\n") == 1
