"""Asks a V4L2 device what it is, which formats and controls it offers, and sets controls.

OpenCV's V4L2 backend delivers the images, but it cannot list formats, ranges of controls, or names. These few calls are
the kernel's interface itself (linux/videodev2.h), which does not change.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlfp_ros.drivers.camera import CameraLost
from rlfp_ros.schema import ConfigurationError

DEVICES = Path("/dev")

# Identifiers of controls (linux/v4l2-controls.h).
AUTO_WHITE_BALANCE = 0x0098090C
GAIN = 0x00980913
WHITE_BALANCE_TEMPERATURE = 0x0098091A  # K
EXPOSURE_AUTO = 0x009A0901
EXPOSURE_ABSOLUTE = 0x009A0902  # units of 100 us
EXPOSURE_DYNAMIC_FRAMERATE = 0x009A0903
FOCUS_ABSOLUTE = 0x009A090A
FOCUS_AUTO = 0x009A090C
EXPOSURE_MANUAL = 1  # value of EXPOSURE_AUTO
EXPOSURE_AUTOMATIC = (3, 0)  # aperture priority, which UVC cameras have, and fully automatic

_VIDEO_CAPTURE = 1  # buffer type, and the capability with the same bit
_HAS_DEVICE_CAPABILITIES = 0x80000000
_NEXT_CONTROL = 0x80000000
_DISABLED, _READ_ONLY, _WRITE_ONLY = 0x0001, 0x0004, 0x0040
_INTEGER, _BOOLEAN, _MENU, _INTEGER_MENU = 1, 2, 3, 9
_DISCRETE = 1  # frame sizes and intervals that are listed one by one

_CAPABILITY = struct.Struct("16s32s32s3I12x")
_FORMAT_DESCRIPTION = struct.Struct("3I32sI16x")
_FRAME_SIZE = struct.Struct("3I6I8x")
_FRAME_INTERVAL = struct.Struct("5I6I8x")
_FORMAT = struct.Struct("I4x200x" if struct.calcsize("P") == 8 else "I200x")
_CONTROL = struct.Struct("Ii")
_QUERY_CONTROL = struct.Struct("2I32s4iI8x")
_QUERY_MENU = struct.Struct("2I32s4x")


def _request(direction: int, number: int, layout: struct.Struct) -> int:
    """Return the number of an ioctl of the kind 'V', as the macros _IOR (2) and _IOWR (3) compute it."""
    return direction << 30 | layout.size << 16 | ord("V") << 8 | number


_QUERYCAP = _request(2, 0, _CAPABILITY)
_ENUM_FMT = _request(3, 2, _FORMAT_DESCRIPTION)
_G_FMT = _request(3, 4, _FORMAT)
_S_FMT = _request(3, 5, _FORMAT)
_G_CTRL = _request(3, 27, _CONTROL)
_S_CTRL = _request(3, 28, _CONTROL)
_QUERYCTRL = _request(3, 36, _QUERY_CONTROL)
_QUERYMENU = _request(3, 37, _QUERY_MENU)
_ENUM_FRAMESIZES = _request(3, 74, _FRAME_SIZE)
_ENUM_FRAMEINTERVALS = _request(3, 75, _FRAME_INTERVAL)


@dataclass(frozen=True)
class VideoFormat:
    """A size of images that a device offers in one pixel format."""

    fourcc: str
    width: int  # px
    height: int  # px
    rates_hz: tuple[float, ...]  # empty if the device does not list them

    def __str__(self) -> str:
        rates = ", ".join(f"{rate:g}" for rate in self.rates_hz)
        return f"{self.fourcc} {self.width}x{self.height}" + (f" at {rates} Hz" if rates else "")


@dataclass(frozen=True)
class Control:
    """A control of a device with its range."""

    identifier: int
    name: str  # as v4l2-ctl writes it: "power_line_frequency"
    minimum: int
    maximum: int
    step: int
    choices: tuple[tuple[int, str], ...] = ()  # of a menu: value, text
    writable: bool = True

    def takes(self, value: int) -> bool:
        """Return whether a value is in the range, or is one of the menu."""
        if self.choices:
            return value in dict(self.choices)
        return self.minimum <= value <= self.maximum

    def offered(self, scale: float = 1.0) -> str:
        """Describe the values that it takes, each multiplied by `scale`."""
        if self.choices:
            return ", ".join(f"{value} ({text})" for value, text in self.choices)
        span = f"{self.minimum * scale:g} to {self.maximum * scale:g}"
        return span + (f" in steps of {self.step * scale:g}" if self.step > 1 else "")


class VideoDevice:
    """An open V4L2 device. Asking does not disturb a program that streams from it."""

    def __init__(self, path: Path) -> None:
        """Raises CameraLost if the device is gone or in use, ConfigurationError if it is none or may not be opened."""
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            kind = ConfigurationError if error.errno in (errno.EACCES, errno.EISDIR) else CameraLost
            raise kind(f"{path}: cannot be opened ({error.strerror}); {_opening_fix(error)}") from None
        try:
            _, card, _, _, all_capabilities, own = _CAPABILITY.unpack(self._call(_QUERYCAP, bytes(_CAPABILITY.size)))
        except OSError as error:
            self.close()
            raise ConfigurationError(f"{path}: is not a V4L2 device ({error.strerror}); choose another") from None
        self.name = _text(card)
        self.captures = bool(
            (own if all_capabilities & _HAS_DEVICE_CAPABILITIES else all_capabilities) & _VIDEO_CAPTURE
        )

    def __enter__(self) -> VideoDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it. Does nothing the second time."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def is_present(self) -> bool:
        """Return whether the device still answers; an unplugged one does not."""
        try:
            self._call(_QUERYCAP, bytes(_CAPABILITY.size))
        except OSError:
            return False
        return True

    def _call(self, request: int, argument: bytes) -> bytes:
        """Call an ioctl. Raises OSError if the driver refuses it."""
        return fcntl.ioctl(self._file, request, argument)

    # --- formats -----------------------------------------------------------------------------------------------------

    def refuses_format(self) -> bool:
        """Return whether the present format cannot be set, because another program streams. Reserves the stream."""
        try:
            current = self._call(_G_FMT, _FORMAT.pack(_VIDEO_CAPTURE))
            self._call(_S_FMT, current)
        except OSError as error:
            return error.errno == errno.EBUSY
        return False

    def formats(self) -> list[VideoFormat]:
        """Return the sizes that the device lists, by pixel format."""
        found = []
        for entry in self._listed(_ENUM_FMT, _FORMAT_DESCRIPTION, (_VIDEO_CAPTURE,)):
            fourcc = entry[4]
            name = fourcc.to_bytes(4, "little").decode("ascii", "replace")
            for _, _, kind, *sides in self._listed(_ENUM_FRAMESIZES, _FRAME_SIZE, (fourcc,)):
                # Not listed one by one: any size from the smallest to the largest, which stands at 1 and 4.
                width, height = sides[:2] if kind == _DISCRETE else (sides[1], sides[4])
                found.append(VideoFormat(name, width, height, self._rates(fourcc, width, height)))
        return found

    def _rates(self, fourcc: int, width: int, height: int) -> tuple[float, ...]:
        rates = []
        for entry in self._listed(_ENUM_FRAMEINTERVALS, _FRAME_INTERVAL, (fourcc, width, height)):
            numerator, denominator = entry[5:7]
            if numerator:
                rates.append(round(denominator / numerator, 2))
        return tuple(sorted(rates, reverse=True))

    def _listed(self, request: int, layout: struct.Struct, given: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Yield what an ioctl lists, by index; the kernel ends the list with EINVAL."""
        for index in range(1000):
            head = struct.pack(f"{1 + len(given)}I", index, *given)
            try:
                yield layout.unpack(self._call(request, head.ljust(layout.size, b"\0")))
            except OSError:
                return

    # --- controls ----------------------------------------------------------------------------------------------------

    def controls(self) -> dict[int, Control]:
        """Return the device's controls with numbers or menus, by identifier."""
        found: dict[int, Control] = {}
        identifier = 0
        while True:
            try:
                answer = self._call(
                    _QUERYCTRL, struct.pack("I", identifier | _NEXT_CONTROL).ljust(_QUERY_CONTROL.size, b"\0")
                )
            except OSError:
                return found
            identifier, kind, name, minimum, maximum, step, _, flags = _QUERY_CONTROL.unpack(answer)
            if kind not in (_INTEGER, _BOOLEAN, _MENU, _INTEGER_MENU) or flags & _DISABLED:
                continue
            choices = tuple(self._menu(identifier, minimum, maximum)) if kind == _MENU else ()
            writable = not flags & _READ_ONLY
            words = "".join(letter if letter.isalnum() else " " for letter in _text(name).lower()).split()
            found[identifier] = Control(identifier, "_".join(words), minimum, maximum, step, choices, writable)

    def _menu(self, identifier: int, minimum: int, maximum: int) -> Iterator[tuple[int, str]]:
        for index in range(minimum, maximum + 1):
            try:
                answer = self._call(_QUERYMENU, _QUERY_MENU.pack(identifier, index, b""))
            except OSError:  # menus may have gaps
                continue
            yield index, _text(_QUERY_MENU.unpack(answer)[2])

    def value(self, identifier: int) -> int:
        """Return a control's value. Raises OSError if the device refuses it."""
        return int(_CONTROL.unpack(self._call(_G_CTRL, _CONTROL.pack(identifier, 0)))[1])

    def set(self, identifier: int, value: int) -> None:
        """Set a control. Raises OSError if the device refuses it."""
        self._call(_S_CTRL, _CONTROL.pack(identifier, value))


