"""Plays a bundle in process, with the perception, policy and controller code of the graph but without ROS."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlfp_ros.contract import Bundle
from rlfp_ros.control.actions import action_of
from rlfp_ros.control.arm import JointState
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.observation import ObservationContract
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.residual_controller import ResidualController
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.perception.encoder import Percept, Perception
from rlfp_ros.simulation.deployment import SIMULATION_SETTINGS, Deployment, Moment
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.ticked_world import Outcome
from rlfp_ros.simulation.worlds import Conditions, make_world

Watch = Callable[[Percept], None]


@dataclass(frozen=True)
class PlayedEpisode:
    """One played episode. `residuals[i]` answers the i-th image."""

    seed: int
    outcome: Outcome
    residuals: list[Residual]


@dataclass(frozen=True)
class _Seen:
    """An image that the policy has not answered yet, as perceived at its exposure."""

    stamp_ns: int
    percept: Percept
    joints: JointState
    goal: np.ndarray | None


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
        self.deployment.on_applied.append(self._applied)
        # Past actions are those that the controller has admitted when the image is delivered.
        on_delivery = ObservationContract.of(contract).decides_on_delivery
        self._decides_at = Moment.DELIVERED if on_delivery else Moment.CAPTURED

    def play(self, seed: int, watch: Watch = lambda percept: None) -> PlayedEpisode:
        """Play one episode. `watch` is called with the percept of each image before the world continues."""
        self.deployment.reset(seed)
        self.policy.reset()
        world, residuals = self.world, []
        waiting: deque[_Seen] = deque()
        moment = Moment.CAPTURED  # the first image is taken at the reset
        while moment is not Moment.ENDED:
            if moment is Moment.CAPTURED:
                waiting.append(self._see())
                watch(waiting[-1].percept)
            if moment is self._decides_at:
                seen = waiting.popleft()
                residual = self.policy.act(seen.percept.features, seen.joints, seen.stamp_ns, seen.goal)
                residuals.append(residual)
                self.deployment.answer(residual, seen.percept)
            moment = self.deployment.next_moment()
        assert world.outcome is not None
        return PlayedEpisode(seed, world.outcome, residuals)

    def _see(self) -> _Seen:
        world, joints = self.world, self.deployment.frame_joint_state
        percept = self.perception(world.image, world.calibration, joint_positions=joints.positions)
        return _Seen(world.image_stamp_ns, percept, joints, world.task.goal(world))

    def _applied(self, admitted: Residual) -> None:
        if self._decides_at is Moment.DELIVERED:
            contract = self.policy.contract
            action = action_of(admitted, contract.action, contract.arm.joint_names)
            self.policy.saw_applied(admitted.stamp_ns, action)

    @property
    def controller(self) -> ResidualController:
        """The safety controller on the arm."""
        return self.deployment.controller

    def close(self) -> None:
        """Free the simulator's memory."""
        self.world.close()
