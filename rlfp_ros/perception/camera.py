"""A live camera as its CameraInfo describes it: image size, intrinsics and lens."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from rlfp_ros.schema import ConfigurationError

BROWN_CONRADY_MODELS = ("plumb_bob", "rational_polynomial")
FISHEYE_MODELS = ("equidistant",)
LARGEST_WIDTH = 23.0  # of an image, in focal lengths: 170 degrees through a pinhole, more through any fisheye
NO_LENS_MODELS = ("", "none", "pinhole")  # accepted only without coefficients


class Lens(enum.Enum):
    """Mapping of a ray's angle to a distance from the principal point."""

    BROWN_CONRADY = "Brown-Conrady"  # a pinhole with OpenCV's k1 k2 p1 p2 k3 ... (plumb_bob, rational_polynomial)
    FISHEYE = "fisheye"  # OpenCV's theta polynomial k1 k2 k3 k4 (equidistant); zeros mean r = f * theta


@dataclass(frozen=True, eq=False)
class CameraModel:
    """A camera with its lens. Optical frame: x right, y down, z forward (REP-103).

    Attributes
    ----------
    width, height
        Image size, px.
    K
        [3, 3] px; pixel centres are at integer coordinates.
    distortion
        Coefficients of `lens` in OpenCV's order; None if there are none.
    optical_frame
        Name of the frame, as the camera's messages give it.
    lens
        The projection that `distortion` belongs to.
    """

    width: int
    height: int
    K: np.ndarray
    distortion: np.ndarray | None = None
    optical_frame: str = ""
    lens: Lens = Lens.BROWN_CONRADY

    @property
    def bends_lines(self) -> bool:
        """Whether straight lines are curved in the image."""
        return self.distortion is not None or self.lens is Lens.FISHEYE

    def same(self, other: CameraModel) -> bool:
        """Compare everything that decides which pixel shows which ray."""
        mine, theirs = (np.zeros(0) if camera.distortion is None else camera.distortion for camera in (self, other))
        return (
            (self.width, self.height, self.lens) == (other.width, other.height, other.lens)
            and np.array_equal(self.K, other.K)
            and np.array_equal(mine, theirs)
        )

    def pinhole(self) -> CameraModel:
        """Return the camera with the same K and no lens."""
        return CameraModel(self.width, self.height, self.K, None, self.optical_frame)

    def project(self, points: np.ndarray, T_camera_body: np.ndarray | None = None) -> np.ndarray:
        """Project points onto the image.

        Parameters
        ----------
        points
            [N, 3] m, in the optical frame, or in the frame of a body if `T_camera_body` is given.
        T_camera_body
            Pose of that body in the optical frame, 4 x 4.

        Returns
        -------
        numpy.ndarray
            Pixels [N, 2]. Points behind the camera have no meaningful pixel.
        """
        rotation, translation = np.zeros(3), np.zeros(3)
        if T_camera_body is not None:
            rotation, translation = np.ravel(cv2.Rodrigues(T_camera_body[:3, :3])[0]), T_camera_body[:3, 3]
        columns = np.asarray(points, np.float64).reshape(-1, 1, 3)
        if self.lens is Lens.FISHEYE:
            pixels, _ = cv2.fisheye.projectPoints(columns, rotation, translation, self.K, self._coefficients())
        else:
            pixels, _ = cv2.projectPoints(columns, rotation, translation, self.K, self.distortion)
        found = np.asarray(pixels, np.float64).reshape(-1, 2)
        if self.K[0, 1]:  # OpenCV leaves out the skew
            found[:, 0] += self.K[0, 1] * (found[:, 1] - self.K[1, 2]) / self.K[1, 1]
        return found

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Find the rays that pixels see: the inverse of `project`.

        Parameters
        ----------
        pixels
            [N, 2].

        Returns
        -------
        numpy.ndarray
            x, y [N, 2] on the plane z = 1 of the optical frame.
        """
        columns = np.array(pixels, np.float64).reshape(-1, 1, 2)
        if self.K[0, 1]:
            columns[..., 0] -= self.K[0, 1] * (columns[..., 1] - self.K[1, 2]) / self.K[1, 1]
        if self.lens is Lens.FISHEYE:
            plane = cv2.fisheye.undistortPoints(columns, self.K, self._coefficients())
        else:
            plane = cv2.undistortPoints(columns, self.K, self.distortion)
        return np.asarray(plane, np.float64).reshape(-1, 2)

    def undistort(self, image: np.ndarray) -> np.ndarray:
        """Redraw an image [H, W, 3] of this camera as `pinhole()` would see it."""
        if not self.bends_lines:
            return image
        grid = np.stack(np.meshgrid(np.arange(self.width), np.arange(self.height)), axis=-1).reshape(-1, 2)
        rays = self.pinhole().rays(grid)
        maps = self.project(np.column_stack([rays, np.ones(len(rays))])).astype(np.float32)
        maps = maps.reshape(self.height, self.width, 2)
        return np.asarray(cv2.remap(image, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR))

    def field_of_view(self) -> tuple[float, float]:
        """Return the horizontal and vertical opening angle in degrees, without the lens's coefficients."""
        halves = self.width / 2 / self.K[0, 0], self.height / 2 / self.K[1, 1]
        angles = halves if self.lens is Lens.FISHEYE else (math.atan(halves[0]), math.atan(halves[1]))
        return math.degrees(2 * angles[0]), math.degrees(2 * angles[1])

    def _coefficients(self) -> np.ndarray:
        return np.zeros(4) if self.distortion is None else np.asarray(self.distortion, np.float64)


