"""The simulated Feetech bus of the twin: registers of servos that move MuJoCo's arm and measure it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.trajectory_controller import TrajectoryController
from rlfp_ros.drivers.servo_calibration import load_arm_calibration
from rlfp_ros.drivers.simulated_feetech_bus import SimulatedFeetechBus
from rlfp_ros.schema import ConfigurationError


class TwinBus(TrajectoryController):
    """The setpoints of a world come from servos on a simulated bus instead of commanded trajectories.

    Parameters
    ----------
    path
        The port to make.
    calibration
        The calibration file of the arm that is simulated.
    arm
        The arm that the servos move.
    dt
        Duration of a tick, s.

    Raises
    ------
    ConfigurationError
        If the arm is not the one that the bus simulates, or if the file cannot be used.
    """

    def __init__(self, path: Path, calibration: Path, arm: Arm, dt: float) -> None:
        self._arm, self._dt = arm, dt
        load_arm_calibration(calibration, arm)  # its errors are sentences
        self._bus = SimulatedFeetechBus(path, calibration, moves_itself=False)
        names = (*arm.joint_names, *(arm.gripper.joint_names if arm.gripper else ()))
        simulated = tuple(joint.name for joint in self._bus.wiring)
        if names != simulated:
            raise ConfigurationError(
                f"arm_twin parameters: servo_bus simulates a bus with {', '.join(simulated)}, but {arm.origin} has "
                f"{', '.join(names)}; give arm:=so101 and a bundle for it"
            )
        self._measured = np.zeros(len(names))
        self._sampled_at = -1
        self._setpoint = np.zeros((3, len(arm.joint_names)))
        super().__init__(len(arm.joint_names))
        self.gripper_width: float | None = None

    def start(self) -> None:
        """Make the port. Raises ConfigurationError if that fails."""
        try:
            self._bus.start()
        except OSError as error:
            raise ConfigurationError(
                f"arm_twin parameters: servo_bus: the port cannot be made ({error.strerror}); choose another path"
            ) from None

    def close(self) -> None:
        """Remove the port."""
        self._bus.close()

    def set_unplugged(self, unplugged: bool) -> None:
        """Pull the cable of the adapter, or plug it in again."""
        if unplugged:
            self._bus.unplug()
        elif not self._bus.is_plugged_in:
            self._bus.plug_in()

    def measured(self, state: JointState) -> None:
        """Let the servos measure a joint state, one tick after the one before."""
        arm = self._arm
        fingers = arm.gripper.positions(state.gripper_width) if arm.gripper else np.zeros(0)
        self._measured = np.concatenate((state.positions, fingers))
        speeds = np.concatenate((state.velocities, 0.0 * fingers))
        loads = np.concatenate((state.efforts / np.array(arm.limits.effort), 0.0 * fingers))
        self._bus.place(self._measured, speeds, loads, self._dt)

    def reset(self, positions: np.ndarray) -> None:
        """Begin at `positions` [J] rad."""
        super().reset(positions)
        self._measured[: self.joint_count] = positions

    def sample(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the servos' setpoints (positions, velocities, accelerations), each [J], one tick later for each stamp.

        Velocities are 0, because an STS servo damps its speed and not its speed error: it lags behind a motion. A servo
        without torque gives the measured position: the simulated arm stays where it is.
        """
        if stamp_ns != self._sampled_at:
            self._sampled_at = stamp_ns
            setpoints = self._bus.setpoints(self._dt)
            for joint, setpoint in enumerate(setpoints[: self.joint_count]):
                self._setpoint[0, joint] = self._measured[joint] if setpoint is None else setpoint
            jaw = setpoints[self.joint_count :]
            if self._arm.gripper is not None and None not in jaw:
                self.gripper_width = self._arm.gripper.width(angle for angle in jaw if angle is not None)
        found = self._setpoint.copy()
        return found[0], found[1], found[2]
