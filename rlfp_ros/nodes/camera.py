"""`camera`: images of a camera that needs no ROS driver, with the topics of a ROS driver.

A thread waits for the images and publishes them, so that an image waits for nothing else. If the camera is unplugged,
the node looks for it until it is back.
"""

from __future__ import annotations

import sys
import threading
import time

import cv2
from pydantic import Field
from rclpy.node import Node

from rlfp_ros.drivers.camera import CAMERAS, CameraLost, CapturedImage, SourceEnded, make_camera
from rlfp_ros.nodes import messages as m
from rlfp_ros.nodes import parameters, spin
from rlfp_ros.nodes.diagnostics import Diagnostics, Durations, Level, Report
from rlfp_ros.perception.camera_info_file import load_camera_info
from rlfp_ros.schema import ConfigurationError, Schema

WAIT_S = 0.25  # longest wait for an image before the thread looks whether the node ends
STALLED_S = 2.0  # without an image for this long, the camera is opened anew
RETRY_S = 0.5  # between two attempts to open a camera that is gone
SUBSCRIBER_S = 0.05  # between two looks for a subscriber before a recording begins
CONNECTED_S = 0.5  # from then on; DDS connects the subscriber's side later than the publisher's
CLOSING_S = 3.0  # longest wait for the thread when the node ends
LOG_EVERY_S = 5.0  # between two messages about damaged images
CLOCK_GAP_NS = 20_000  # between two readings of the steady clock around one of the ROS clock; more was an interruption
CLOCK_TRIES = 5
CALIBRATE = (
    "no camera_info is published, because camera_info_file is not set; record a board with record:=runs/lens, run "
    "./rlfp calibrate intrinsics --bag runs/lens/run, and start again with camera_info_file:=FILE"
)


class CameraNodeSettings(Schema):
    """Parameters of the camera node."""

    camera: str = Field(default="uvc", description="name of the camera's driver; `./rlfp plugins` lists them")
    source: str = Field(
        default="",
        description="which camera; uvc: a path (/dev/v4l/by-id/...), a number, or part of a name, and empty for the "
        "only one; file: a video or a folder of images",
    )
    settings: str = Field(
        default="",
        description="settings of the camera, such as {width: 1280, height: 720, exposure_s: 0.01}; empty: their "
        "defaults",
    )
    camera_info_file: str = Field(
        default="", description="calibration that `./rlfp calibrate intrinsics` wrote; empty: no camera_info"
    )
    optical_frame: str = Field(default="camera_optical_frame", description="frame_id of the images")
    stamp_delay_s: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="time from the middle of the exposure to the driver's stamp (s); it is subtracted from each stamp",
    )


