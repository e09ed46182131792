"""A live camera as its CameraInfo describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlfp_ros.schema import ConfigurationError


@dataclass(frozen=True, eq=False)
class CameraModel:
    """Pinhole camera with lens distortion. Optical frame: x right, y down, z forward (REP-103)."""

    width: int  # px
    height: int  # px
    K: np.ndarray  # 3 x 3, px
    distortion: np.ndarray | None = None  # [4..14] OpenCV's order k1 k2 p1 p2 k3 ...; None: none
    optical_frame: str = ""

    def same(self, other: CameraModel) -> bool:
        """Equal in everything that decides about pixels."""
        return (
            (self.width, self.height) == (other.width, other.height)
            and np.array_equal(self.K, other.K)
            and (
                (self.distortion is None and other.distortion is None)
                or (
                    self.distortion is not None
                    and other.distortion is not None
                    and np.array_equal(self.distortion, other.distortion)
                )
            )
        )


def camera_model(message: Any, topic: str = "camera/camera_info") -> CameraModel:
    """CameraInfo -> size, K, distortion and optical frame of the images that come with it (binning and ROI applied).

    Anything with the fields of a sensor_msgs/CameraInfo will do: a live message, or one out of a bag.
    Raises ConfigurationError for an uncalibrated camera or a distortion model that is not plumb_bob or
    rational_polynomial.
    """
    K = np.array(message.k, dtype=np.float64).reshape(3, 3)
    if not np.all(np.isfinite(K)) or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise ConfigurationError(
            f"topic {topic}: k has fx {K[0, 0]:g} and fy {K[1, 1]:g}, expected both above 0; calibrate the camera "
            "(ros2 run camera_calibration cameracalibrator) and give the driver its calibration file"
        )
    distortion = np.array(message.d, dtype=np.float64)
    if np.any(distortion != 0) and message.distortion_model not in ("plumb_bob", "rational_polynomial"):
        raise ConfigurationError(
            f"topic {topic}: distortion_model is {message.distortion_model!r}, expected plumb_bob or "
            "rational_polynomial; rectify the images (image_proc) and remap camera/ to the rectified ones"
        )
    if not np.all(np.isfinite(distortion)) or len(distortion) not in (0, 4, 5, 8, 12, 14):
        raise ConfigurationError(
            f"topic {topic}: d is {distortion.tolist()}, expected 5 (plumb_bob) or 8 (rational_polynomial) finite ones"
        )
    width, height = int(message.width), int(message.height)
    if message.roi.width and message.roi.height:
        K[0, 2] -= message.roi.x_offset
        K[1, 2] -= message.roi.y_offset
        width, height = int(message.roi.width), int(message.roi.height)
    binning_x, binning_y = max(1, int(message.binning_x)), max(1, int(message.binning_y))
    K[0] /= binning_x
    K[1] /= binning_y
    return CameraModel(
        width=width // binning_x,
        height=height // binning_y,
        K=K,
        distortion=distortion if np.any(distortion != 0) else None,
        optical_frame=message.header.frame_id,
    )
