"""The deployed controller on a simulated arm, used by the Gymnasium environment and by evaluation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rlfp_ros.contract import ActionContract, BaseControllerContract
from rlfp_ros.control.complete_residual import CompleteResiduals
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.residual_controller import ActionAndBase, ResidualController
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.perception.encoder import Percept
from rlfp_ros.simulation.ticked_world import ArmWorld

SIMULATION_SETTINGS = ControllerSettings(start_enabled=True, tick_on="joint_states", episode_reset_clears_stop=True)


@dataclass(frozen=True)
class Behaviour:
    """An action contract and a base controller that replace the task's."""

    action: ActionContract
    base_controller: BaseControllerContract


class Deployment:
    """A world with the residual controller on its arm.

    In every tick, due frames are delivered, the residual for each takes effect, the controller ticks on the measured
    joints, and its command goes to the arm. The simulator node does the same through topics.

    Attributes
    ----------
    on_tick : callable or None
        Called after every tick, when the command has taken effect in the world; for measurements.
    """

    def __init__(self, world: ArmWorld, behaviour: ActionAndBase, settings: ControllerSettings) -> None:
        self.world = world
        self.controller = ResidualController(world.arm, behaviour, settings)
        self.on_tick: Callable[[], None] | None = None
        self._T_base_camera = world.camera.contract.T_base_camera.matrix()
        self._answers: deque[tuple[Residual, Percept | None]] = deque()
        self._residuals = CompleteResiduals(self.controller.has_gripper, waits_for_percepts=True)

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self.controller.on_episode_reset(self.world.stamp_ns)
        self.world.reset(seed)
        self._answers.clear()
        self._residuals.begin_episode(self.world.stamp_ns)
        self.frame_joint_state = self.world.joint_state()

    def answer(self, residual: Residual, percept: Percept | None = None) -> None:
        """Set the residual and percept for a captured frame; they take effect when that frame is delivered."""
        self._answers.append((residual, percept))

    def advance(self) -> bool:
        """Run to the next captured frame; return False if the episode ended instead."""
        world, controller = self.world, self.controller
        while True:
            now = world.stamp_ns
            for frame in world.delivered_frames():
                # Images come before the joints of their tick, so the controller's clock still shows the last tick.
                received = world.stamp_of(world.tick - 1)
                while self._answers and self._answers[0][0].stamp_ns <= frame.stamp_ns:
                    residual, percept = self._answers.popleft()
                    if percept is not None:
                        found = percept.in_base(self._T_base_camera)
                        controller.on_object_pose(found.position, found.covariance, frame.stamp_ns, received)
                        controller.on_domain_shift(percept.domain_shift, frame.stamp_ns, received)
                    complete = self._residuals.saw_percept(frame.stamp_ns, received)
                    complete += self._residuals.saw_residual(residual, received)
                    for one in complete:
                        controller.on_residual(one, received)
            controller.on_joint_state(world.joint_state(), now)
            command = controller.tick(now, now)
            world.step(command.trajectory, command.gripper_width)
            if self.on_tick is not None:
                self.on_tick()
            if world.outcome is not None:
                return False
            if world.captured:
                self.frame_joint_state = world.joint_state()
                return True
