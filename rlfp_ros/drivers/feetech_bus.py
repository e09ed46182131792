"""A bus of Feetech servos on a serial port: reads and writes of registers, through Feetech's own SDK.

The SDK (PyPI: ftservo-python-sdk) makes and checks the packets. Its serial port is replaced by `SerialPort`, because
its own waits 50 ms for a lost servo, and keeps a processor core busy while it waits.

References
----------
Feetech, "Magnetic encoder STS servo: memory table" and "FT-SCS custom communication protocol".
"""

from __future__ import annotations

import errno
import os
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlfp_ros import requirements
from rlfp_ros.drivers.arm_driver import ArmLost, NoAnswer
from rlfp_ros.schema import ConfigurationError

BAUD_RATE = 1_000_000
BYTE_S = 10 / BAUD_RATE  # 8 data bits, a start and a stop bit
SLICE_S = 0.002  # one wait of the serial port
WRITE_S = 0.1  # longest wait for the adapter to take a packet
PATIENCE_S = 0.1  # longest wait for an answer outside the cycles, besides its transmission
ATTEMPTS = 3  # outside the cycles


def load_sdk() -> Any:
    """Import Feetech's SDK. Raises ConfigurationError if it is missing, or if another package has taken its name."""
    try:
        import scservo_sdk
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"the Feetech bus needs Feetech's SDK, which is not installed; {requirements.fix_for('ftservo-python-sdk')}"
        ) from None
    if not hasattr(scservo_sdk, "sms_sts"):
        raise ConfigurationError(
            f"{scservo_sdk.__file__}: is the older feetech-servo-sdk, which LeRobot installs under the same name; "
            "install this package in an environment of its own, as ./rlfp does"
        )
    return scservo_sdk


class SerialPort:
    """A serial port with bounded waits, with the methods that the SDK's packet handler calls."""

    def __init__(self, path: str) -> None:
        """Open the port for this process alone. Raises OSError."""
        import serial

        self.is_using = False  # the SDK's lock
        self.answer_s = PATIENCE_S  # longest wait for an answer besides its transmission
        self._deadline = 0.0
        self._serial = serial.Serial(path, BAUD_RATE, timeout=SLICE_S, write_timeout=WRITE_S, exclusive=True)
        self._serial.reset_input_buffer()

    def close(self) -> None:
        """Close the port."""
        self._serial.close()

    # Feetech's names.

    def clearPort(self) -> None:
        """Forget what came before a request: late answers to an earlier one."""
        self._serial.reset_input_buffer()

    def writePort(self, packet: Sequence[int]) -> int:
        """Send a packet and return how many bytes were sent."""
        return int(self._serial.write(bytes(packet)) or 0)

    def readPort(self, length: int) -> bytes:
        """Return up to `length` bytes, or none if there are none for a short time or the time is over."""
        return b"" if self.isPacketTimeout() else bytes(self._serial.read(length))

    def setPacketTimeout(self, length: int) -> None:
        """Begin to wait for an answer of `length` bytes."""
        self._deadline = time.monotonic() + length * BYTE_S + self.answer_s

    def isPacketTimeout(self) -> bool:
        """Return whether the time for an answer is over."""
        return time.monotonic() > self._deadline


