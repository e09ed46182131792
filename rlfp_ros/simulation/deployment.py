"""The deployed controller on a simulated arm, used by the Gymnasium environment and by evaluation."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rlfp_ros.contract import ActionContract, BaseControllerContract
from rlfp_ros.control.action_and_base import ActionAndBase
from rlfp_ros.control.complete_residual import CompleteResiduals
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.residual_controller import ResidualController
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.perception.encoder import Percept
from rlfp_ros.simulation.camera import Frame
from rlfp_ros.simulation.ticked_world import ArmWorld

SIMULATION_SETTINGS = ControllerSettings(start_enabled=True, tick_on="joint_states", episode_reset_clears_stop=True)


@dataclass(frozen=True)
class Behaviour:
    """An action contract and a base controller that replace the task's."""

    action: ActionContract
    base_controller: BaseControllerContract


class Moment(enum.Enum):
    """Something that happens to a camera frame, or the end of the episode."""

    CAPTURED = enum.auto()  # the camera has taken an image
    DELIVERED = enum.auto()  # the oldest image on its way has come; the last moment to answer it
    ENDED = enum.auto()


class Deployment:
    """A world with the residual controller on its arm.

    In every tick, a due frame is delivered, the residual for it takes effect, the controller ticks on the measured
    joints, and its command goes to the arm. The simulator node does the same through topics.

    Attributes
    ----------
    on_tick : callable or None
        Called after every tick, when the command has taken effect in the world; for measurements.
    on_applied : list of callables
        Called with the admitted part of each residual, as it goes over `policy/residual_applied`.
    """

    def __init__(self, world: ArmWorld, behaviour: ActionAndBase, settings: ControllerSettings) -> None:
        self.world = world
        self.controller = ResidualController(world.arm, behaviour, settings)
        self.on_tick: Callable[[], None] | None = None
        self.on_applied: list[Callable[[Residual], None]] = []
        self._T_base_camera = world.camera.contract.T_base_camera.matrix()
        self._answers: deque[tuple[Residual, Percept | None]] = deque()
        self._residuals = CompleteResiduals(self.controller.has_gripper, waits_for_percepts=True)
        self._delivered_ns = -1  # stamp of the newest delivered frame
        self._due: deque[Frame] = deque()  # frames that this tick delivers and that are not reported yet
        self._delivers = True  # whether the present tick has yet to deliver its frames

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self.controller.on_episode_reset(self.world.stamp_ns)
        self.world.reset(seed)
        self._answers.clear()
        self._residuals.begin_episode(self.world.stamp_ns)
        self._delivered_ns, self._delivers = -1, True
        self._due.clear()
        self.frame_joint_state = self.world.joint_state()

    def answer(self, residual: Residual, percept: Percept | None = None) -> None:
        """Set the residual and percept for a captured frame.

        They take effect when that frame is delivered: at once if it has been.
        """
        self._answers.append((residual, percept))
        self._admit_answers(self._delivered_ns)

    def advance(self) -> bool:
        """Run to the next captured frame; return False if the episode ended instead."""
        while (moment := self.next_moment()) is Moment.DELIVERED:
            pass
        return moment is Moment.CAPTURED

    def next_moment(self) -> Moment:
        """Run until a frame is captured or delivered, or the episode ends."""
        world, controller = self.world, self.controller
        while True:
            if self._delivers:
                self._delivers = False
                self._due.extend(world.delivered_frames())
            if self._due:
                self._delivered_ns = self._due.popleft().stamp_ns
                self._admit_answers(self._delivered_ns)
                return Moment.DELIVERED
            now = world.stamp_ns
            controller.on_joint_state(world.joint_state(), now)
            command = controller.tick(now, now)
            world.step(command.trajectory, command.gripper_width)
            self._delivers = True
            if self.on_tick is not None:
                self.on_tick()
            if world.outcome is not None:
                return Moment.ENDED
            if world.captured:
                self.frame_joint_state = world.joint_state()
                return Moment.CAPTURED

    def _admit_answers(self, delivered_ns: int) -> None:
        """Let the answers to frames up to the delivered one take effect."""
        controller = self.controller
        # Images come before the joints of their tick, so the controller's clock still shows the last tick.
        received = self.world.stamp_of(self.world.tick - 1)
        while self._answers and self._answers[0][0].stamp_ns <= delivered_ns:
            residual, percept = self._answers.popleft()
            if percept is not None and percept.object_pose is None:
                controller.on_scene(percept.domain_shift, delivered_ns, received)
            elif percept is not None:
                found = percept.in_base(self._T_base_camera)
                controller.on_object_pose(found.position, found.covariance, delivered_ns, received)
                controller.on_domain_shift(percept.domain_shift, delivered_ns, received)
            complete = self._residuals.saw_percept(delivered_ns, received)
            complete += self._residuals.saw_residual(residual, received)
            for one in complete:
                admitted = controller.admit(one, received)
                for listener in self.on_applied:
                    listener(admitted)
