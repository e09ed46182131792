"""`uvc`: a webcam, or another V4L2 device, through OpenCV's V4L2 backend."""

from __future__ import annotations

import time
from typing import Annotated, ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field, model_validator

from rlfp_ros.drivers import v4l2
from rlfp_ros.drivers.camera import CAMERAS, CameraLost, CapturedImage, OpenedCamera
from rlfp_ros.drivers.v4l2 import Control, VideoDevice, find_device, is_busy
from rlfp_ros.perception import images
from rlfp_ros.schema import ConfigurationError, Schema

FOURCC = {"mjpeg": "MJPG", "yuyv": "YUYV"}
# Decoded here. OpenCV's V4L2 backend would return the pixels of the image before if a JPEG is cut.
DECODED_HERE = ("MJPG", "JPEG", "YUYV")
EXPOSURE_UNIT_S = 1e-4  # of V4L2_CID_EXPOSURE_ABSOLUTE
RATE_TOLERANCE_HZ = 0.5
FIRST_IMAGE_S = 5.0  # longest wait for the first image; slow cameras need a second
OLDEST_NS = 2 * 10**9  # a stamp that is older than this at delivery is of another clock
SPIN_S = 0.005  # pause if OpenCV did not wait, so that a fault that persists takes no processor time


class UvcCameraSettings(Schema):
    """Settings of the camera `uvc`."""

    width: int = Field(default=640, ge=16, le=8192, description="image width, px")
    height: int = Field(default=480, ge=16, le=8192, description="image height, px")
    rate_hz: float = Field(default=30.0, gt=0, le=1000, description="images per second, Hz")
    format: Literal["mjpeg", "yuyv"] = Field(
        default="mjpeg", description="pixel format; USB 2 has room for yuyv up to 640x480 only"
    )
    exposure_s: float | None = Field(default=None, gt=0, le=1, description="exposure time (s); not given: automatic")
    white_balance_k: int | None = Field(
        default=None, ge=1000, le=20_000, description="colour temperature (K); not given: automatic"
    )
    focus: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="focus in the camera's own units; not given: the lens stays where it is. Autofocus is always off, "
        "because a calibration holds for one focus",
    )
    gain: int | None = Field(
        default=None, ge=0, le=65_535, description="gain in the camera's units; not given: unchanged"
    )
    controls: dict[str, Annotated[int, Field(ge=-(2**31), lt=2**31)]] = Field(
        default={}, description="further controls by the names that `v4l2-ctl --list-ctrls` shows"
    )

    @model_validator(mode="after")
    def _fits_the_rate(self) -> UvcCameraSettings:
        if self.exposure_s is not None and self.exposure_s > 1 / self.rate_hz:
            raise ValueError(
                f"exposure_s is {self.exposure_s:g}, longer than the {1 / self.rate_hz:.3g} s between images at "
                f"{self.rate_hz:g} Hz; shorten it"
            )
        return self


