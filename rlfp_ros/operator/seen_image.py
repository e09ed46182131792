"""An image that the policy saw, as the page shows it: a JPEG, and what belongs into it as lines in pixels."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from rlfp_ros.perception.camera import CameraModel

JPEG_QUALITY = 80
NEAREST_M = 0.02  # points nearer to the camera, or behind it, are not drawn
SIGMAS = 2.0  # of the object's ellipse
RESIDUAL_S = 0.5  # the residual's arrow is as long as the tool's way in that time
LENGTH = struct.Struct("<I")  # of the JSON in front of the JPEG


@dataclass(frozen=True, eq=False)
class SeenImage:
    """One image of the camera and what perception, policy and controller made of it.

    Attributes
    ----------
    number
        Counts the images of this process.
    stamp_ns
        The image's own stamp.
    received_s
        When it came here, on the steady clock, s.
    delay_s
        Its age by stamp at that time.
    image
        rgb uint8 [H, W, 3], or the bytes of a JPEG.
    camera
        The camera that took it.
    T_base_camera
        The camera's place, 4 x 4.
    features
        [K, 3]: x, y on the plane z = 1 of the optical frame, and confidence; None if the policy has no feature points.
    object_position, object_covariance
        [3] m and [3, 3] m^2 in the base frame; None if they are not perceived.
    goal, tool, residual
        [3] m, [3] m and [3] m/s in the base frame; None if not known.
    domain_shift
        The score of this image, 0..1.
    perceived
        Whether perception has worked on it.
    """

    number: int
    stamp_ns: int
    received_s: float
    delay_s: float
    image: np.ndarray | bytes
    camera: CameraModel
    T_base_camera: np.ndarray
    features: np.ndarray | None = None
    object_position: np.ndarray | None = None
    object_covariance: np.ndarray | None = None
    goal: np.ndarray | None = None
    tool: np.ndarray | None = None
    residual: np.ndarray | None = None
    domain_shift: float | None = None
    perceived: bool = True
    _made: dict[str, Any] = field(default_factory=dict)

    def jpeg(self) -> bytes:
        """Return the image as a JPEG; encoded at the first call."""
        if isinstance(self.image, bytes):
            return self.image
        if "jpeg" not in self._made:
            _, data = cv2.imencode(".jpg", self.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            self._made["jpeg"] = data.tobytes()
        made: bytes = self._made["jpeg"]
        return made

    def lines(self) -> dict[str, Any]:
        """Return what is drawn over the image, in its pixels."""
        if "lines" not in self._made:
            self._made["lines"] = {
                "points": self._points(),
                "object": self._ellipse(),
                "goal": self.pixel(self.goal),
                "tool": self.pixel(self.tool),
                "residual": self._residual(),
            }
        made: dict[str, Any] = self._made["lines"]
        return made

    def message(self, now_s: float) -> bytes:
        """Return the binary message for a page: length of the JSON (uint32, little endian), JSON, JPEG."""
        header = {
            "image": self.number,
            "stamp": self.stamp_ns // 1_000_000,
            "width": self.camera.width,
            "height": self.camera.height,
            "age_ms": round(1e3 * (self.delay_s + now_s - self.received_s), 1),
            "shift": self.domain_shift,
            "perceived": self.perceived,
            **self.lines(),
        }
        text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
        return LENGTH.pack(len(text)) + text + self.jpeg()

    def pixel(self, point: np.ndarray | None) -> list[float] | None:
        """Project a point [3] m of the base frame; None if there is no such point, or it is not in front."""
        if point is None:
            return None
        in_camera = self._in_camera(point)
        return _pixel(self.camera, in_camera) if in_camera[2] > NEAREST_M else None

    def _in_camera(self, point: np.ndarray) -> np.ndarray:
        rotation, place = self.T_base_camera[:3, :3], self.T_base_camera[:3, 3]
        return np.asarray(rotation.T @ (np.asarray(point, dtype=float) - place))

    def _points(self) -> list[list[float]]:
        if self.features is None or self.features.ndim != 2:
            return []
        found = self.features[np.isfinite(self.features).all(axis=1)].astype(float)
        if not len(found):
            return []
        pixels = self.camera.project(np.column_stack([found[:, :2], np.ones(len(found))]))
        confidence = np.clip(found[:, 2], 0.0, 1.0)
        table = np.column_stack([pixels, confidence])
        return [[round(value, 2) for value in row] for row in table[np.isfinite(table).all(axis=1)].tolist()]

    def _ellipse(self) -> list[float] | None:
        """Return centre u, v, half axes a, b (px) and the angle of a (rad) of the object's covariance."""
        if self.object_position is None or self.object_covariance is None:
            return None
        centre = self.pixel(self.object_position)
        if centre is None:
            return None
        step = 1e-3
        columns = []
        for axis in np.eye(3):
            moved = self.pixel(self.object_position + step * axis)
            if moved is None:
                return None
            columns.append((np.array(moved) - centre) / step)
        jacobian = np.column_stack(columns)  # px per m, [2, 3]
        covariance = jacobian @ self.object_covariance @ jacobian.T
        if not np.isfinite(covariance).all():
            return None
        values, vectors = np.linalg.eigh(covariance)
        small, large = (SIGMAS * math.sqrt(max(0.0, float(value))) for value in values)
        angle = math.atan2(vectors[1, 1], vectors[0, 1])
        return [*centre, round(large, 2), round(small, 2), round(angle, 4)]

    def _residual(self) -> list[float] | None:
        """Return where the residual would bring the tool in `RESIDUAL_S`, a pixel."""
        if self.residual is None or self.tool is None or not np.isfinite(self.residual).all():
            return None
        return self.pixel(self.tool + RESIDUAL_S * self.residual)


def _pixel(camera: CameraModel, in_camera: np.ndarray) -> list[float] | None:
    pixel = camera.project(in_camera[None])[0]
    return [round(float(value), 2) for value in pixel] if np.isfinite(pixel).all() else None
