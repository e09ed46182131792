"""Tests of the shipped base controllers and of one from a plugin, in process and through the real node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from fixture_bundle import make_bundle

from rlfp_ros import plugins
from rlfp_ros.contract import ActionContract, BaseControllerContract
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.base_controllers.base_controller import BASE_CONTROLLERS
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.residual_controller import ResidualController
from rlfp_ros.schema import ConfigurationError

PANDA = load_arm("panda")
PLUGIN = """
from typing import ClassVar

import numpy as np
from pydantic import Field

from rlfp_ros.control.base_controllers.base_controller import BASE_CONTROLLERS, Wanted
from rlfp_ros.schema import Schema


class Parameters(Schema):
    speed: float = Field(default=0.05, gt=0, le=0.2)


@BASE_CONTROLLERS.register("drift_along_y")
class DriftAlongY:
    Parameters: ClassVar[type[Schema]] = Parameters
    follows_object: ClassVar[bool] = False

    def __init__(self, parameters, arm, settings):
        self._speed = parameters.speed

    def start(self, situation):
        pass

    def wanted(self, situation, residual):
        return Wanted(np.array([0, self._speed, 0, 0, 0, 0.0]), np.zeros(len(situation.joints)))
"""


def contract(name: str, **parameters: float) -> SimpleNamespace:
    """The part of a bundle's contract that the controller reads."""
    action = ActionContract(components=("vx",), scale=(0.1,), units=("m/s",), rate_hz=30.0)
    return SimpleNamespace(action=action, base_controller=BaseControllerContract(name=name, parameters=parameters))


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A plugin file, named in the environment; one for all tests, since a process loads a plugin once."""
    file = tmp_path_factory.mktemp("plugin") / "drift_plugin.py"
    file.write_text(PLUGIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(plugins.VARIABLE, str(file))
        yield file


def test_the_controllers_that_ship_are_found_by_name() -> None:
    assert {"hold", "joint_pd", "servo", "scripted", "mpc"} <= set(BASE_CONTROLLERS)
    assert [name for name in ("hold", "servo", "mpc") if BASE_CONTROLLERS[name].follows_object] == ["servo", "mpc"]


def test_a_controller_of_a_plugin_moves_the_arm(plugin: Path) -> None:
    settings = ControllerSettings(start_enabled=True)
    controller = ResidualController(PANDA, contract("drift_along_y", speed=0.1), settings)
    start = controller.kinematics.tool_position(np.array(PANDA.home))
    for tick in range(240):
        now = tick * 1_000_000_000 // 240
        controller.on_joint_state(JointState(now, controller.commanded, np.zeros(7), np.zeros(7), 0.04), now)
        controller.tick(now, now)
    moved = controller.kinematics.tool_position(controller.commanded) - start
    assert moved == pytest.approx([0.0, 0.08, 0.0], abs=0.01)
    with pytest.raises(ConfigurationError, match="parameters: speed is 3"):
        ResidualController(PANDA, contract("drift_along_y", speed=3.0), settings)


def bundle_with(name: str, directory: Path) -> Path:
    """The tiny bundle with another base controller."""
    bundle = make_bundle(directory).directory
    document = yaml.safe_load((bundle / "bundle.yaml").read_text())
    document["base_controller"] = {"name": name}
    (bundle / "bundle.yaml").write_text(yaml.safe_dump(document))
    return bundle


def start_node(bundle: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Build the safety node in a process of its own, tick it once, and end."""
    program = (
        "import sys\n"
        "from rlfp_ros.nodes import spin\n"
        "from rlfp_ros.nodes.residual_controller import ResidualControllerNode\n"
        "class Once(ResidualControllerNode):\n"
        "    def _on_timer(self):\n"
        "        super()._on_timer()\n"
        "        raise spin.Finished(0, f'base controller {type(self.controller.base).__name__}')\n"
        "sys.exit(spin.run(Once))\n"
    )
    command = [sys.executable, "-P", "-c", program, "--ros-args", "-p", f"bundle:={bundle}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.graph
def test_the_node_runs_a_bundle_with_a_plugins_controller_and_without_the_plugin_refuses_it_in_a_sentence(
    plugin: Path, tmp_path: Path
) -> None:
    pytest.importorskip("rclpy")
    bundle = bundle_with("drift_along_y", tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != plugins.VARIABLE}
    without = start_node(bundle, environment)
    assert without.returncode == 2
    assert len(without.stderr.strip().splitlines()) == 1
    assert "base_controller.name is 'drift_along_y', expected one of excite, hold, joint_pd, mpc" in without.stderr
    assert plugins.VARIABLE in without.stderr
    with_it = start_node(bundle, environment | {plugins.VARIABLE: str(plugin)})
    assert with_it.returncode == 0, with_it.stderr
    assert "base controller DriftAlongY" in with_it.stderr
    wrong = start_node(bundle, environment | {plugins.VARIABLE: str(tmp_path / "missing.py")})
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 1
    assert "missing.py" in wrong.stderr
