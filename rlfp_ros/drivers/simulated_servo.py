"""A simulated Feetech STS3215 servo: its memory and its motion, as the manual's memory table describes them.

Shares no code with the driver.

References
----------
Feetech, "Magnetic encoder STS servo: memory table".
"""

from __future__ import annotations

import math

TURN = 4096  # steps
READ_ONLY = (*range(5), *range(56, 86))  # versions, and what is measured
PERMANENT = 40  # registers below this address survive without power, if they are written while `lock` is 0
FASTEST = 3400  # steps/s without load, at 12 V
LAG_S = 0.015  # behind the ramp
STIFFNESS = 1 / 60  # share of the stall torque per step of error


class SimulatedServo:
    """The memory and the motion of one STS3215. Positions are steps of its encoder, before the homing offset."""

    def __init__(self, number: int) -> None:
        self.memory = bytearray(256)
        for address, value in {
            0: 3, 1: 10, 3: 9, 4: 3,  # versions; model 777
            5: number, 8: 1, 13: 70, 14: 140, 15: 40, 18: 12, 19: 44, 20: 47, 21: 32, 22: 32,
            26: 1, 27: 1, 30: 1, 34: 20, 35: 200, 36: 80, 55: 1, 62: 120, 63: 30,
        }.items():  # fmt: skip
            self.memory[address] = value
        self.put(11, TURN - 1)
        self.put(16, 1000)
        self.put(48, 1000)
        self.saved = bytes(self.memory[:PERMANENT])
        self.waiting: tuple[int, bytes] | None = None  # REG_WRITE until ACTION
        self.position, self.speed = TURN / 2, 0.0
        self.ramp, self.ramp_speed = self.position, 0.0
        self.load = 0.0  # share of the stall torque
        self.overloaded_s = 0.0
        self.blocked = False  # something keeps it from moving

    def word(self, address: int) -> int:
        """Return a register of two bytes."""
        return self.memory[address] | self.memory[address + 1] << 8

    def put(self, address: int, value: int) -> None:
        """Set a register of two bytes."""
        self.memory[address], self.memory[address + 1] = value & 0xFF, value >> 8

    @property
    def offset(self) -> int:
        """The homing offset."""
        word = self.word(31)
        return -(word & 0x7FF) if word & 0x800 else word & 0x7FF

    @property
    def goal(self) -> float:
        """The goal inside the position limits, as a position of the encoder."""
        word = self.word(42)
        goal = -(word & 0x7FFF) if word & 0x8000 else word
        low, high = self.word(9), self.word(11)
        return (min(max(goal, low), high) if low < high else goal) + self.offset

    @property
    def torque_is_on(self) -> bool:
        """Whether the motor holds its position."""
        return self.memory[40] == 1

    def write(self, address: int, data: bytes) -> None:
        """Write registers as an instruction does."""
        for place, value in enumerate(data, start=address):
            if place in READ_ONLY or place > 255:
                continue
            self.memory[place] = value
            if place < PERMANENT and self.memory[55] == 0:
                self.saved = self.saved[:place] + bytes([value]) + self.saved[place + 1 :]
        if address <= 40 < address + len(data):
            self._switched()

    def _switched(self) -> None:
        self.memory[65] &= ~0x20  # an overload is over
        self.overloaded_s = 0.0
        self.ramp, self.ramp_speed = self.position, 0.0
        if self.memory[40] == 128:  # the present position becomes the middle
            offset = round(self.position) - TURN // 2
            self.put(31, abs(offset) | (0x800 if offset < 0 else 0))
            self.memory[40] = 0

    def restart(self) -> None:
        """Lose the power and get it back."""
        self.memory[:PERMANENT] = self.saved
        self.memory[40:56] = bytes(16)
        self.memory[55] = 1
        self.put(48, self.word(16))
        self._switched()

    def advance_ramp(self, dt: float) -> None:
        """Move the ramp towards the goal with the registers' speed and acceleration."""
        if not self.torque_is_on:
            self.ramp, self.ramp_speed = self.position, 0.0
            return
        limit = min(self.word(46) & 0x7FFF or FASTEST, FASTEST)
        acceleration = self.memory[41] * 100 or math.inf
        way = self.goal - self.ramp
        # The speed from which it still comes to rest at the goal.
        wanted = math.copysign(min(limit, math.sqrt(2 * acceleration * abs(way)), abs(way) / dt), way)
        change = min(max(wanted - self.ramp_speed, -acceleration * dt), acceleration * dt)
        self.ramp_speed += change
        self.ramp += self.ramp_speed * dt

    def follow(self, dt: float) -> None:
        """Move behind the ramp, if nothing else moves the arm."""
        before = self.position
        limit = self.torque_limit
        if self.torque_is_on and not self.blocked:
            self.position += (self.ramp - self.position) * (1 - math.exp(-dt / LAG_S))
        self.load = min(max((self.ramp - self.position) * STIFFNESS, -limit), limit) if self.torque_is_on else 0.0
        self.speed = (self.position - before) / dt
        self.protect(dt)

    @property
    def torque_limit(self) -> float:
        """Share of the stall torque that it may give now."""
        protecting = self.memory[65] & 0x20
        return min(self.word(48) / 1000, self.memory[34] / 100 if protecting else 1.0)

    def protect(self, dt: float) -> None:
        """Report an overload after its time, and heat."""
        self.overloaded_s = self.overloaded_s + dt if abs(self.load) >= self.memory[36] / 100 else 0.0
        if self.overloaded_s >= self.memory[35] * 0.01:
            self.memory[65] |= 0x20
        hot = self.memory[63] >= self.memory[13]
        self.memory[65] = self.memory[65] | 0x04 if hot else self.memory[65] & ~0x04

    def measure(self) -> None:
        """Put position, speed, load and whether it moves into their registers."""
        for address, value, sign in (
            (56, round(self.position) - self.offset, 0x8000),
            (58, round(self.speed), 0x8000),
            (60, round(1000 * self.load), 0x400),
        ):
            self.put(address, min(abs(value), sign - 1) | (sign if value < 0 else 0))
        self.memory[66] = int(abs(self.speed) > 1)
