"""A simulated SO-101 on a pseudo-terminal: six STS3215 servos that answer as the protocol's manual says.

    python -m rlfp_ros.drivers.simulated_feetech_bus --link runs/so101

Programs open `runs/so101` as they would open a serial port. The servos hold the calibration of `sim/servos/so101.json`,
or that of another file which `lerobot-calibrate` wrote. Written from the manuals alone: it shares no code with the
driver, whose tests use it, and it needs neither pyserial nor Feetech's SDK.

The servos move by a simple model: a ramp to the goal with the speed and acceleration of their registers, and a lag
behind that ramp. `arm_twin` moves them with MuJoCo instead (parameter `servo_bus`).

References
----------
Feetech, "Magnetic encoder STS servo: memory table" and "FT-SCS custom communication protocol".
"""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import random
import select
import signal
import sys
import threading
import time
import tty
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlfp_ros.drivers.simulated_servo import PERMANENT, TURN, SimulatedServo
from rlfp_ros.paths import share_directory

RADIAN = TURN / (2 * math.pi)  # steps
BROADCAST = 0xFE
PING, READ, WRITE, REG_WRITE, ACTION, SYNC_READ, SYNC_WRITE = 1, 2, 3, 4, 5, 0x82, 0x83
HOME = {  # rad, where the arm is at first
    "shoulder_pan": 0.0,
    "shoulder_lift": -0.16,
    "elbow_flex": 0.30,
    "wrist_flex": 1.4308,
    "wrist_roll": 0.0487,
    "gripper": 0.3,
}
JAW, CLOSED = "gripper", -0.1686  # rad, at LeRobot's 0 %


@dataclass(frozen=True)
class Wiring:
    """One joint of the simulated arm, as calibrated. Positions are steps after the homing offset."""

    name: str
    id: int
    homing_offset: int
    range_min: int
    range_max: int
    zero: float  # steps at 0 rad
    steps_per_radian: float


def read_wiring(calibration: Path) -> tuple[Wiring, ...]:
    """Return the joints of an SO-101 with this calibration, a file as LeRobot writes it.

    Raises OSError if it cannot be read, KeyError if a joint or a field is missing, and ValueError if it is not JSON.
    """
    document = json.loads(calibration.read_text(encoding="utf-8"))
    joints = []
    for name in HOME:
        entry = document[name]
        low, high, sign = entry["range_min"], entry["range_max"], -1 if entry["drive_mode"] else 1
        zero = (low + high) / 2 if name != JAW else (low if sign > 0 else high) - sign * RADIAN * CLOSED
        joints.append(Wiring(name, entry["id"], entry["homing_offset"], low, high, zero, sign * RADIAN))
    return tuple(joints)