def camera_model(message: Any, topic: str = "camera/camera_info", rectified: bool = False) -> CameraModel:
    """Read a CameraInfo as the camera model of the images that come with it, with binning and region applied.

    Parameters
    ----------
    message
        Anything with the fields of a sensor_msgs/CameraInfo: a live message, or one from a bag.
    topic
        Its name, for the sentences of errors.
    rectified
        Whether the images are rectified. image_proc publishes them with the raw camera's CameraInfo, whose `p` is then
        their pinhole camera, and whose `k` and `d` no longer apply.

    Returns
    -------
    CameraModel

    Raises
    ------
    ConfigurationError
        If the camera is not calibrated, or its distortion model or its coefficients are not supported.
    """
    width, height = int(message.width), int(message.height)
    if width <= 0 or height <= 0:
        raise ConfigurationError(
            f"topic {topic}: width is {width} and height is {height}, expected the image's size; give the driver its "
            "calibration file"
        )
    K = _matrix(message.k, "k", topic)
    lens, distortion = Lens.BROWN_CONRADY, None
    if rectified:
        K = _rectified_matrix(message, K, topic)
    else:
        lens, distortion = _lens(message, topic)
    _check_matrix(K, "p" if rectified else "k", topic)
    if not rectified and not message.roi.width:  # with a region, drivers give its size or that of the sensor
        _check_size(K, width, height, topic)
    if message.roi.width and message.roi.height:
        K[0, 2] -= message.roi.x_offset
        K[1, 2] -= message.roi.y_offset
        width, height = int(message.roi.width), int(message.roi.height)
    binning_x, binning_y = max(1, int(message.binning_x)), max(1, int(message.binning_y))
    K[0] /= binning_x
    K[1] /= binning_y
    return CameraModel(width // binning_x, height // binning_y, K, distortion, message.header.frame_id, lens)


def _matrix(values: Any, name: str, topic: str) -> np.ndarray:
    rows = np.array(values, dtype=np.float64)
    if rows.size not in (9, 12):
        raise ConfigurationError(f"topic {topic}: {name} has {rows.size} values, expected 9 (k) or 12 (p)")
    return rows.reshape(3, -1)


def _check_matrix(K: np.ndarray, name: str, topic: str) -> None:
    calibrate = (
        "calibrate the camera (./rlfp calibrate intrinsics, or ros2 run camera_calibration cameracalibrator) and give "
        "the driver its calibration file"
    )
    if not np.all(np.isfinite(K)) or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise ConfigurationError(
            f"topic {topic}: {name} has fx {K[0, 0]:g} and fy {K[1, 1]:g}, expected both above 0; {calibrate}"
        )
    if K[1, 0] != 0 or not np.array_equal(K[2], [0, 0, 1]):
        raise ConfigurationError(
            f"topic {topic}: {name} is {K.ravel().tolist()}, expected [fx, 0, cx, 0, fy, cy, 0, 0, 1] row by row; "
            "correct the driver's calibration file"
        )
    if K[0, 2] == 0 and K[1, 2] == 0:
        raise ConfigurationError(
            f"topic {topic}: {name} has cx 0 and cy 0, expected a principal point inside the image; {calibrate}"
        )


def _check_size(K: np.ndarray, width: int, height: int, topic: str) -> None:
    """Refuse a matrix of another image size, as from a calibration at another resolution, or in parts of the width."""
    inside = -0.5 <= K[0, 2] <= width and -0.5 <= K[1, 2] <= height
    if not inside or K[0, 0] < width / LARGEST_WIDTH or K[1, 1] < height / LARGEST_WIDTH:
        raise ConfigurationError(
            f"topic {topic}: k has fx {K[0, 0]:g}, fy {K[1, 1]:g}, cx {K[0, 2]:g} and cy {K[1, 2]:g} for an image "
            f"of {width} x {height} pixels, which is the matrix of another image size; calibrate the camera at this "
            "size, or scale k and p to it"
        )


def _rectified_matrix(message: Any, K: np.ndarray, topic: str) -> np.ndarray:
    """Return K of the rectified images: the left part of `p`, or `k` if a camera without a lens leaves `p` empty."""
    P = _matrix(message.p, "p", topic)
    if np.any(P):
        return P[:, :3].copy()
    lens, distortion = _lens(message, topic)
    if lens is Lens.FISHEYE or distortion is not None:
        raise ConfigurationError(
            f"topic {topic}: p is all zeros, expected the projection of the rectified images; let image_proc or the "
            "driver fill it in, or take the raw images (image_kind:=raw)"
        )
    return K


def _lens(message: Any, topic: str) -> tuple[Lens, np.ndarray | None]:
    """Return the lens and its coefficients; None if all of a Brown-Conrady lens's are zero."""
    model, coefficients = str(message.distortion_model), np.array(message.d, dtype=np.float64)
    given = coefficients.tolist()
    if not np.all(np.isfinite(coefficients)):
        raise ConfigurationError(f"topic {topic}: d is {given}, expected finite values; calibrate the camera again")
    if model in FISHEYE_MODELS:
        if len(coefficients) != 4:
            raise ConfigurationError(
                f"topic {topic}: d is {given}, expected 4 values with distortion_model {model!r}; calibrate the camera "
                "as a fisheye (cameracalibrator --fisheye-k-coefficients)"
            )
        return Lens.FISHEYE, coefficients
    named = model.lower()
    no_lens = named in NO_LENS_MODELS or "brown" in named  # RealSense: "Inverse Brown Conrady" or "None" with zeros
    if model not in BROWN_CONRADY_MODELS and (np.any(coefficients) or not no_lens):
        known = ", ".join((*BROWN_CONRADY_MODELS, *FISHEYE_MODELS))
        raise ConfigurationError(
            f"topic {topic}: distortion_model is {model!r}, expected one of {known}; rectify the images (image_proc) "
            "and give perception the rectified topic (image_topic:=.../image_rect), whose p is used instead"
        )
    if len(coefficients) not in (0, 4, 5, 8, 12, 14):
        raise ConfigurationError(
            f"topic {topic}: d is {given}, expected 5 values (plumb_bob) or 8 (rational_polynomial)"
        )
    return Lens.BROWN_CONRADY, coefficients if np.any(coefficients) else None