def is_busy(path: Path) -> bool:
    """Return whether a program streams from a device.

    Asked by setting the format that it has already. uvcvideo then reserves the stream for who asked, until it closes
    the device: so this opens one of its own.
    """
    with VideoDevice(path) as device:
        return device.refuses_format()


def find_device(source: str, folder: Path = DEVICES) -> Path:
    """Find the device that a user means.

    Parameters
    ----------
    source
        A path (/dev/video0, /dev/v4l/by-id/...), a number (0), part of a name as the camera or its by-id link gives it,
        or empty for the only camera.
    folder
        Where devices are.

    Returns
    -------
    Path
        Of a device that captures video.

    Raises
    ------
    CameraLost
        If it is not there.
    ConfigurationError
        If several fit, or this user may not open the only one.
    """
    if "/" in source:
        path = Path(source).expanduser()
        if not path.exists():
            raise CameraLost(f"{path}: no such device; {_there_is(list_cameras(folder))}")
        return path
    if source.isdecimal():
        return find_device(str(folder / f"video{source}"), folder)
    cameras = list_cameras(folder)
    wanted = source.casefold()
    fitting = [
        camera for camera in cameras if not camera.fault and any(wanted in name.casefold() for name in camera.names)
    ]
    if len(fitting) == 1:
        return fitting[0].path
    if fitting:
        label = f"{len(fitting)} cameras fit {source!r}" if source else "there are several cameras"
        raise ConfigurationError(f"{label}; {_there_is(fitting)}")
    label = f"no camera is named {source!r}" if source else "there is no camera"
    kind = ConfigurationError if cameras and all(camera.fault for camera in cameras) else CameraLost
    raise kind(f"{label}; {_there_is(cameras)}")


