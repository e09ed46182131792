"""Arms of Feetech STS servos on one serial bus, such as the SO-101 with its six STS3215.

References
----------
Feetech, "Magnetic encoder STS servo: memory table".
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from rlfp_ros.control.arm import Arm
from rlfp_ros.drivers.arm_driver import ARM_DRIVERS, ArmLost, JointReading, NoAnswer
from rlfp_ros.drivers.feetech_bus import FeetechBus
from rlfp_ros.drivers.servo_calibration import STEP_RAD, ServoCalibration, load_arm_calibration, narrower_ranges
from rlfp_ros.schema import ConfigurationError, Schema

# Addresses of registers. Two-byte values have the low byte first; negative ones have a sign bit.
SETUP, SETUP_LENGTH = 9, 25  # position limits (9, 11), phase (18), homing offset (31), mode (33)
MIN_LIMIT, MAX_LIMIT, PHASE, HOMING_OFFSET, MODE = 9, 11, 18, 31, 33
TORQUE_ENABLE, ACCELERATION, GOAL_POSITION, GOAL_SPEED, TORQUE_LIMIT, LOCK = 40, 41, 42, 46, 48, 55
# Read in each cycle: torque (40), torque limit (48), position (56), speed (58), load (60), temperature (63) and status
# (65).
STATE, STATE_LENGTH, STATE_FORMAT = 40, 26, "<B7xH6xHHHxBxB"
OFFSET_SIGN, LOAD_SIGN, SIGN = 1 << 11, 1 << 10, 1 << 15
FINE_SPEED = 1 << 2  # bit of the phase: speeds are in steps/s instead of 50 steps/s
COARSE = 50  # steps/s
FARTHEST_OUTSIDE = 25  # steps, 2 degrees, from which a joint may be pulled into its range
FASTEST_RAMP = 254  # of the acceleration register; the commands have their own, slower ramps
STATUS = {0: "its voltage", 1: "its encoder", 2: "overheating", 3: "too much current", 5: "an overload"}


class FeetechParameters(Schema):
    """Parameters of the driver `feetech`."""

    torque_limit: float = Field(0.8, ge=0.05, le=1, description="torque of the arm's servos, share of stall torque (1)")
    gripper_torque_limit: float = Field(
        0.5, ge=0.05, le=1, description="torque of the jaw's servo, share of its stall torque (1)"
    )
    answer_s: float = Field(
        0.02,
        gt=0,
        le=1,
        description="longest wait for the servos' answers; USB adapters keep bytes back for up to 16 ms (s)",
    )
    write_calibration: bool = Field(
        False, description="write the calibration file into servos that hold another one, instead of refusing them"
    )


@ARM_DRIVERS.register("feetech")
class FeetechDriver:
    """Feetech STS servos on a serial bus (SO-101), calibrated by LeRobot."""

    Parameters: ClassVar[type[Schema]] = FeetechParameters

    def __init__(self, parameters: FeetechParameters, arm: Arm, address: str, calibration: Path | None) -> None:
        if not address:
            raise ConfigurationError("driver feetech: address is empty, expected a serial port such as /dev/ttyACM0")
        if calibration is None:
            raise ConfigurationError(
                "driver feetech: calibration is empty, expected the JSON file that lerobot-calibrate wrote for this arm"
            )
        self._parameters = parameters
        self._arm, self._address, self._file = arm, address, calibration
        self._calibration = load_arm_calibration(calibration, arm)
        self._ids = self._calibration.ids
        joints, fingers = len(arm.joint_names), len(self._ids) - len(arm.joint_names)
        self._limits = [parameters.torque_limit] * joints + [parameters.gripper_torque_limit] * fingers
        self._stall = np.array([*arm.limits.effort, *[0.0] * fingers])  # N m
        self._fastest = [*arm.limits.velocity, *[max(arm.limits.velocity)] * fingers]  # rad/s
        self._torque_is_on = False
        self._speed_units = np.ones(len(self._ids))  # steps/s
        self._bus = FeetechBus(address, parameters.answer_s)

    # --- the interface of a driver -----------------------------------------------------------------------------------

    def connect(self) -> None:
        """Find all servos, compare their memory with the calibration, and set their limits of torque and speed."""
        self._torque_is_on = False
        self._bus.open()
        try:
            found = self._find()
            if self._parameters.write_calibration:
                self._write_calibration(found)
                found = self._find()
            for place, memory in enumerate(found):
                self._check(place, memory)
            for place, memory in enumerate(found):
                self._set_limits(place, memory)
        except NoAnswer as error:
            self._bus.close()
            raise ArmLost(str(error)) from None
        except BaseException:
            self._bus.close()
            raise

    def read(self) -> JointReading:
        """Measure all joints with one request."""
        answers = self._bus.read_all(self._ids, STATE, STATE_LENGTH)
        silent = [place for place, servo in enumerate(self._ids) if servo not in answers]
        if silent:
            raise NoAnswer(
                f"{self._named(silent)} on {self._address} does not answer; check the cables between the servos and "
                "the power supply"
            )
        words = [struct.unpack(STATE_FORMAT, answers[servo]) for servo in self._ids]
        signed = [(_signed(word[2], SIGN), _signed(word[3], SIGN), _signed(word[4], LOAD_SIGN)) for word in words]
        steps, speeds, loads = np.array(signed, dtype=float).T
        directions = self._calibration.directions
        loads = directions * loads / 1000.0
        faults = []
        for place, word in enumerate(words):
            reported = [text for bit, text in STATUS.items() if word[6] >> bit & 1]
            if reported:
                faults.append(f"{self._named([place])} reports {' and '.join(reported)}")
            elif self._torque_is_on and (word[0] != 1 or word[1] != self._limit(place)):
                raise ArmLost(
                    f"{self._named([place])} has lost its settings, as it does without power; check the power supply "
                    "and its cable"
                )
        return JointReading(
            positions=self._calibration.angles(steps),
            velocities=directions * speeds * self._speed_units * STEP_RAD,
            efforts=loads * self._stall,
            loads=loads,
            temperatures=np.array([float(word[5]) for word in words]),
            faults=tuple(faults),
        )

    def write(self, positions: np.ndarray) -> None:
        """Set all goals with one packet."""
        steps = self._calibration.steps(positions)
        goals = {servo: _word(int(goal)) for servo, goal in zip(self._ids, steps, strict=True)}
        self._bus.write_all(GOAL_POSITION, goals)

    def set_torque(self, on: bool) -> None:
        """Switch all servos on or off; before that, set their goals to where they are."""
        self._torque_is_on = False
        if on:
            self._hold()
        for servo in self._ids:
            self._bus.write(servo, TORQUE_ENABLE, bytes([on]))
        self._torque_is_on = on

    def close(self) -> None:
        """Close the port. The servos keep their goals."""
        self._bus.close()

    def remarks(self) -> list[str]:
        """Return joints whose calibrated ranges are too narrow."""
        return [f"{self._file}: {sentence}" for sentence in narrower_ranges(self._calibration, self._arm)]

    def counts(self) -> dict[str, object]:
        """Return what the node adds to its diagnostics."""
        return {"bad_answers": self._bus.bad_answers}

    def _hold(self) -> None:
        """Set the goals to the present positions. Raises ArmLost if a joint would have to jump into its range."""
        reading = self.read()
        here = self._calibration.angles(self._calibration.steps(reading.positions))
        outside = np.flatnonzero(np.abs(here - reading.positions) > FARTHEST_OUTSIDE * STEP_RAD)
        if len(outside):
            place = int(outside[0])
            servo = self._calibration.servos[place]
            beyond = abs(reading.positions[place] - here[place])
            raise ArmLost(
                f"{self._named([place])} is {beyond:.2f} rad outside its calibrated range of {servo.range_min} to "
                f"{servo.range_max} steps; move it inside by hand, or calibrate it again"
            )
        self.write(here)

    # --- connecting --------------------------------------------------------------------------------------------------

    def _named(self, places: list[int]) -> str:
        """Return "servo 3 (elbow_flex)" for joints by their places."""
        names = self._calibration.names
        words = ", ".join(f"{self._ids[place]} ({names[place]})" for place in places)
        return f"{'servo' if len(places) == 1 else 'servos'} {words}"

    def _find(self) -> list[bytes]:
        """Return the memory of all servos from `SETUP` on. Raises ArmLost that names those that do not answer."""
        answers = self._bus.find_all(self._ids, SETUP, SETUP_LENGTH)
        silent = [place for place, servo in enumerate(self._ids) if servo not in answers]
        if silent:
            everyone = len(silent) == len(self._ids)
            what = "no servo" if everyone else self._named(silent)
            raise ArmLost(
                f"{what} {'answers' if everyone else 'does not answer'} on {self._address}; check the power supply, "
                "the cables, and that address is the arm's port"
            )
        return [answers[servo] for servo in self._ids]

    def _differences(self, servo: ServoCalibration, memory: bytes) -> list[str]:
        offset = _signed(_register(memory, HOMING_OFFSET), OFFSET_SIGN)
        pairs = (
            ("homing_offset", offset, servo.homing_offset),
            ("range_min", _register(memory, MIN_LIMIT), servo.range_min),
            ("range_max", _register(memory, MAX_LIMIT), servo.range_max),
        )
        return [f"{name} {held} instead of {wanted}" for name, held, wanted in pairs if held != wanted]

    def _check(self, place: int, memory: bytes) -> None:
        differing = self._differences(self._calibration.servos[place], memory)
        if differing:
            raise ConfigurationError(
                f"{self._file}: {self._named([place])} holds {' and '.join(differing)}; give the calibration file of "
                "this arm, or driver_parameters:='{write_calibration: true}' to write this one into the servos"
            )
        if memory[MODE - SETUP] != 0:
            raise ConfigurationError(
                f"{self._named([place])} on {self._address} is in mode {memory[MODE - SETUP]}, expected 0 (position); "
                "run lerobot-calibrate, which sets it"
            )

    def _write_calibration(self, found: list[bytes]) -> None:
        """Write the file's values into the permanent memory of servos that hold others, with their torque off."""
        for servo, memory in zip(self._calibration.servos, found, strict=True):
            if not self._differences(servo, memory):
                continue
            offset = abs(servo.homing_offset) | (OFFSET_SIGN if servo.homing_offset < 0 else 0)
            self._bus.write(servo.id, TORQUE_ENABLE, bytes([0]))
            self._bus.write(servo.id, LOCK, bytes([0]))
            self._bus.write(servo.id, HOMING_OFFSET, _word(offset))
            self._bus.write(servo.id, MIN_LIMIT, _word(servo.range_min) + _word(servo.range_max))
            self._bus.write(servo.id, LOCK, bytes([1]))

    def _limit(self, place: int) -> int:
        """Return the torque limit as its register has it."""
        return round(1000 * self._limits[place])

    def _set_limits(self, place: int, memory: bytes) -> None:
        servo = self._ids[place]
        unit = 1 if memory[PHASE - SETUP] & FINE_SPEED else COARSE
        self._speed_units[place] = unit
        speed = max(1, round(self._fastest[place] / STEP_RAD / unit))
        self._bus.write(servo, TORQUE_LIMIT, _word(self._limit(place)))
        self._bus.write(servo, GOAL_SPEED, _word(min(speed, SIGN - 1)))
        self._bus.write(servo, ACCELERATION, bytes([FASTEST_RAMP]))


def _word(value: int) -> bytes:
    return struct.pack("<H", value)


def _register(memory: bytes, address: int) -> int:
    """Return a two-byte register of a memory that begins at `SETUP`."""
    return int(struct.unpack_from("<H", memory, address - SETUP)[0])


def _signed(word: int, sign: int) -> int:
    """Return a register's value; `sign` is the bit that makes it negative."""
    return -(word & (sign - 1)) if word & sign else word & (sign - 1)
