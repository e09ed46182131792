"""A residual controller and an arm that follows it, without ROS, and the contracts that they are tested with."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from rlfp_ros.contract import ActionContract, BaseControllerContract
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.residual_controller import Command, ControllerSettings, Reason, ResidualController, State
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.control.trajectory_controller import TrajectoryController

ARM = load_arm("panda")
SIMULATED = ControllerSettings(start_enabled=True)
PUSH = np.array([0.0, 0.1, 0.0, 0.0, 0.0, 0.0])


def contract(base: str = "hold", gripper: bool = False, **parameters: object) -> SimpleNamespace:
    """Return the part of a bundle's contract that the controller reads."""
    components = ("vx", "vy", "vz") + (("gripper",) if gripper else ())
    action = ActionContract(
        components=components,
        scale=(0.2, 0.2, 0.2) + ((0.04,) if gripper else ()),
        units=("m/s", "m/s", "m/s") + (("m",) if gripper else ()),
        rate_hz=30.0,
    )
    return SimpleNamespace(action=action, base_controller=BaseControllerContract(name=base, parameters=parameters))


def joint_contract(base: str = "hold") -> SimpleNamespace:
    """The same for a policy that moves joints one, two and six."""
    action = ActionContract(
        kind="joint_velocity",
        components=("panda_joint1", "panda_joint6", "panda_joint2"),
        scale=(0.3, 0.2, 0.1),
        units=("rad/s",) * 3,
        rate_hz=30.0,
    )
    return SimpleNamespace(action=action, base_controller=BaseControllerContract(name=base))


class Rig:
    """Controller and arm: 240 ticks per second and a residual every eighth tick. The attributes break parts of it."""

    def __init__(
        self, settings: ControllerSettings = SIMULATED, made_for: SimpleNamespace | None = None, origin_ns: int = 0
    ) -> None:
        self.controller = ResidualController(ARM, made_for or contract(), settings)
        self.line = TrajectoryController(len(ARM.joint_names))
        self.line.reset(np.array(ARM.home))
        self.origin_ns, self.tick = origin_ns, 0
        self.twist: np.ndarray | None = PUSH
        self.joints_alive, self.camera_alive = True, True
        self.offset, self.effort = np.zeros(7), np.zeros(7)
        self.gripper: float | None = None
        self.commands: list[Command] = []
        self.applied = np.zeros(6)
        self.shift = 0.0

    @property
    def now(self) -> int:
        """Time of this tick, ns."""
        return self.origin_ns + self.tick * 1_000_000_000 // 240

    def joint_state(self) -> JointState:
        """Return what the arm's driver measures now."""
        position, velocity, _ = self.line.sample(self.now)
        return JointState(self.now, position + self.offset, velocity, self.effort, 0.04)

    def run(self, seconds: float) -> Rig:
        """Let time pass."""
        for _ in range(round(seconds * 240)):
            self.tick += 1
            if self.joints_alive:
                self.controller.on_joint_state(self.joint_state(), self.now)
            if self.tick % 8 == 0 and self.twist is not None:
                residual = Residual(self.now - 30_000_000, self.twist, self.gripper)
                self.applied = self.controller.on_residual(residual, self.now)
            if self.tick % 8 == 0 and self.camera_alive:
                self.controller.on_domain_shift(self.shift, self.now, self.now)
            command = self.controller.tick(self.now, self.now)
            self.commands.append(command)
            if command.trajectory is not None:
                self.line.accept(command.trajectory, self.now)
        return self

    def state(self) -> State:
        """Return the controller's state; a call, because mypy takes an asserted attribute to keep its value."""
        return self.controller.state

    def reasons(self) -> tuple[Reason, ...]:
        """Return why the controller is not fully active."""
        return self.controller.reasons

    @property
    def speed(self) -> float:
        """Largest joint speed that the arm is told, rad/s."""
        return float(np.abs(self.line.sample(self.now)[1]).max())

    @property
    def tool(self) -> np.ndarray:
        """Position [3] m of the tool."""
        return self.controller.kinematics.tool_position(self.line.sample(self.now)[0])