class SimulatedFeetechBus:
    """The servos of an SO-101 behind a pseudo-terminal.

    Parameters
    ----------
    link
        A symbolic link to make to the terminal, whose own name changes whenever it is plugged in.
    calibration
        File with the arm's calibration, as LeRobot writes it.
    moves_itself
        Whether its own model moves the servos, in real time; otherwise call `setpoints` and `place`.

    Attributes
    ----------
    corruption
        Fault: share of the answers that have a wrong byte.
    silent
        Fault: numbers of the servos that do not answer and do not obey.
    """

    def __init__(self, link: Path, calibration: Path, moves_itself: bool = True) -> None:
        self.link = link
        self.wiring = read_wiring(calibration)
        self.servos = {joint.id: SimulatedServo(joint.id) for joint in self.wiring}
        for joint in self.wiring:
            servo, offset = self.servos[joint.id], joint.homing_offset
            servo.put(31, abs(offset) | (0x800 if offset < 0 else 0))
            servo.put(9, joint.range_min)
            servo.put(11, joint.range_max)
            servo.saved = bytes(servo.memory[:PERMANENT])
            servo.position = servo.ramp = joint.zero + joint.steps_per_radian * HOME[joint.name] + offset
        self.corruption = 0.0
        self.silent: set[int] = set()
        self._random = random.Random(0)
        self._moves_itself = moves_itself
        self._lock = threading.RLock()
        self._terminal: tuple[int, int] | None = None
        self._received = b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="servo bus", daemon=True)

    # --- cable and power ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Plug it in and begin to answer. Raises OSError if the port cannot be made."""
        self.plug_in()
        self._thread.start()

    def close(self) -> None:
        """Unplug it and end its thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.unplug()

    def plug_in(self) -> None:
        """Make a terminal, and the link to it. Raises OSError, for example if there is something else in its place."""
        if self.link.exists() and not os.path.realpath(self.link).startswith("/dev/pts/"):
            raise FileExistsError(errno.EEXIST, "it exists and is no simulated port", str(self.link))  # a real port
        with self._lock:
            host, device = os.openpty()
            tty.setraw(device)
            os.set_blocking(host, False)  # answers that are not read are lost
            self._received = b""
            self._terminal = host, device
            self.link.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.link.with_name(f"{self.link.name}.{os.getpid()}")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(os.ttyname(device))
            fresh.replace(self.link)

    def unplug(self) -> None:
        """Pull the cable of the adapter: the terminal is gone. The servos keep their power."""
        with self._lock:
            if self._terminal is not None:
                for descriptor in self._terminal:
                    os.close(descriptor)
                self._terminal = None
                self.link.unlink(missing_ok=True)

    @property
    def is_plugged_in(self) -> bool:
        """Whether there is a terminal."""
        return self._terminal is not None

    # --- motion ------------------------------------------------------------------------------------------------------

    def angles(self) -> list[float]:
        """Return the true angles of all joints in rad, in the order of `wiring`."""
        with self._lock:
            return [self._angle(joint, self.servos[joint.id].position) for joint in self.wiring]

    def setpoints(self, dt: float) -> list[float | None]:
        """Advance all ramps by `dt` s; return the angle in rad that each joint is to have, None without torque."""
        with self._lock:
            found: list[float | None] = []
            for joint in self.wiring:
                servo = self.servos[joint.id]
                servo.advance_ramp(dt)
                found.append(self._angle(joint, servo.ramp) if servo.torque_is_on else None)
            return found

    def place(self, angles: Iterable[float], speeds: Iterable[float], loads: Iterable[float], dt: float) -> None:
        """Set what the servos measure `dt` s after the last call: rad, rad/s, and shares of the stall torque."""
        with self._lock:
            for joint, angle, speed, load in zip(self.wiring, angles, speeds, loads, strict=True):
                servo = self.servos[joint.id]
                scale = joint.steps_per_radian
                servo.position = joint.zero + scale * angle + joint.homing_offset
                servo.speed, servo.load = scale * speed, math.copysign(min(abs(load), 1.0), scale * load)
                servo.protect(dt)

    def advance(self, dt: float) -> None:
        """Move the servos by their own model."""
        with self._lock:
            for servo in self.servos.values():
                servo.advance_ramp(dt)
                servo.follow(dt)

    @staticmethod
    def _angle(joint: Wiring, position: float) -> float:
        return (position - joint.homing_offset - joint.zero) / joint.steps_per_radian

    # --- packets -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        moved = time.monotonic()
        while not self._stop.is_set():
            terminal = self._terminal
            if terminal is None:
                time.sleep(0.005)
            else:
                try:
                    if select.select([terminal[0]], [], [], 0.005)[0]:
                        self._take(os.read(terminal[0], 4096), terminal[0])
                except (OSError, ValueError):  # it has just been unplugged
                    continue
            now = time.monotonic()
            if self._moves_itself and now - moved >= 0.004:
                self.advance(min(now - moved, 0.05))
                moved = now

    def _take(self, data: bytes, host: int) -> None:
        with self._lock:
            self._received = (self._received + data)[-1024:]
            while True:
                start = self._received.find(b"\xff\xff")
                packet = self._received[start:] if start >= 0 else b""
                if len(packet) < 4 or len(packet) < 4 + packet[3]:
                    return
                size = 4 + packet[3]
                if packet[3] < 2 or checksum(packet[2 : size - 1]) != packet[size - 1]:
                    self._received = packet[1:]
                    continue
                self._received = packet[size:]
                answer = b"".join(self._obey(packet[2], packet[4], packet[5 : size - 1]))
                if answer:
                    os.write(host, answer)

    def _obey(self, number: int, instruction: int, parameters: bytes) -> list[bytes]:
        """Carry out an instruction and return the answers in the order in which they are sent."""
        everyone = [servo for key, servo in self.servos.items() if key not in self.silent]
        addressed = everyone if number == BROADCAST else self._present([number])
        if instruction == PING:
            return [self._answer(servo) for servo in addressed]
        if instruction == READ and number != BROADCAST and len(parameters) == 2:
            return [self._read(servo, *parameters) for servo in addressed]
        if instruction == SYNC_READ and len(parameters) > 2:
            return [self._read(servo, parameters[0], parameters[1]) for servo in self._present(parameters[2:])]
        if instruction == SYNC_WRITE and len(parameters) > 2:
            address, size, rest = parameters[0], parameters[1] + 1, parameters[2:]
            for place in range(0, len(rest) - size + 1, size):
                for servo in self._present([rest[place]]):
                    servo.write(address, rest[place + 1 : place + size])
            return []
        for servo in addressed:
            if instruction == WRITE and parameters:
                servo.write(parameters[0], parameters[1:])
            elif instruction == REG_WRITE and parameters:
                servo.waiting = parameters[0], parameters[1:]
            elif instruction == ACTION and servo.waiting is not None:
                servo.write(*servo.waiting)
                servo.waiting = None
        silent = number == BROADCAST or instruction not in (WRITE, REG_WRITE, ACTION)
        return [] if silent else [self._answer(servo) for servo in addressed if servo.memory[8]]

    def _present(self, numbers: Sequence[int]) -> list[SimulatedServo]:
        return [self.servos[number] for number in numbers if number in self.servos and number not in self.silent]

    def _read(self, servo: SimulatedServo, address: int, length: int) -> bytes:
        servo.measure()
        return self._answer(servo, bytes(servo.memory[address : address + length]))

    def _answer(self, servo: SimulatedServo, data: bytes = b"") -> bytes:
        body = bytes([servo.memory[5], len(data) + 2, servo.memory[65]]) + data
        packet = bytearray(b"\xff\xff" + body + bytes([checksum(body)]))
        if self._random.random() < self.corruption:
            packet[self._random.randrange(len(packet))] ^= 1 << self._random.randrange(8)
        return bytes(packet)


def default_calibration() -> Path:
    """Return the calibration file that ships."""
    return share_directory() / "sim" / "servos" / "so101.json"


def checksum(body: bytes) -> int:
    """Return the last byte of a packet; `body` is what is between the header and that byte."""
    return ~sum(body) & 0xFF


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulated arm until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m rlfp_ros.drivers.simulated_feetech_bus", description="A simulated SO-101 on a pseudo-terminal."
    )
    parser.add_argument("--link", type=Path, required=True, help="the port to make, for example runs/so101")
    parser.add_argument(
        "--calibration", type=Path, default=default_calibration(), help="JSON file of lerobot-calibrate (%(default)s)"
    )
    given = parser.parse_args(arguments)
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        bus = SimulatedFeetechBus(given.link, given.calibration)
    except (OSError, ValueError, LookupError, TypeError) as error:
        print(f"{parser.prog}: {given.calibration}: is not a calibration file ({error!r})", file=sys.stderr)
        return 2
    try:
        bus.start()
        print(f"a simulated SO-101 is on {given.link}, calibrated as {given.calibration}", flush=True)
        signal.sigwait(signals)
    except OSError as error:
        print(f"{parser.prog}: {given.link}: cannot be made ({error.strerror or error})", file=sys.stderr)
        return 2
    finally:
        bus.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
