"""Draws perception's results into an image: feature points, object pose, goal, and a bar for the domain shift."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import cv2
import numpy as np

from rlfp_ros.contract import Intrinsics

TARGET_WIDTH = 420  # px; the encoder's own image is too small to look at
AXIS_M = 0.04  # length of the drawn pose axes
GOAL_M = 0.025  # radius of the ring around the goal
BAR_PX = 8  # height of the domain-shift bar
WARNING, ALARM = 0.5, 0.9  # domain shift from which the bar turns yellow and red


def draw(
    image: np.ndarray,
    intrinsics: Intrinsics,
    features: np.ndarray,
    object_pose: np.ndarray | None = None,
    domain_shift: float | None = None,
    goal: np.ndarray | None = None,
) -> np.ndarray:
    """Return an enlarged copy of `image`, the encoder's input rgb uint8 [h, w, 3], with the results drawn in.

    `features` [K, 3]: x, y on the plane z = 1 of the optical frame and confidence in [0, 1], which sets the size of the
    dot. `object_pose` [7]: xyz m, quaternion xyzw in the optical frame. `goal` [3]: xyz m in the optical frame, a ring.
    """
    scale = max(1, round(TARGET_WIDTH / image.shape[1]))
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    K = intrinsics.matrix()

    def pixel(x: float, y: float) -> tuple[int, int]:
        u, v = K[0, 0] * x + K[0, 2], K[1, 1] * y + K[1, 2]
        # OpenCV's drawing overflows beyond 16 bits.
        return int(np.clip((u + 0.5) * scale, -9999, 9999)), int(np.clip((v + 0.5) * scale, -9999, 9999))

    if goal is not None and goal[2] > 0.01:
        ring = round(GOAL_M * K[0, 0] / goal[2] * scale)
        for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            cv2.circle(canvas, pixel(goal[0] / goal[2], goal[1] / goal[2]), ring, colour, width, cv2.LINE_AA)
    if features.ndim == 2:
        for index, (x, y, confidence) in enumerate(features.tolist()):
            if not np.isfinite([x, y, confidence]).all():
                continue
            red, green, blue = colorsys.hsv_to_rgb(index / len(features), 0.9, 1.0)
            radius = 2 + round(3 * min(1.0, max(0.0, confidence)))
            cv2.circle(canvas, pixel(x, y), radius + 1, (0, 0, 0), -1, cv2.LINE_AA)
            cv2.circle(canvas, pixel(x, y), radius, (255 * red, 255 * green, 255 * blue), -1, cv2.LINE_AA)
    if object_pose is not None and np.isfinite(object_pose).all() and object_pose[2] > 0.01:
        _draw_axes(canvas, pixel, np.asarray(object_pose, dtype=np.float64))
    if domain_shift is not None:
        _draw_bar(canvas, domain_shift)
    return canvas


def _draw_axes(canvas: np.ndarray, pixel: Callable[[float, float], tuple[int, int]], pose: np.ndarray) -> None:
    x, y, z, w = pose[3:] / max(1e-9, float(np.linalg.norm(pose[3:])))
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    origin = pose[:3]
    start = pixel(origin[0] / origin[2], origin[1] / origin[2])
    for axis, colour in zip(rotation.T, ((255, 60, 60), (60, 220, 60), (80, 120, 255)), strict=True):
        end = origin + AXIS_M * axis
        if end[2] > 0.01:
            cv2.line(canvas, start, pixel(end[0] / end[2], end[1] / end[2]), colour, 2, cv2.LINE_AA)
    cv2.circle(canvas, start, 3, (255, 255, 255), -1, cv2.LINE_AA)


def _draw_bar(canvas: np.ndarray, domain_shift: float) -> None:
    height, width = canvas.shape[:2]
    colour = (220, 50, 40) if domain_shift >= ALARM else (230, 190, 40) if domain_shift >= WARNING else (60, 190, 80)
    cv2.rectangle(canvas, (0, height - BAR_PX), (width, height), (30, 30, 30), -1)
    cv2.rectangle(canvas, (0, height - BAR_PX), (int(width * min(1.0, max(0.0, domain_shift))), height), colour, -1)