class CameraNode(Node):
    """Publishes a camera's images and its camera_info."""

    def __init__(self) -> None:
        super().__init__("camera")
        self._settings = settings = parameters.declare(self, CameraNodeSettings)
        cv2.setNumThreads(1)
        self._driver = make_camera(settings.camera, settings.source, settings.settings)
        self._recorded = CAMERAS[settings.camera].recorded
        self._calibration = load_camera_info(settings.camera_info_file) if settings.camera_info_file else None
        self._info = (
            m.calibrated_camera_info_message(settings.optical_frame, self._calibration) if self._calibration else None
        )
        self._image_publisher = self.create_publisher(m.IMAGE.type, m.IMAGE.name, m.IMAGE.qos)
        self._info_publisher = self.create_publisher(m.CAMERA_INFO.type, m.CAMERA_INFO.name, m.CAMERA_INFO.qos)
        self._lock = threading.Lock()  # of `_latency`, which both threads use
        self._latency, self._losses, self._discarded, self._early = Durations(), 0, 0, 0
        self._fault = ""  # why no images come
        self._image_fault = ""  # the last reason why a single image was left out
        self._last_image_s = time.monotonic()
        self._remarks: tuple[str, ...] = ()  # of the settings that the camera did not take
        self._closing = threading.Event()

        missing = ""
        try:
            self._open()
        except CameraLost as error:  # a wrong setting ends the node, but a camera may still be plugged in
            missing = str(error)
        if self._info is None:
            self.get_logger().warn(CALIBRATE)
        self.diagnostics = Diagnostics(self, self._report, hardware_id=settings.source or settings.camera)
        self._thread = threading.Thread(target=self._run, args=(missing,), name="camera", daemon=True)
        self._thread.start()

    # ---- the camera's thread ----

    def _run(self, missing: str) -> None:
        """Publish images until the node ends. `missing` is the reason why the camera is not open yet, if it is not."""
        if missing:
            self._find_again(missing)
        if self._recorded:
            while not self._image_publisher.get_subscription_count() and not self._closing.wait(SUBSCRIBER_S):
                pass
            self._closing.wait(CONNECTED_S)
            self._last_image_s = time.monotonic()
        while not self._closing.is_set():
            try:
                self._take()
            except SourceEnded as error:
                self._fault = str(error)
                self.get_logger().info(f"{error}; no further images come")
                return
            except CameraLost as error:
                self._find_again(str(error))
            except ConfigurationError as error:  # of one image
                self._discarded += 1
                self._image_fault = str(error)
                self.get_logger().error(self._image_fault, throttle_duration_sec=LOG_EVERY_S)
            except Exception as error:
                if self._closing.is_set() or not self.context.ok():
                    return  # it published while the context went down
                self.diagnostics.count_exception(error)
                self._find_again(f"{self._settings.camera}: its driver failed ({type(error).__name__}: {error})")

    def _take(self) -> None:
        captured = self._driver.read(WAIT_S)
        if captured is not None:
            self._last_image_s = time.monotonic()
            self._publish(captured)
        elif not self._recorded and time.monotonic() - self._last_image_s > STALLED_S:
            raise CameraLost(f"no image for {STALLED_S:g} s")

    def _find_again(self, reason: str) -> None:
        """Open the camera until it is back."""
        self._fault, self._losses = reason, self._losses + 1
        lost_s = time.monotonic()
        self.get_logger().error(f"{reason}; it is looked for every {RETRY_S:g} s")
        self.diagnostics.publish()
        while not self._closing.wait(RETRY_S):
            self._driver.close()
            try:
                self._open()
            except CameraLost as error:  # it is not back yet
                self._fault = str(error)
                continue
            except ConfigurationError as error:
                if str(error) != self._fault:
                    self._fault = str(error)
                    self.get_logger().error(self._fault)
                continue
            except Exception as error:
                self.diagnostics.count_exception(error)
                continue
            self._fault = ""
            self.get_logger().info(f"the camera is back after {time.monotonic() - lost_s:.1f} s")
            return

    def _open(self) -> None:
        opened, calibration = self._driver.open(), self._calibration
        width, height = opened.width, opened.height
        if calibration is not None and (calibration.image_width, calibration.image_height) != (width, height):
            self._driver.close()
            raise ConfigurationError(
                f"{self._settings.camera_info_file}: is for {calibration.image_width}x{calibration.image_height} px, "
                f"but the camera gives {width}x{height} px; set the camera to that size, or calibrate it at this one"
            )
        if opened.remarks != self._remarks:
            self._remarks = opened.remarks
            for remark in opened.remarks:
                self.get_logger().warn(remark)
        self._last_image_s = time.monotonic()

    # ---- publications ----

    def _publish(self, captured: CapturedImage) -> None:
        now_ns, age_ns = self._age(captured.captured_ns)
        self._early += age_ns < 0
        stamp_ns = now_ns - max(age_ns, 0) - round(self._settings.stamp_delay_s * 1e9)
        if self._info is not None:
            self._info.header.stamp = m.stamp_message(stamp_ns)
            self._info_publisher.publish(self._info)
        self._image_publisher.publish(m.image_message(stamp_ns, captured.image, self._settings.optical_frame))
        with self._lock:
            self._latency.add((time.monotonic_ns() - captured.captured_ns) * 1e-9)
        self._image_fault = ""

    def _age(self, captured_ns: int) -> tuple[int, int]:
        """Return the ROS time and the image's age, ns, both as of now: ROS time may jump or be simulated."""
        readings = []
        for _ in range(CLOCK_TRIES):
            before = time.monotonic_ns()
            now_ns = self.get_clock().now().nanoseconds
            after = time.monotonic_ns()
            readings.append((after - before, now_ns, (before + after) // 2 - captured_ns))
            if after - before < CLOCK_GAP_NS:
                break
        _, now_ns, age_ns = min(readings)
        return now_ns, age_ns

    def _report(self) -> Report:
        with self._lock:
            latency = self._latency.values("latency")
        values: dict[str, object] = {
            **latency,
            "discarded": self._discarded,
            "lost": self._losses,
            "early_stamps": self._early,
            "not_set": "; ".join(self._remarks),
        }
        if self._fault or self._image_fault:
            return Report(Level.ERROR, self._fault or self._image_fault, values)
        if self._remarks:
            return Report(Level.WARN, self._remarks[0], values)
        if self._info is None:
            return Report(Level.WARN, CALIBRATE, values)
        return Report(Level.OK, "running", values)

    def close(self) -> None:
        """End the thread and release the camera."""
        self._closing.set()
        self._thread.join(CLOSING_S)
        if not self._thread.is_alive():  # OpenCV may not release a camera that it waits for
            self._driver.close()


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the executable."""
    return spin.run(CameraNode, arguments, priority=10)


if __name__ == "__main__":
    sys.exit(main())
