"""The camera's pose: the bundle's own, or one from a calibration file, checked against the bundle's."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from rlfp_ros import schema
from rlfp_ros.contract import CameraContract
from rlfp_ros.control.workspace import CellFile, is_cell
from rlfp_ros.files import write_whole
from rlfp_ros.schema import ConfigurationError, Pose, Schema


class Extrinsics(Schema):
    """A calibration file: `T_base_camera: {xyz: [..], quaternion_xyzw: [..]}`, camera = optical frame."""

    T_base_camera: Pose


def pose_difference(T_a: np.ndarray, T_b: np.ndarray) -> tuple[float, float]:
    """Return the distance (m) and angle (rad) between two poses, 4 x 4."""
    cosine = (np.trace(T_a[:3, :3].T @ T_b[:3, :3]) - 1) / 2
    return float(np.linalg.norm(T_a[:3, 3] - T_b[:3, 3])), math.acos(min(1.0, max(-1.0, float(cosine))))


def load_extrinsics(path: str | Path, camera: CameraContract) -> np.ndarray:
    """Load T_base_camera, 4 x 4, from `path`, or return the bundle's own if `path` is empty or "bundle".

    `path` is a calibration file, or the file of a cell.

    Raises ConfigurationError if the camera is farther from its pose in training than the bundle allows.
    """
    trained = camera.T_base_camera.matrix()
    if str(path) in ("", "bundle"):
        return trained
    found = load_pose(Path(path).expanduser()).matrix()
    distance, angle = pose_difference(found, trained)
    tolerance = camera.tolerance
    if distance > tolerance.xyz_m or angle > tolerance.angle_rad:
        raise ConfigurationError(
            f"{path}: T_base_camera is {distance:.3f} m and {angle:.3f} rad from the bundle's, expected at most "
            f"{tolerance.xyz_m:g} m and {tolerance.angle_rad:g} rad; move the camera or train for this place"
        )
    return found


def load_pose(path: Path) -> Pose:
    """Load T_base_camera from a calibration file, or from the file of a cell. Raises ConfigurationError."""
    document = schema.read_yaml(path)
    if is_cell(document):
        return schema.validate(document, CellFile, str(path)).camera.T_base_camera
    return schema.validate(document, Extrinsics, str(path)).T_base_camera


def is_estimated(path: str | Path) -> bool:
    """Return whether `path` is the file of a cell whose camera's pose was estimated by hand and never calibrated."""
    document = schema.read_yaml(Path(path).expanduser())
    return is_cell(document) and not schema.validate(document, CellFile, str(path)).camera.calibrated


def write_extrinsics(path: Path, T_base_camera: np.ndarray, remark: str) -> None:
    """Write the file that `load_extrinsics` reads; `remark` is its first line and names the source of the numbers."""
    xyz, quaternion = T_base_camera[:3, 3], _quaternion(T_base_camera[:3, :3])
    numbers = [[round(float(value), 6) for value in values] for values in (xyz, quaternion)]
    write_whole(path, f"# {remark}\nT_base_camera: {{xyz: {numbers[0]}, quaternion_xyzw: {numbers[1]}}}\n")


def orientation_in_base(T_base_camera: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    """Turn `quaternion` [4] xyzw from the optical frame into the base frame; identity if it has no length."""
    turned = _product(_quaternion(T_base_camera[:3, :3]), np.asarray(quaternion, dtype=np.float64))
    norm = np.linalg.norm(turned)
    return turned / norm if norm > 0 else np.array([0.0, 0.0, 0.0, 1.0])


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """Convert a rotation matrix to xyzw, from the largest of the four components (Shepperd, 1978)."""
    xx, yy, zz = np.diag(rotation)
    squares = np.array([1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz, 1 + xx + yy + zz])
    r = rotation
    x = [squares[0], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[2, 1] - r[1, 2]]
    y = [r[0, 1] + r[1, 0], squares[1], r[1, 2] + r[2, 1], r[0, 2] - r[2, 0]]
    z = [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], squares[2], r[1, 0] - r[0, 1]]
    w = [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], squares[3]]
    best = np.array([x, y, z, w])[int(np.argmax(squares))]
    return best / np.linalg.norm(best)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multiply xyzw quaternions (Hamilton): rotates by b, then by a."""
    x1, y1, z1, w1 = a
    x2, y2, z2, w2 = b
    return np.array(
        [
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
        ]
    )
