"""`rlfp align`: overlays the simulator's arm on the live one and measures how far apart the outlines are, in pixels.

From each point of the drawn arm's outline the image is searched along the outline's normal for the strongest edge. The
camera pose that fits all these edges best is computed (RAPiD: Harris, "Tracking with rigid models", in Active Vision,
1992), repeatedly and with a shorter search each time. The result is how far the outline moves from the given pose to
the fitted one. It shows whether extrinsics, intrinsics and joints are consistent; it does not replace a calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.perception.extrinsics import pose_difference
from rlfp_ros.perception.images import write_image
from rlfp_ros.recording.snapshots import Snapshot
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.arm_renderer import ArmRenderer, Rendering

SEARCH_WIDTH = 0.08  # share of the image's width that the first search for an edge covers to either side
MIN_SEARCH_PX = 2.5  # the same in the last round
ROUNDS = 8
FEWEST_POINTS = 40  # outline points with an edge, over all images
STRONG = 1.5  # a gradient above this times the image's median gradient counts as an edge


@dataclass(frozen=True)
class Alignment:
    """The result: how well the given pose of the camera fits the images."""

    error_px: float  # mean distance of the outline at the given pose from the outline at the fitted one
    left_px: float  # median distance of the fitted outline from the edges found; the smaller, the better the fit
    points: int  # number of outline points with an edge
    T_base_camera: np.ndarray  # 4 x 4, fitted
    distance_m: float  # between the fitted and the given pose
    angle_rad: float


@dataclass(frozen=True)
class _Outline:
    """Points on the edge of the drawn arm."""

    pixels: np.ndarray  # [N, 2]
    normals: np.ndarray  # [N, 2], out of the arm
    points: np.ndarray  # [N, 3] m, base frame


def align(snapshots: Sequence[Snapshot], renderer: ArmRenderer, T_base_camera: np.ndarray) -> Alignment:
    """Fit the camera's pose to images of the arm. Raises ConfigurationError if too little of it is in view."""
    undistorted = [_undistorted(snapshot) for snapshot in snapshots]
    gradients = [_gradient(image) for image, _ in undistorted]
    given, T = np.array(T_base_camera, dtype=float), np.array(T_base_camera, dtype=float)
    found, left = 0, np.inf
    for reach in np.geomspace(SEARCH_WIDTH * undistorted[0][1].width, MIN_SEARCH_PX, ROUNDS):
        rows, gaps = [], []
        for snapshot, (_, camera), gradient in zip(snapshots, undistorted, gradients, strict=True):
            outline = _outline(_draw(renderer, camera, T, snapshot), camera, T)
            picks, distances = _edges(gradient, outline, float(reach))
            rows.append(_sensitivity(outline, camera, T, picks))
            gaps.append(distances)
        J, d = np.concatenate(rows), np.concatenate(gaps)
        found = len(d)
        if found < FEWEST_POINTS:
            raise ConfigurationError(
                f"{found} points of the arm's outline have an edge in the image, expected at least {FEWEST_POINTS}; "
                "bring the arm into view, or compare extrinsics and camera_info with this camera"
            )
        weights = np.ones(found)
        for _ in range(5):  # Tukey's weights: edges of other things have no influence
            change = np.linalg.lstsq(J * weights[:, None], d * weights, rcond=None)[0]
            off = np.abs(J @ change - d)
            left = float(np.median(off))
            weights = np.clip(1 - (off / (4.7 * 1.48 * left + 1e-6)) ** 2, 0, 1)
        T = T @ _motion(change)
    errors = []
    for snapshot, (_, camera) in zip(snapshots, undistorted, strict=True):
        points = _outline(_draw(renderer, camera, T, snapshot), camera, T).points
        ends = [camera.project(points, np.linalg.inv(place)) for place in (given, T)]
        errors.append(np.linalg.norm(ends[0] - ends[1], axis=1))
    distance, angle = pose_difference(given, T)
    return Alignment(float(np.mean(np.concatenate(errors))), left, found, T, distance, angle)