class FeetechBus:
    """Registers of the servos on one port. Any method but `close` raises ArmLost if the port is gone.

    Parameters
    ----------
    path
        Serial port, such as /dev/ttyACM0.
    answer_s
        Longest wait of `read_all` for answers, besides their transmission.
    """

    def __init__(self, path: str, answer_s: float = 0.02) -> None:
        self._path, self._answer_s = path, answer_s
        self._sdk = load_sdk()
        self._port: SerialPort | None = None
        self._packets: Any = None
        self._readers: dict[tuple[int, int, tuple[int, ...]], Any] = {}
        self.bad_answers = 0  # missing or incomplete ones, and those with a wrong checksum

    def open(self) -> None:
        """Open the port."""
        self.close()
        with self._lost():
            self._port = SerialPort(self._path)
        self._packets = self._sdk.sms_sts(self._port)
        self._readers = {}

    def close(self) -> None:
        """Close the port, if it is open."""
        port, self._port = self._port, None
        if port is not None:
            with suppress(OSError, termios.error):  # it is gone already
                port.close()

    def write(self, servo: int, address: int, data: bytes) -> None:
        """Write registers of one servo, and wait until it confirms. Raises NoAnswer after three attempts."""
        for _ in range(ATTEMPTS):
            with self._lost():
                result, _ = self._packets.writeTxRx(servo, address, len(data), list(data))
            if result == self._sdk.COMM_SUCCESS:
                return
            self.bad_answers += 1
        raise NoAnswer(f"servo {servo} on {self._path} does not confirm what is written to it")

    def find_all(self, servos: Sequence[int], address: int, length: int) -> dict[int, bytes]:
        """Read as `read_all` does, patiently, with further requests to those that do not answer."""
        found: dict[int, bytes] = {}
        for _ in range(ATTEMPTS):
            missing = [servo for servo in servos if servo not in found]
            if missing:
                found |= self.read_all(missing, address, length, PATIENCE_S)
        return found

    def read_all(
        self, servos: Sequence[int], address: int, length: int, answer_s: float | None = None
    ) -> dict[int, bytes]:
        """Read the same registers of several servos with one request. Those that do not answer are left out."""
        key = (address, length, tuple(servos))
        reader = self._readers.get(key)
        if reader is None:
            reader = self._readers[key] = self._sdk.GroupSyncRead(self._packets, address, length)
            for servo in servos:
                reader.addParam(servo)
        for servo in servos:
            reader.data_dict[servo] = None  # the SDK keeps old answers if nothing comes
        with self._lost(self._answer_s if answer_s is None else answer_s):
            reader.txRxPacket()
        # The first byte of an entry is the error byte of the packet.
        answers = {servo: bytes(data[1:]) for servo, data in reader.data_dict.items() if data}
        answers = {servo: data for servo, data in answers.items() if len(data) == length}
        self.bad_answers += len(servos) - len(answers)
        return answers

    def write_all(self, address: int, values: Mapping[int, bytes]) -> None:
        """Write the same registers of several servos with one packet, which no servo confirms."""
        writer = self._sdk.GroupSyncWrite(self._packets, address, len(next(iter(values.values()))))
        for servo, data in values.items():
            writer.addParam(servo, list(data))
        with self._lost():
            result = writer.txPacket()
        if result != self._sdk.COMM_SUCCESS:
            raise ArmLost(f"{self._path} does not take a whole packet; plug the adapter in again")

    @contextmanager
    def _lost(self, answer_s: float = PATIENCE_S) -> Iterator[None]:
        """Turn an error of the port into ArmLost; wait so long for answers."""
        if self._port is not None:
            self._port.answer_s = answer_s
        try:
            yield
        except (OSError, termios.error) as error:  # serial.SerialException is an OSError
            self.close()
            raise ArmLost(f"{self._path} {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return what is wrong with a port and what to do, as the end of a sentence that begins with its name."""
    number = error.args[0] if error.args and isinstance(error.args[0], int) else None
    if number == errno.ENOENT:
        there = sorted(str(path) for kind in ("ttyACM*", "ttyUSB*") for path in Path("/dev").glob(kind))
        return f"does not exist; plug the arm's adapter in, or give its port (there is: {', '.join(there) or 'none'})"
    if number == errno.EACCES:
        return "may not be opened by this user; run: sudo usermod -aG dialout $USER, and log in again"
    if number in (errno.EAGAIN, errno.EBUSY):
        return "is used by another program; end that"
    if number in (None, errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBADF):  # pyserial gives no number for some
        return "was unplugged; plug the arm's adapter in again"
    return f"cannot be used ({os.strerror(number)}); correct that"
