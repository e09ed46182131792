"""Plays a bundle in process, with the perception, policy and controller code of the graph but without ROS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rlfp_ros.contract import Bundle
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.residual_controller import ResidualController
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.perception.encoder import Percept, Perception
from rlfp_ros.simulation.deployment import SIMULATION_SETTINGS, Deployment
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.ticked_world import Outcome
from rlfp_ros.simulation.worlds import Conditions, make_world

Watch = Callable[[Percept], None]


@dataclass(frozen=True)
class PlayedEpisode:
    """One played episode. `residuals[i]` answers the i-th image that was delivered."""

    seed: int
    outcome: Outcome
    residuals: list[Residual]


class Rollout:
    """Plays a bundle episode by episode, each from its seed.

    Parameters
    ----------
    bundle
        The bundle.
    conditions
        A randomisation profile, which is played in PyBullet, or a room, which is played in MuJoCo.
    settings
        The controller's settings.
    arm
        Name or file of an arm, instead of the one that the bundle was trained with; see `choose_arm`.
    """

    def __init__(
        self,
        bundle: Bundle,
        conditions: Conditions,
        settings: ControllerSettings = SIMULATION_SETTINGS,
        arm: str | Path | None = None,
    ) -> None:
        contract = bundle.contract
        chosen = choose_arm(bundle, arm)
        self.perception = Perception(bundle, chosen)
        self.policy = Policy(bundle, chosen)
        self.world = make_world(chosen, load_task(contract.task), conditions, contract.camera)
        self.deployment = Deployment(self.world, contract, settings)

    def play(self, seed: int, watch: Watch = lambda percept: None) -> PlayedEpisode:
        """Play one episode. `watch` is called with the percept of each image before the world continues."""
        self.deployment.reset(seed)
        self.policy.reset()
        world, residuals = self.world, []
        going = True
        while going:
            joints = self.deployment.frame_joint_state
            percept = self.perception(world.image, world.calibration, joint_positions=joints.positions)
            goal = world.task.goal(world)
            residual = self.policy.act(percept.features, joints, world.image_stamp_ns, goal)
            residuals.append(residual)
            watch(percept)
            self.deployment.answer(residual, percept)
            going = self.deployment.advance()
        assert world.outcome is not None
        return PlayedEpisode(seed, world.outcome, residuals)

    @property
    def controller(self) -> ResidualController:
        """The safety controller on the arm."""
        return self.deployment.controller

    def close(self) -> None:
        """Free the simulator's memory."""
        self.world.close()
