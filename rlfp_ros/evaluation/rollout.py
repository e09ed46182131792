"""A bundle played in process: the graph's own perception, policy and controller code, without ROS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlfp_ros.contract import Bundle
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.residual_controller import ResidualController
from rlfp_ros.control.trained_arm import trained_arm
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.perception.encoder import Percept, Perception
from rlfp_ros.simulation.deployment import SIMULATION_SETTINGS, Deployment
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import Profile
from rlfp_ros.simulation.room import Room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.ticked_world import ArmWorld, Outcome

Watch = Callable[[Percept], None]


@dataclass(frozen=True)
class Episode:
    """One played episode. `residuals[i]` answers the i-th picture that was delivered."""

    seed: int
    outcome: Outcome
    residuals: list[Residual]


def make_world(bundle: Bundle, profile: Profile | Room) -> ArmWorld:
    """PyBullet under a randomisation profile, or MuJoCo in a room."""
    contract = bundle.contract
    arm, task = trained_arm(bundle), load_task(contract.task)
    scene = load_scene(arm=arm)
    if isinstance(profile, Room):
        from rlfp_ros.simulation.mujoco_world import MujocoWorld  # MuJoCo and OpenGL load only where they are used

        return MujocoWorld(arm, task, profile, scene, contract.camera)
    return PybulletWorld(arm, task, profile, scene, contract.camera)


class Rollout:
    """Plays a bundle under a profile or in a room; episode by episode, each from its seed."""

    def __init__(
        self, bundle: Bundle, profile: Profile | Room, settings: ControllerSettings = SIMULATION_SETTINGS
    ) -> None:
        contract = bundle.contract
        arm = trained_arm(bundle)
        self._perception = Perception(bundle)
        self._policy = Policy(bundle, arm)
        self.world = make_world(bundle, profile)
        self._deployment = Deployment(self.world, contract, settings)

    def play(self, seed: int, watch: Watch = lambda percept: None) -> Episode:
        """One episode from start to end. `watch` is called with each picture's percept, while the world stands."""
        self._deployment.reset(seed)
        self._policy.reset()
        world, residuals = self.world, []
        going = True
        while going:
            percept = self._perception(world.image, world.calibration)
            goal = world.task.goal(world)
            residual = self._policy.act(
                percept.features, self._deployment.frame_joint_state, world.image_stamp_ns, goal
            )
            residuals.append(residual)
            watch(percept)
            self._deployment.answer(residual, percept)
            going = self._deployment.advance()
        assert world.outcome is not None
        return Episode(seed, world.outcome, residuals)

    @property
    def controller(self) -> ResidualController:
        """The safety controller on the arm."""
        return self._deployment.controller

    def close(self) -> None:
        """Give back the simulator's memory."""
        self.world.close()
