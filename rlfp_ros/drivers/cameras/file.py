"""`file`: a video file or a folder of images instead of a camera, in real time."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import cv2
import numpy as np
from pydantic import Field

from rlfp_ros.drivers.camera import CAMERAS, CapturedImage, OpenedCamera, SourceEnded
from rlfp_ros.schema import ConfigurationError, Schema

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
FOLDER_RATE_HZ = 30.0  # of a folder of images without rate_hz
PAUSE_NS = 10**9  # a longer delay is a pause, such as a suspended machine, and not a slow one


class FileCameraSettings(Schema):
    """Settings of the camera `file`."""

    rate_hz: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="images per second (Hz); not given: the video's own times, 30 for a folder",
    )
    loop: bool = Field(default=False, description="whether it begins again after the last image; false: it ends")


@dataclass(frozen=True, eq=False)
class _Due:
    """The next image, decoded before it is due, or the reason why there is none."""

    due_ns: int  # on CLOCK_MONOTONIC
    image: np.ndarray | None
    fault: str = ""


class _Recording(Protocol):
    """Images with their times since the first."""

    period_ns: int

    def advance(self) -> int | None:
        """Go to the next image and return its time in ns, or None after the last one."""

    def decode(self) -> np.ndarray:
        """Return the present image, rgb uint8 [H, W, 3]. Raises ConfigurationError if it cannot be read."""

    def rewind(self) -> None:
        """Go back before the first image."""

    def close(self) -> None:
        """Close its file."""


@CAMERAS.register("file")
class FileCamera:
    """Plays a video file or a folder of images in the order of their names.

    Each image is stamped with the time at which it is due. Images that are more than one period late are left out, as a
    camera on a machine that is too slow loses images.
    """

    Settings: ClassVar[type[Schema]] = FileCameraSettings
    recorded: ClassVar[bool] = True

    def __init__(self, source: str, settings: FileCameraSettings) -> None:
        self._source, self._settings = source, settings
        self._recording: _Recording | None = None
        self._next: _Due | None = None
        self._began_ns: int | None = None  # time.monotonic_ns() at which the first image of this round was due
        self._last_ns = 0  # time of the present image since the first
        self._size: tuple[int, ...] = ()

    def open(self) -> OpenedCamera:
        if not self._source:
            raise ConfigurationError(
                "camera file: no source; give a video file or a folder of images (camera_source:=)"
            )
        path = Path(self._source).expanduser()
        rate = self._settings.rate_hz
        self._recording = recording = _Folder(path, rate or FOLDER_RATE_HZ) if path.is_dir() else _Video(path, rate)
        self._next, self._began_ns = None, None
        if recording.advance() is None:
            raise ConfigurationError(f"{path}: has no image; choose another")
        self._size = recording.decode().shape
        recording.rewind()
        return OpenedCamera(width=self._size[1], height=self._size[0])

    def read(self, timeout_s: float) -> CapturedImage | None:
        if self._next is None:
            self._next = self._decode_next()
        wait_s = (self._next.due_ns - time.monotonic_ns()) * 1e-9
        time.sleep(min(max(wait_s, 0.0), timeout_s))
        if wait_s > timeout_s:
            return None
        due, self._next = self._next, None
        if due.image is None:
            raise ConfigurationError(due.fault)
        return CapturedImage(due.image, due.due_ns)

    def close(self) -> None:
        if self._recording is not None:
            self._recording.close()
            self._recording = None

    def _decode_next(self) -> _Due:
        recording = self._recording
        assert recording is not None, "open() comes first"
        if self._began_ns is None:
            self._began_ns = time.monotonic_ns()
        while True:
            offset = recording.advance()
            if offset is None and self._settings.loop:
                self._began_ns += self._last_ns + recording.period_ns
                recording.rewind()
                offset = recording.advance()
            if offset is None:
                raise SourceEnded(f"{self._source} has ended")
            self._last_ns = offset
            late_ns = time.monotonic_ns() - self._began_ns - offset
            if late_ns > PAUSE_NS:
                self._began_ns += late_ns
                late_ns = 0
            if late_ns <= recording.period_ns:
                break
        due_ns = self._began_ns + offset
        try:
            image = recording.decode()
        except ConfigurationError as error:
            return _Due(due_ns, None, str(error))
        if image.shape != self._size:
            return _Due(
                due_ns,
                None,
                f"{self._source}: an image is {image.shape[1]}x{image.shape[0]} px, the first was "
                f"{self._size[1]}x{self._size[0]}; use images of one size",
            )
        return _Due(due_ns, image)


class _Folder:
    def __init__(self, path: Path, rate_hz: float) -> None:
        try:
            entries = [entry for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES]
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); choose another folder") from None
        if not entries:
            raise ConfigurationError(
                f"{path}: has no image; expected files named {', '.join(f'*{s}' for s in SUFFIXES)}"
            )
        self._paths = sorted(entries, key=lambda entry: _natural(entry.name))
        self._index = -1
        self._interval_ns = 1e9 / rate_hz
        self.period_ns = round(self._interval_ns)

    def advance(self) -> int | None:
        self._index += 1
        return round(self._index * self._interval_ns) if self._index < len(self._paths) else None

    def decode(self) -> np.ndarray:
        path = self._paths[self._index]
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise ConfigurationError(f"{path}: is not an image that OpenCV reads; remove it")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))

    def rewind(self) -> None:
        self._index = -1

    def close(self) -> None:
        pass


class _Video:
    def __init__(self, path: Path, rate_hz: float | None) -> None:
        if not path.is_file():
            raise ConfigurationError(f"{path}: no such file or folder; give a video file or a folder of images")
        self._path, self._rate_hz = path, rate_hz
        self._capture = self._opened()
        own_rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        if rate_hz is None and not 0 < own_rate <= 1000:
            raise ConfigurationError(f"{path}: does not say its rate; give it (camera_settings:='{{rate_hz: 30}}')")
        self._interval_ns = 1e9 / (rate_hz or own_rate)
        self.period_ns = round(self._interval_ns)
        self._index, self._offset_ns, self._first_ms = -1, 0, 0.0

    def _opened(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise ConfigurationError(
                f"{self._path}: is not a video that OpenCV reads; convert it, for example to H.264"
            )
        return capture

    def advance(self) -> int | None:
        if not self._capture.grab():
            return None
        self._index += 1
        stamp_ms = float(self._capture.get(cv2.CAP_PROP_POS_MSEC))
        if self._index == 0:
            self._offset_ns, self._first_ms = 0, stamp_ms
        elif self._rate_hz is not None:
            self._offset_ns = round(self._index * self._interval_ns)
        else:
            offset = round((stamp_ms - self._first_ms) * 1e6)
            # Some containers have no times.
            self._offset_ns = offset if offset > self._offset_ns else self._offset_ns + self.period_ns
        return self._offset_ns

    def decode(self) -> np.ndarray:
        decoded, image = self._capture.retrieve()
        if not decoded:
            raise ConfigurationError(f"{self._path}: image {self._index + 1} cannot be decoded; repair the file")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))

    def rewind(self) -> None:
        self._capture.release()
        self._capture = self._opened()
        self._index = -1

    def close(self) -> None:
        self._capture.release()


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key in which image_2 comes before image_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