@CAMERAS.register("uvc")
class UvcCamera:
    """A USB camera (UVC) or another V4L2 device, with fixed settings and the driver's stamps."""

    Settings: ClassVar[type[Schema]] = UvcCameraSettings
    recorded: ClassVar[bool] = False

    def __init__(self, source: str, settings: UvcCameraSettings) -> None:
        self._source, self._settings = source, settings
        self._device: VideoDevice | None = None  # beside OpenCV's own access, for controls and to see that it is there
        self._capture: cv2.VideoCapture | None = None
        self._fourcc = ""  # what the camera sends
        self._clock: Literal["monotonic", "realtime", "none"] = "monotonic"  # of the driver's stamps

    def open(self) -> OpenedCamera:
        _silence_warnings()
        try:
            self._device = device = VideoDevice(find_device(self._source))
            if not device.captures:
                raise ConfigurationError(
                    f"{device.path}: captures no video (UVC cameras have a second device for metadata); choose another"
                )
            if is_busy(device.path):
                raise CameraLost(f"{device.path}: another program uses {device.name}; end it")
            self._capture = capture = cv2.VideoCapture(str(device.path), cv2.CAP_V4L2)
            if not capture.isOpened():
                raise CameraLost(f"{device.path}: OpenCV cannot capture from {device.name}; try v4l2-ctl --all")
            remarks = [*self._set_format(device, capture), *self._set_controls(device), *self._judge_clock(device)]
            width, height = _size(capture)
            return OpenedCamera(width, height, tuple(remarks))
        except BaseException:
            self.close()
            raise

    def read(self, timeout_s: float) -> CapturedImage | None:
        stamp_ns = self._grab(timeout_s)
        if stamp_ns is None:
            return None
        captured_ns = self._on_monotonic_clock(stamp_ns)
        assert self._capture is not None
        try:
            retrieved, data = self._capture.retrieve()
        except cv2.error:
            retrieved = False
        if not retrieved:
            raise ConfigurationError(f"{self._label}: OpenCV cannot convert an image from {self._fourcc}")
        return CapturedImage(self._decoded(np.asarray(data)), captured_ns)

    def _decoded(self, data: np.ndarray) -> np.ndarray:
        """Decode what OpenCV gives to rgb uint8 [H, W, 3]. Raises ConfigurationError if the image is damaged."""
        if self._fourcc not in DECODED_HERE:
            return np.asarray(cv2.cvtColor(data, cv2.COLOR_BGR2RGB))
        try:
            if self._fourcc == "YUYV":
                height, width = data.shape[:2]
                return images.from_raw("yuyv", height, width, 2 * width, data.tobytes(), self._label)
            return images.from_compressed("jpeg", data.ravel(), self._label)
        except ConfigurationError as error:
            reason = str(error).removeprefix(f"topic {self._label}: ").partition(";")[0]
            raise ConfigurationError(f"{self._label}: sent a damaged image ({reason}); check cable and hub") from None

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()  # its device number is free only then
            self._capture = None
        if self._device is not None:
            self._device.close()
            self._device = None

    @property
    def _label(self) -> str:
        return f"{self._device.path} ({self._device.name})" if self._device else self._source

    # --- images ------------------------------------------------------------------------------------------------------

    def _grab(self, timeout_s: float) -> int | None:
        """Take the next image from the driver and return its stamp in ns of the driver's clock; None after a timeout.

        Raises CameraLost if the device is gone.
        """
        capture, device = self._capture, self._device
        assert capture is not None, "open() comes first"
        assert device is not None
        began = time.monotonic()
        try:
            # Without this, OpenCV would wait for ten seconds.
            came, _ = cv2.VideoCapture.waitAny([capture], max(1, round(timeout_s * 1e9)))
        except cv2.error:
            came = False
        if not came and time.monotonic() - began < timeout_s / 2:
            time.sleep(SPIN_S)
        if came and capture.grab():
            return round(float(capture.get(cv2.CAP_PROP_POS_MSEC)) * 1e6)
        if not device.is_present():
            raise CameraLost(f"{self._label} is unplugged")
        if came:
            raise CameraLost(f"{self._label} stopped the stream")
        return None

    def _judge_clock(self, device: VideoDevice) -> list[str]:
        """Wait for the first image and see which clock its stamp is of."""
        until = time.monotonic() + FIRST_IMAGE_S
        stamp_ns = None
        while stamp_ns is None:
            left = until - time.monotonic()
            if left <= 0:
                raise CameraLost(
                    f"{self._label}: no image in {FIRST_IMAGE_S:g} s; plug it into another port, without a hub"
                )
            stamp_ns = self._grab(left)
        if 0 <= time.monotonic_ns() - stamp_ns <= OLDEST_NS:
            self._clock = "monotonic"
        elif 0 <= time.time_ns() - stamp_ns <= OLDEST_NS:
            self._clock = "realtime"  # uvcvideo's module parameter clock=realtime
        else:
            self._clock = "none"
            return [
                f"{device.name}: the driver's stamps are of no clock of this machine, so images are stamped when they "
                "are received, which is later than their exposure"
            ]
        return []

    def _on_monotonic_clock(self, stamp_ns: int) -> int:
        if self._clock == "monotonic":
            return stamp_ns
        age_ns = time.time_ns() - stamp_ns if self._clock == "realtime" else 0
        return time.monotonic_ns() - age_ns

    # --- settings ----------------------------------------------------------------------------------------------------

    def _set_format(self, device: VideoDevice, capture: cv2.VideoCapture) -> list[str]:
        settings = self._settings
        fourcc = FOURCC[settings.format]
        for name, value in (
            (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*fourcc)),
            (cv2.CAP_PROP_FRAME_WIDTH, settings.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, settings.height),
            (cv2.CAP_PROP_FPS, settings.rate_hz),
        ):
            capture.set(name, value)
        width, height = _size(capture)
        rate, given = capture.get(cv2.CAP_PROP_FPS), round(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")
        self._fourcc = given.decode("ascii", "replace")
        if self._fourcc in DECODED_HERE:
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        taken = self._fourcc, width, height
        if taken == (fourcc, settings.width, settings.height) and abs(rate - settings.rate_hz) < RATE_TOLERANCE_HZ:
            return []
        offered = "; ".join(map(str, device.formats())) or "it lists no formats"
        return [
            f"{device.name}: {fourcc} {settings.width}x{settings.height} at {settings.rate_hz:g} Hz could not be set, "
            f"it gives {taken[0]} {width}x{height} at {rate:g} Hz; it offers: {offered}"
        ]

    def _set_controls(self, device: VideoDevice) -> list[str]:
        """Set the controls, the automatic ones first, and return what was not taken."""
        settings, controls = self._settings, device.controls()
        exposure = controls.get(v4l2.EXPOSURE_AUTO)
        automatic = [value for value in v4l2.EXPOSURE_AUTOMATIC if exposure is not None and exposure.takes(value)]
        # What a camera without these controls does anyway is not worth a sentence.
        quiet = {
            v4l2.EXPOSURE_DYNAMIC_FRAMERATE: 0,
            v4l2.EXPOSURE_AUTO: automatic[0] if automatic and settings.exposure_s is None else v4l2.EXPOSURE_MANUAL,
            v4l2.AUTO_WHITE_BALANCE: int(settings.white_balance_k is None),
            v4l2.FOCUS_AUTO: 0,
        }
        remarks = [
            _set(device, controls[identifier], controls[identifier].name, value)
            for identifier, value in quiet.items()
            if identifier in controls
        ]
        wanted: list[tuple[str, int, float | None, float]] = [
            ("exposure_s", v4l2.EXPOSURE_ABSOLUTE, settings.exposure_s, EXPOSURE_UNIT_S),
            ("white_balance_k", v4l2.WHITE_BALANCE_TEMPERATURE, settings.white_balance_k, 1.0),
            ("focus", v4l2.FOCUS_ABSOLUTE, settings.focus, 1.0),
            ("gain", v4l2.GAIN, settings.gain, 1.0),
        ]
        by_name = {control.name: control.identifier for control in controls.values()}
        wanted += [(name, by_name.get(name, 0), value, 1.0) for name, value in settings.controls.items()]
        for label, identifier, value, unit in wanted:
            if value is None:
                continue
            if identifier in controls:
                remarks.append(_set(device, controls[identifier], label, round(value / unit), unit))
            else:
                remarks.append(
                    f"{device.name}: {label} could not be set, the camera has no such control; it has: "
                    f"{', '.join(sorted(by_name)) or 'none'}"
                )
        return [remark for remark in remarks if remark]


def _silence_warnings() -> None:
    """Let OpenCV log errors only: what it would warn of is said here, in one sentence."""
    if hasattr(cv2, "setLogLevel"):  # OpenCV 4
        cv2.setLogLevel(2)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


def _size(capture: cv2.VideoCapture) -> tuple[int, int]:
    """Return the size of the images, px."""
    return round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))


def _set(device: VideoDevice, control: Control, label: str, value: int, unit: float = 1.0) -> str:
    """Set a control; return a sentence if the camera did not take the value, else an empty text."""
    reason = f"it takes {control.offered(unit)}"
    if control.takes(value):
        try:
            device.set(control.identifier, value)
        except OSError as error:
            reason = f"the camera refused it ({error.strerror}) although it offers {control.offered(unit)}"
    try:
        found = device.value(control.identifier)
    except OSError as error:
        return f"{device.name}: {label} cannot be read back ({error.strerror}); {reason}"
    if found == value:
        return ""
    return f"{device.name}: {label} is {found * unit:g} instead of {value * unit:g}; {reason}"
