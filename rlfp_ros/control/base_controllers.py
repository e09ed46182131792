"""The controllers a residual is added to, by name: hold, joint_pd, servo, scripted, mpc.

Each works alone, with the policy dead. A base controller turns the situation into a wanted tool twist (base frame)
and a wanted posture of the joints that the tool pose leaves free; limits are not its business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import daqp
import numpy as np
from pydantic import Field, model_validator

from rlfp_ros import schema
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.kinematics import rotation_matrix, rotation_vector
from rlfp_ros.schema import ConfigurationError, Schema

ORIENTATION_RATE_HZ = 4.0  # rotation error decays at this rate: slower than the joints' own response, no overshoot
ORIENTATION_SPEED_RAD_S = 1.0


@dataclass
class Situation:
    """What a base controller may know at one tick. Commanded, not measured, joints: no delay, no noise."""

    joints: np.ndarray  # [J] rad
    jacobian: np.ndarray  # [6, J] of the tool in the base frame
    position: np.ndarray  # [3] m, tool in the base frame
    rotation: np.ndarray  # [3, 3], T_base_tool
    object_position: np.ndarray | None  # [3] m in the base frame, last accepted percept
    goal: np.ndarray | None  # [3] m in the base frame
    dt: float  # s since the last tick


@dataclass
class Wanted:
    """A tool twist [6] (m/s, rad/s, base frame) and joint velocities [J] rad/s for what the twist leaves free."""

    twist: np.ndarray
    posture: np.ndarray


class BaseController(Protocol):
    """One per activation of the arm; `start` is called whenever the arm is initialised from measured joints."""

    def start(self, situation: Situation) -> None:
        """Capture what has to be kept."""

    def wanted(self, situation: Situation, residual: np.ndarray) -> Wanted:
        """The motion at this tick; `residual` [6] is the twist that will be added to it."""


class NoParameters(Schema):
    """For controllers without parameters."""


REGISTRY: dict[str, tuple[type[Schema], Callable[[Any, Arm, ControllerSettings], BaseController]]] = {}


def base_controller(name: str, parameters: type[Schema]) -> Callable[[type], type]:
    """Class decorator: make a controller selectable as `base_controller.name` in a bundle."""

    def register(cls: type) -> type:
        REGISTRY[name] = (parameters, cls)
        return cls

    return register


def make_base_controller(
    name: str, parameters: dict[str, Any], arm: Arm, settings: ControllerSettings
) -> BaseController:
    """The controller that a bundle names. Raises ConfigurationError for unknown names and parameters."""
    if name not in REGISTRY:
        raise ConfigurationError(
            f"bundle.yaml: base_controller.name is {name!r}, expected one of {', '.join(sorted(REGISTRY))}"
        )
    parameter_class, cls = REGISTRY[name]
    return cls(schema.validate(parameters, parameter_class, "bundle.yaml: base_controller.parameters"), arm, settings)


class OrientationKeeper:
    """Keeps the tool's orientation at what it was on `start`, turned only by the residual's own rotation."""

    def start(self, situation: Situation) -> None:
        self._reference = situation.rotation.copy()

    def angular_velocity(self, situation: Situation, residual: np.ndarray) -> np.ndarray:
        """[3] rad/s in the base frame."""
        if any(residual[3:].tolist()):
            self._reference = rotation_matrix(residual[3:] * situation.dt) @ self._reference
        error = rotation_vector(self._reference.dot(situation.rotation.T))
        return limited(ORIENTATION_RATE_HZ * error, ORIENTATION_SPEED_RAD_S)


class Posture:
    """Pull of the free joints towards home."""

    def __init__(self, arm: Arm, settings: ControllerSettings) -> None:
        self._home = np.array(arm.home)
        self._rate, self._speed = settings.posture_rate_hz, settings.posture_speed_rad_s

    def velocity(self, joints: np.ndarray) -> np.ndarray:
        """[J] rad/s."""
        pull = self._rate * (self._home - joints)
        return np.minimum(np.maximum(pull, -self._speed), self._speed)


def limited(vector: np.ndarray, length: float) -> np.ndarray:
    """`vector`, shortened to `length` where it is longer."""
    x, y, z = vector.tolist()
    found = (x * x + y * y + z * z) ** 0.5
    return vector * (length / found) if found > length else vector


@base_controller("hold", NoParameters)
class Hold:
    """No translation of its own; orientation and posture kept. The residual does all of the moving."""

    def __init__(self, parameters: NoParameters, arm: Arm, settings: ControllerSettings) -> None:
        self._orientation = OrientationKeeper()
        self._posture = Posture(arm, settings)

    def start(self, situation: Situation) -> None:
        self._orientation.start(situation)

    def wanted(self, situation: Situation, residual: np.ndarray) -> Wanted:
        twist = np.zeros(6)
        twist[:3] = self.velocity(situation)
        twist[3:] = self._orientation.angular_velocity(situation, residual)
        return Wanted(twist, self._posture.velocity(situation.joints))

    def velocity(self, situation: Situation) -> np.ndarray | float:
        """Tool velocity [3] m/s in the base frame; the controllers below differ only here."""
        return 0.0


class JointPdParameters(Schema):
    """`reference`: joints to go to (rad, in the arm's order; empty: home). `rate_hz`: 1/s. `speed`: rad/s."""

    reference: tuple[float, ...] = ()
    rate_hz: float = Field(default=2.0, gt=0, le=20)
    speed: float = Field(default=0.5, gt=0, le=3)


@base_controller("joint_pd", JointPdParameters)
class JointPd:
    """Goes to a joint configuration, at most at `speed`; damping comes from the filter's jerk-limited approach."""

    def __init__(self, parameters: JointPdParameters, arm: Arm, settings: ControllerSettings) -> None:
        self._parameters = parameters
        self._reference = np.array(parameters.reference or arm.home)
        if self._reference.shape != (len(arm.joint_names),):
            raise ConfigurationError(
                f"bundle.yaml: base_controller.parameters.reference has {len(self._reference)} values, "
                f"expected {len(arm.joint_names)}, one for each joint of {arm.name}"
            )

    def start(self, situation: Situation) -> None:
        pass

    def wanted(self, situation: Situation, residual: np.ndarray) -> Wanted:
        velocity = self._parameters.rate_hz * (self._reference - situation.joints)
        fastest = float(np.max(np.abs(velocity)))
        if fastest > self._parameters.speed:
            velocity = velocity * (self._parameters.speed / fastest)
        return Wanted(situation.jacobian @ velocity, velocity)


class ServoParameters(Schema):
    """`target`: 0 the perceived object, 1 the goal. `offset`: m, base frame. `rate_hz`: 1/s. `speed`: m/s."""

    target: float = Field(default=0.0, ge=0, le=1)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rate_hz: float = Field(default=3.0, gt=0, le=20)
    speed: float = Field(default=0.15, gt=0, le=1)


@base_controller("servo", ServoParameters)
class Servo(Hold):
    """Cartesian servo to the perceived object or the goal; stands still until there is one."""

    def __init__(self, parameters: ServoParameters, arm: Arm, settings: ControllerSettings) -> None:
        super().__init__(NoParameters(), arm, settings)
        self._parameters = parameters
        self._offset = np.array(parameters.offset)

    def target(self, situation: Situation) -> np.ndarray | None:
        """[3] m in the base frame."""
        place = situation.goal if self._parameters.target else situation.object_position
        return None if place is None else place + self._offset

    def velocity(self, situation: Situation) -> np.ndarray | float:
        target = self.target(situation)
        if target is None:
            return 0.0
        return limited(self._parameters.rate_hz * (target - situation.position), self._parameters.speed)


class ScriptedParameters(Schema):
    """`waypoints`: x y z x y z ... (m, base frame). `tolerance`: m. `rate_hz`: 1/s. `speed`: m/s."""

    waypoints: tuple[float, ...]
    tolerance: float = Field(default=0.01, gt=0, le=0.2)
    rate_hz: float = Field(default=3.0, gt=0, le=20)
    speed: float = Field(default=0.15, gt=0, le=1)

    @model_validator(mode="after")
    def _triples(self) -> ScriptedParameters:
        if not self.waypoints or len(self.waypoints) % 3:
            raise ValueError(f"waypoints has {len(self.waypoints)} numbers, expected three for each waypoint")
        return self


@base_controller("scripted", ScriptedParameters)
class Scripted(Hold):
    """Goes through waypoints, one after the other, and stays at the last."""

    def __init__(self, parameters: ScriptedParameters, arm: Arm, settings: ControllerSettings) -> None:
        super().__init__(NoParameters(), arm, settings)
        self._parameters = parameters
        self._waypoints = np.array(parameters.waypoints).reshape(-1, 3)
        self._next = 0

    def start(self, situation: Situation) -> None:
        super().start(situation)
        self._next = 0

    def velocity(self, situation: Situation) -> np.ndarray | float:
        error = self._waypoints[self._next] - situation.position
        if self._next + 1 < len(self._waypoints) and error @ error < self._parameters.tolerance**2:
            self._next += 1
            error = self._waypoints[self._next] - situation.position
        return limited(self._parameters.rate_hz * error, self._parameters.speed)


class MpcParameters(ServoParameters):
    """As `servo`, and `horizon_s`: how far it looks ahead. `acceleration`: m/s^2 on each axis."""

    horizon_s: float = Field(default=0.5, gt=0.05, le=3)
    acceleration: float = Field(default=1.0, gt=0, le=10)
    effort_weight: float = Field(default=0.002, gt=0, le=10)  # cost of (m/s^2)^2 against m^2


MPC_STEPS = 10  # of horizon_s; ten variables a axis keep the programme at a few microseconds


@base_controller("mpc", MpcParameters)
class Mpc(Servo):
    """Linear model predictive control of the tool point to the servo's target, as a double integrator on each axis.

    Minimises distance over the horizon under speed and acceleration bounds: unlike the servo it brakes in time with
    a bounded deceleration. Condensed to one programme of `MPC_STEPS` accelerations for each axis, solved by DAQP.
    """

    def __init__(self, parameters: MpcParameters, arm: Arm, settings: ControllerSettings) -> None:
        super().__init__(parameters, arm, settings)
        step = parameters.horizon_s / MPC_STEPS
        ones = np.tril(np.ones((MPC_STEPS, MPC_STEPS)))
        self._to_velocity = step * ones  # velocities after each step, from accelerations
        self._to_position = step * (ones @ self._to_velocity) - 0.5 * step * self._to_velocity
        self._times = step * np.arange(1, MPC_STEPS + 1)
        self._hessian = self._to_position.T @ self._to_position + parameters.effort_weight * np.eye(MPC_STEPS)
        self._bound = np.full(MPC_STEPS, parameters.acceleration)
        self._free = np.zeros(2 * MPC_STEPS, dtype=np.intc)
        self._planned = np.zeros(3)

    def start(self, situation: Situation) -> None:
        super().start(situation)
        self._planned = np.zeros(3)

    def velocity(self, situation: Situation) -> np.ndarray | float:
        target = self.target(situation)
        if target is None:
            self._planned = np.zeros(3)
            return 0.0
        parameters: MpcParameters = self._parameters  # type: ignore[assignment]
        speed = parameters.speed / 3**0.5  # on each axis, so that the whole stays below `speed`
        accelerations = np.zeros(3)
        for axis in range(3):
            now = min(max(float(self._planned[axis]), -speed), speed)
            gap = (float(situation.position[axis]) - float(target[axis])) + now * self._times
            solution, _, flag, _ = daqp.solve(
                self._hessian,
                self._to_position.T @ gap,
                self._to_velocity,
                np.concatenate((self._bound, np.full(MPC_STEPS, speed - now))),
                np.concatenate((-self._bound, np.full(MPC_STEPS, -speed - now))),
                self._free,
            )
            accelerations[axis] = solution[0] if flag == 1 else -now / self._times[0]
        self._planned = limited(self._planned + accelerations * situation.dt, parameters.speed)
        return self._planned
