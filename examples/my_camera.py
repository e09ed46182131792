"""A camera of your own: one that sends video over the network, as rtsp:// or http:// addresses do.

./rlfp --plugin examples/my_camera.py launch real_arm.launch.py camera:=network camera_source:=rtsp://10.0.0.5/video
"""

from __future__ import annotations

import time
from typing import ClassVar

import cv2
from pydantic import Field

from rlfp_ros.drivers.camera import CAMERAS, CameraLost, CapturedImage, OpenedCamera
from rlfp_ros.schema import Schema


class NetworkCameraSettings(Schema):
    """What `camera_settings:=` may contain."""

    delay_s: float = Field(default=0.0, ge=0, le=2, description="time from an image's exposure to its arrival, s")


@CAMERAS.register("network")
class NetworkCamera:
    """A camera that sends video over the network."""

    Settings: ClassVar[type[Schema]] = NetworkCameraSettings
    recorded: ClassVar[bool] = False

    def __init__(self, source: str, settings: NetworkCameraSettings) -> None:
        self._address, self._delay_ns = source, round(settings.delay_s * 1e9)
        self._capture: cv2.VideoCapture | None = None

    def open(self) -> OpenedCamera:
        self._capture = cv2.VideoCapture(self._address, cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise CameraLost(f"{self._address}: no video comes from there; look at the camera's own page")
        width, height = self._capture.get(cv2.CAP_PROP_FRAME_WIDTH), self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        return OpenedCamera(round(width), round(height))

    def read(self, timeout_s: float) -> CapturedImage | None:
        assert self._capture is not None, "open() comes first"
        came, image = self._capture.read()
        if not came:
            raise CameraLost(f"{self._address} sends nothing")
        # This kind of camera does not say when an image was exposed.
        return CapturedImage(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), time.monotonic_ns() - self._delay_ns)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None