def overlay(snapshot: Snapshot, renderer: ArmRenderer, T_base_camera: np.ndarray) -> np.ndarray:
    """Blend the drawn arm over the image, with its outline in green; uint8 [H, W, 3] rgb."""
    image, camera = _undistorted(snapshot)
    drawn = _draw(renderer, camera, T_base_camera, snapshot)
    blended = np.where(drawn.mask[..., None], (0.5 * image + 0.5 * drawn.image).astype(np.uint8), image)
    contours, _ = cv2.findContours(drawn.mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    canvas = np.ascontiguousarray(blended)
    cv2.drawContours(canvas, contours, -1, (40, 220, 60), 1)
    return canvas


def write_overlays(
    snapshots: Sequence[Snapshot], renderer: ArmRenderer, T_base_camera: np.ndarray, folder: Path
) -> list[Path]:
    """Write `align_00.png` ... into `folder`."""
    paths = []
    for number, snapshot in enumerate(snapshots):
        paths.append(folder / f"align_{number:02}.png")
        write_image(paths[-1], overlay(snapshot, renderer, T_base_camera))
    return paths


def _undistorted(snapshot: Snapshot) -> tuple[np.ndarray, CameraModel]:
    """Return the image without its lens, and the pinhole camera that would take it."""
    assert snapshot.camera is not None
    return snapshot.camera.undistort(snapshot.image), snapshot.camera.pinhole()


def _draw(renderer: ArmRenderer, camera: CameraModel, T: np.ndarray, snapshot: Snapshot) -> Rendering:
    assert snapshot.joints is not None
    return renderer(camera, T, snapshot.joints.positions, snapshot.joints.gripper_width)


def _gradient(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the derivatives [H, W, 3] of the smoothed image along x and y, per colour."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0)
    return cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8)


def _outline(drawn: Rendering, camera: CameraModel, T_base_camera: np.ndarray) -> _Outline:
    mask = drawn.mask.astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return _Outline(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 3)))
    pixels = np.concatenate([contour[::2, 0] for contour in contours])
    inside = (pixels > 2).all(axis=1) & (pixels < np.array([camera.width, camera.height]) - 3).all(axis=1)
    pixels = pixels[inside]
    smooth = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2.0)
    gx, gy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    x, y = pixels.T
    normals = -np.stack([gx[y, x], gy[y, x]], axis=1)
    lengths = np.linalg.norm(normals, axis=1)
    pixels, normals = pixels[lengths > 1e-3], (normals / lengths[:, None])[lengths > 1e-3]
    x, y = pixels.T
    depth = drawn.depth[y, x]
    # A mask's contour runs through the arm's outermost pixels; the edge is half a pixel farther out.
    edge = pixels + 0.5 * normals
    rays = np.column_stack([(edge - camera.K[:2, 2]) / np.diag(camera.K)[:2], np.ones(len(edge))])
    points = (rays * depth[:, None]) @ T_base_camera[:3, :3].T + T_base_camera[:3, 3]
    return _Outline(edge, normals, points)


def _edges(gradient: tuple[np.ndarray, np.ndarray], outline: _Outline, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Return which points have an edge within `reach` px, and the distance of the edge along the normal, px."""
    if not len(outline.pixels):
        return np.zeros(0, int), np.zeros(0)
    steps = np.arange(-np.ceil(reach), np.ceil(reach) + 1)
    places = outline.pixels[:, None] + steps[:, None] * outline.normals[:, None]  # [N, S, 2]
    x, y = places[..., 0].astype(np.float32), places[..., 1].astype(np.float32)
    sampled = [cv2.remap(part, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for part in gradient]
    across = sampled[0] * outline.normals[:, None, :1] + sampled[1] * outline.normals[:, None, 1:]
    strength = np.abs(across).max(axis=-1)  # [N, S], of the strongest colour
    # If two edges have similar strength, the nearer one is used.
    preferred = strength * np.exp(-0.5 * (steps / (0.7 * reach)) ** 2)
    best = np.clip(np.argmax(preferred, axis=1), 1, len(steps) - 2)
    rows = np.arange(len(best))
    before, here, after = (strength[rows, best + shift] for shift in (-1, 0, 1))
    curve = before - 2 * here + after
    shift = np.where(curve < -1e-6, 0.5 * (before - after) / np.where(curve < -1e-6, curve, 1.0), 0.0)
    threshold = STRONG * float(np.median(np.abs(gradient[0]).max(axis=-1)) + 1.0)
    picks = np.flatnonzero(here > threshold)
    return picks, (steps[best] + np.clip(shift, -1, 1))[picks]


def _sensitivity(outline: _Outline, camera: CameraModel, T: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """Return the derivative [n, 6] of each point's motion along its normal, px, by a camera motion (v m, w rad)."""
    T_camera_base = np.linalg.inv(T)
    p = outline.points[picks] @ T_camera_base[:3, :3].T + T_camera_base[:3, 3]
    z = p[:, 2]
    fx, fy = camera.K[0, 0], camera.K[1, 1]
    n = outline.normals[picks]
    by_point = np.stack(
        [n[:, 0] * fx / z, n[:, 1] * fy / z, -(n[:, 0] * fx * p[:, 0] + n[:, 1] * fy * p[:, 1]) / z**2], 1
    )
    # If the camera moves by v and turns by w, a fixed point moves by -v - w x p in its frame.
    return np.concatenate([-by_point, -np.cross(p, by_point)], axis=1)


def _motion(change: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = cv2.Rodrigues(change[3:])[0], change[:3]
    return T


def describe(found: Alignment, arm: Arm) -> str:
    """Describe the result in one sentence."""
    return (
        f"the outline of {arm.name} misses by {found.error_px:.1f} px on average; it would fit ({found.left_px:.1f} px "
        f"left, {found.points} points) with the camera {1e3 * found.distance_m:.0f} mm and "
        f"{np.degrees(found.angle_rad):.1f} degrees from the given pose"
    )
