"""An arm that a driver of this package moves: follows joint trajectories, measures, and reports faults.

It is to any `ArmDriver` what ros2_control is to its hardware. In each cycle it measures all joints and writes the
setpoint of the trajectory in force, which ends at rest; afterwards the arm holds its last position. In a fault it gives
no joint states and takes no new command: the trajectory in force still brings the arm to rest, and the safety
controller stops because joint states are missing. ROS-free; the node `arm_driver` passes messages to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from pydantic import Field

from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.gripper_motion import GripperMotion
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.control.trajectory_controller import TrajectoryController
from rlfp_ros.drivers.arm_driver import ArmDriver, ArmLost, JointReading, NoAnswer
from rlfp_ros.schema import Schema

RECONNECT_S = 1.0  # between attempts to connect
RECOVERED_S = 0.5  # without a fault, after which joint states come again


class DrivenArmSettings(Schema):
    """Rates and limits of a driven arm."""

    rate_hz: float = Field(
        default=100.0, ge=10, le=500, description="how often joints are measured and setpoints written (Hz)"
    )
    missed_readings: int = Field(
        default=5, ge=1, le=100, description="readings in a row without an answer of all joints that count as a fault"
    )
    warm_c: float = Field(
        default=55.0,
        ge=0,
        le=150,
        description="temperature of a motor that is reported, and below which a fault ends (C)",
    )
    hot_c: float = Field(default=65.0, ge=0, le=150, description="temperature of a motor that counts as a fault (C)")
    load_limit: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="share of a motor's stall torque that counts as an overload if it lasts (1)",
    )
    load_time_s: float = Field(
        default=1.5,
        gt=0,
        le=60,
        description="how long such a load is tolerated; an STS3215 by itself lets go after 2 s (s)",
    )


class DrivenArm:
    """Connects a driver, keeps it connected, and runs its cycles. Times are integer ns of the clock of the stamps.

    Attributes
    ----------
    fault
        Why there are no joint states now, in one sentence; empty if there are.
    reading
        The last complete measurement, or None.
    """

    def __init__(
        self,
        driver: ArmDriver,
        arm: Arm,
        settings: DrivenArmSettings,
        report: Callable[[str], None],
        torque: bool = True,
    ) -> None:
        """`report` is called with a sentence for each fault, and when it is over. `torque`: whether motors are on."""
        self._driver, self._arm, self._settings, self._report = driver, arm, settings, report
        self._controller = TrajectoryController(len(arm.joint_names))
        self._gripper = GripperMotion(arm.gripper, 1.0 / settings.rate_hz) if arm.gripper else None
        self._torque = torque
        self._torque_is_on: bool | None = None  # None: not known
        self._hot = False
        self._good_since_ns: int | None = None  # since when nothing is wrong
        self._connected = False
        self._retry_at_ns = 0
        self._missed = 0
        self._loaded_since: np.ndarray | None = None  # [J] ns; 0 for joints whose load is below the limit
        self._fingers = np.zeros(0)  # last commanded
        self.fault = "it is not connected yet"
        self.reading: JointReading | None = None
        self.missed_readings = 0
        self.connections = 0

    # --- commands ----------------------------------------------------------------------------------------------------

    def refusal(self) -> str:
        """Return why commands are refused now, or an empty string."""
        if not self._connected or self.fault:
            return f"the arm takes no commands: {self.fault}"
        return "" if self._torque_is_on else "the arm takes no commands: its torque is off (parameter torque)"

    def accept(self, trajectory: Trajectory, now_ns: int) -> str:
        """Follow a trajectory from now on; return why it is refused, or an empty string."""
        why = self.refusal()
        if not why and not self._controller.accept(trajectory, now_ns):
            why = "the trajectory has ended before it came, or has values that are not finite"
        return why

    def accept_width(self, width: float) -> str:
        """Move the gripper to a width in m, at its speed; return why this is refused, or an empty string."""
        why = self.refusal()
        if self._gripper is None or not math.isfinite(width):
            return why or "the arm has no gripper, or the width is not a number"
        if not why:
            self._gripper.ask(width)
        return why

    def set_torque(self, on: bool) -> None:
        """Switch the motors on or off, now or as soon as the arm is connected."""
        self._torque = on

    # --- cycles ------------------------------------------------------------------------------------------------------

    def cycle(self, now_ns: int) -> JointState | None:
        """Measure, write setpoints, and return the joint state, or None while there is a fault or no answer.

        Raises
        ------
        ConfigurationError
            If another arm than the configured one is connected.
        """
        try:
            if not self._connected and not self._connect(now_ns):
                return None
            if self._torque != self._torque_is_on:
                self._switch()
            reading = self._read()
            self._write(now_ns)
        except ArmLost as error:
            self._lose(str(error), now_ns)
            return None
        except NoAnswer as error:
            self._miss(str(error))
            return None
        if reading is None:
            return None
        self.reading, self._missed = reading, 0
        self._judge(reading, now_ns)
        return None if self.fault else self._joint_state(reading, now_ns)

    def close(self) -> None:
        """Disconnect. The motors hold their last positions, if they are on."""
        self._connected = False
        self._driver.close()

    def _connect(self, now_ns: int) -> bool:
        if now_ns < self._retry_at_ns:
            return False
        self._driver.connect()
        self._connected, self._torque_is_on = True, None
        self.connections += 1
        self._loaded_since = None
        reading = self._driver.read()
        self._begin(reading)
        return True

    def _begin(self, reading: JointReading) -> None:
        """Forget all commands: the arm stays where it is."""
        count = len(self._arm.joint_names)
        self._controller.reset(reading.positions[:count])
        self._fingers = reading.positions[count:]
        if self._gripper is not None and self._arm.gripper is not None:
            self._gripper.forget()
            self._gripper.start(self._arm.gripper.width(self._fingers))

    def _switch(self) -> None:
        if self._torque:
            self._begin(self._driver.read())
        self._driver.set_torque(self._torque)
        self._torque_is_on = self._torque

    def _read(self) -> JointReading | None:
        """Return a measurement, or None if some joints did not answer, which does not keep setpoints from them."""
        try:
            return self._driver.read()
        except NoAnswer as error:
            self._miss(str(error))
            return None

    def _write(self, now_ns: int) -> None:
        if not self._torque_is_on:
            return  # a goal would switch some servos on
        positions, _, _ = self._controller.sample(now_ns)
        width = self._gripper.tick() if self._gripper is not None else None
        if width is not None and self._arm.gripper is not None:
            self._fingers = self._arm.gripper.positions(width)
        self._driver.write(np.concatenate((positions, self._fingers)))

    # --- faults ------------------------------------------------------------------------------------------------------

    def _lose(self, why: str, now_ns: int) -> None:
        self._driver.close()
        self._connected, self._torque_is_on = False, None
        self._missed = 0
        self.reading = None
        self._retry_at_ns = now_ns + round(RECONNECT_S * 1e9)
        self._fail(f"{why}; it is tried again every {RECONNECT_S:g} s")

    def _miss(self, why: str) -> None:
        self._missed += 1
        self.missed_readings += 1
        if self._missed >= self._settings.missed_readings:
            self._fail(why)

    def _judge(self, reading: JointReading, now_ns: int) -> None:
        """Find faults in a complete measurement, or the end of a fault."""
        names = (*self._arm.joint_names, *(self._arm.gripper.joint_names if self._arm.gripper else ()))
        settings = self._settings
        hottest = int(np.argmax(np.nan_to_num(reading.temperatures, nan=-np.inf)))
        temperature = float(reading.temperatures[hottest])
        # Such a fault ends only when the motor has cooled down.
        self._hot = temperature >= (settings.warm_c if self._hot else settings.hot_c)
        if reading.faults:
            self._fail("; ".join(reading.faults) + "; relieve the arm, let it cool down, and switch torque off and on")
        elif self._hot:
            self._fail(
                f"the motor of {names[hottest]} reached {settings.hot_c:g} degrees Celsius; let it cool down to "
                f"{settings.warm_c:g}"
            )
        else:
            loaded = self._overloaded(reading.loads, now_ns)
            if loaded is not None:
                self._fail(
                    f"the motor of {names[loaded]} has borne more than {settings.load_limit:g} of its stall torque for "
                    f"{settings.load_time_s:g} s; remove what it pushes against or carries"
                )
            else:
                self._recover(now_ns)

    def _overloaded(self, loads: np.ndarray, now_ns: int) -> int | None:
        """Return the joint that has been overloaded for too long, or None."""
        high = np.abs(loads) > self._settings.load_limit  # False for NaN
        since = np.zeros(len(loads), np.int64) if self._loaded_since is None else self._loaded_since
        since = np.where(high, np.where(since == 0, now_ns, since), 0)
        self._loaded_since = since
        longest = np.where(high, now_ns - since, 0)
        joint = int(np.argmax(longest))
        return joint if high[joint] and longest[joint] >= self._settings.load_time_s * 1e9 else None

    def _fail(self, why: str) -> None:
        self._good_since_ns = None
        if why != self.fault:
            self.fault = why
            self._report(f"no joint states: {why}")

    def _recover(self, now_ns: int) -> None:
        if self._good_since_ns is None:
            self._good_since_ns = now_ns
        if self.fault and now_ns - self._good_since_ns >= RECOVERED_S * 1e9:
            self.fault = ""
            self._report("joint states come, and commands are taken")

    def _joint_state(self, reading: JointReading, now_ns: int) -> JointState:
        count = len(self._arm.joint_names)
        gripper = self._arm.gripper
        return JointState(
            stamp_ns=now_ns,
            positions=reading.positions[:count],
            velocities=reading.velocities[:count],
            efforts=reading.efforts[:count],
            gripper_width=gripper.width(reading.positions[count:]) if gripper else 0.0,
        )