@dataclass(frozen=True)
class ListedCamera:
    """A device in /dev/video* that captures video, or that cannot be opened."""

    path: Path
    names: tuple[str, ...]  # its own, and those of its by-id links
    formats: tuple[VideoFormat, ...] = ()
    fault: str = ""  # the reason why it cannot be opened, and what to do


def list_cameras(folder: Path = DEVICES) -> list[ListedCamera]:
    """Return the devices that capture video, and those that this user may not open."""
    links: dict[Path, list[str]] = {}
    for link in sorted((folder / "v4l" / "by-id").glob("*")):
        links.setdefault(link.resolve(), []).append(link.name)
    found = []
    for path in sorted(folder.glob("video*"), key=lambda path: (len(path.name), path.name)):
        others = tuple(links.get(path.resolve(), ()))
        try:
            with VideoDevice(path) as device:
                if device.captures:
                    found.append(ListedCamera(path, (device.name, *others), tuple(device.formats())))
        except (CameraLost, ConfigurationError) as error:
            found.append(ListedCamera(path, others, fault=str(error)))
    return found


def _there_is(cameras: list[ListedCamera]) -> str:
    usable = [camera for camera in cameras if not camera.fault]
    if usable:
        return "choose with camera_source:= from: " + ", ".join(
            f"{camera.path} ({camera.names[0]})" for camera in usable
        )
    if cameras:
        return cameras[0].fault
    return "no device in /dev/video* captures video; plug a camera in, and look at `ls -l /dev/video*`"


def _opening_fix(error: OSError) -> str:
    if error.errno == errno.EACCES:
        return "add your user to the group video (sudo usermod -aG video $USER) and log in again"
    if error.errno == errno.EBUSY:
        return "end the program that uses it"
    return "look at `ls -l /dev/video*`"


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace").strip()
