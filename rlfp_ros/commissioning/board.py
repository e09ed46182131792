"""Calibrates a camera's intrinsics from a board, and its pose relative to the arm from a board on the tool.

OpenCV 5 has no calibrateHandEye in Python; Park and Martin's closed form is short ("Robot sensor calibration: solving
AX = XB on the Euclidean group", IEEE T-RO 1994). The accuracy comes from the refinement after it, over the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import yaml

from rlfp_ros.files import write_whole
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.schema import ConfigurationError

FEWEST_VIEWS = 6  # fewer views do not determine five lens coefficients, or two poses with six unknowns each
FEWEST_CORNERS = 8  # per view
MAX_RMS_PX = 2.0  # a larger error comes from a mistake: a wrong board, or blurred images
SMALLEST_TURN_RAD = 0.1  # between two views; a smaller rotation is too inaccurate
SMALLEST_SECOND_AXIS = 0.15  # share of the rotation that must be about a second axis
STEP = 1e-6  # step of numerical derivatives, m and rad


@dataclass(frozen=True)
class View:
    """A board in one image."""

    points: np.ndarray  # [N, 3] m, board frame: x right, y down, z into the board
    pixels: np.ndarray  # [N, 2]


@dataclass(frozen=True)
class Board:
    """A printed board. `columns` x `rows` squares of `square` m; a ChArUco board has markers of `marker` m in them."""

    columns: int
    rows: int
    square: float
    marker: float = 0.0  # 0 for a plain checkerboard
    dictionary: str = "DICT_5X5_100"

    def __post_init__(self) -> None:
        if min(self.columns, self.rows) < 3 or max(self.columns, self.rows) > 40:
            raise ConfigurationError(f"--squares is {self.columns}x{self.rows}, expected 3 to 40 squares on each side")
        if not 0 < self.square < 1 or not 0 <= self.marker < self.square:
            raise ConfigurationError(
                f"--square is {self.square:g} m and --marker {self.marker:g} m, expected a square below 1 m and a "
                "marker smaller than it (or none)"
            )
        names = [name for name in dir(cv2.aruco) if name.startswith("DICT_")]
        if self.dictionary not in names:
            raise ConfigurationError(f"--dictionary is {self.dictionary!r}, expected one of: {', '.join(names)}")

    def _charuco(self) -> cv2.aruco.CharucoBoard:
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))
        return cv2.aruco.CharucoBoard((self.columns, self.rows), self.square, self.marker, dictionary)

    def image(self, square_px: int = 100) -> np.ndarray:
        """Draw the board to print, uint8 [H, W], with one square of white around it."""
        if self.marker:
            size = ((self.columns + 2) * square_px, (self.rows + 2) * square_px)
            return np.asarray(self._charuco().generateImage(size, marginSize=square_px))
        y, x = np.mgrid[: self.rows, : self.columns]
        squares = np.where((x + y) % 2, 255, 0).astype(np.uint8)
        return np.pad(np.kron(squares, np.ones((square_px, square_px), np.uint8)), square_px, constant_values=255)

    def find(self, image: np.ndarray) -> View | None:
        """Find the board's inner corners in rgb uint8 [H, W, 3]; None if not found. A checkerboard must be whole."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if self.marker:
            board = self._charuco()
            corners, ids, _, _ = cv2.aruco.CharucoDetector(board).detectBoard(grey)
            if ids is None or len(ids) < FEWEST_CORNERS:
                return None
            points = np.asarray(board.getChessboardCorners())[np.ravel(ids)]
            return View(points.astype(np.float64), np.asarray(corners, dtype=np.float64).reshape(-1, 2))
        inner = (self.columns - 1, self.rows - 1)
        found, corners = cv2.findChessboardCornersSB(grey, inner, flags=cv2.CALIB_CB_ACCURACY)
        if not found:
            return None
        x, y = np.meshgrid(np.arange(inner[0]), np.arange(inner[1]))
        points = self.square * np.stack([x, y, 0 * x], axis=-1).reshape(-1, 3).astype(np.float64)
        return View(points, np.asarray(corners, dtype=np.float64).reshape(-1, 2))


@dataclass(frozen=True)
class CameraCalibration:
    """Intrinsics, and their reprojection error."""

    camera: CameraModel
    rms_px: float
    views: int
    coverage: float  # share of the 8 x 6 cells of the image in which a corner was seen


def calibrate_camera(views: Sequence[View], width: int, height: int) -> CameraCalibration:
    """Find K and the plumb_bob distortion k1 k2 p1 p2 k3 from views of a board.

    Raises ConfigurationError if the views do not determine them.
    """
    if len(views) < FEWEST_VIEWS:
        raise ConfigurationError(
            f"the board was found in {len(views)} images, expected at least {FEWEST_VIEWS}; take more, sharp and "
            "well lit, and compare --squares with the board"
        )
    points = [view.points.astype(np.float32) for view in views]
    pixels = [view.pixels.astype(np.float32).reshape(-1, 1, 2) for view in views]
    rms, K, distortion, _, _ = cv2.calibrateCamera(points, pixels, (width, height), np.eye(3), np.zeros(5))
    cells = np.unique(np.floor(np.concatenate([view.pixels for view in views]) / [width / 8, height / 6]), axis=0)
    _check_rms(float(rms))
    camera = CameraModel(width, height, np.asarray(K), np.ravel(distortion)[:5])
    return CameraCalibration(camera, float(rms), len(views), len(cells) / 48)


def _check_rms(rms: float) -> None:
    if not rms <= MAX_RMS_PX:
        raise ConfigurationError(
            f"the calibration misses the corners by {rms:.2f} px (rms), expected at most {MAX_RMS_PX:g}; compare "
            "--squares, --square and --marker with the printed board, and leave out blurred images"
        )


@dataclass(frozen=True)
class HandEyeCalibration:
    """The camera's pose relative to the arm, and the board's pose on the tool."""

    T_base_camera: np.ndarray  # 4 x 4
    T_tool_board: np.ndarray  # 4 x 4
    rms_px: float
    view_errors_px: tuple[float, ...]  # rms per view


def calibrate_hand_eye(
    views: Sequence[View], T_base_tool: Sequence[np.ndarray], camera: CameraModel
) -> HandEyeCalibration:
    """Calibrate eye to hand: a fixed camera sees a board on the tool at several poses of the tool (4 x 4).

    Raises ConfigurationError if the poses do not determine the camera's.
    """
    if len(views) < FEWEST_VIEWS:
        raise ConfigurationError(
            f"the board was found at {len(views)} postures of the arm, expected at least {FEWEST_VIEWS}; move the arm "
            "to more postures where the camera sees the board, and let it stand a second at each"
        )
    T_camera_board = [_board_pose(view, camera) for view in views]
    X = _park_martin(T_base_tool, T_camera_board)
    # The board on the tool, from the first guess of the camera: the mean over all views, by its rotation's projection.
    guesses = [np.linalg.inv(tool) @ X @ board for tool, board in zip(T_base_tool, T_camera_board, strict=True)]
    Y = np.eye(4)
    Y[:3, :3], Y[:3, 3] = _nearest_rotation(sum(guess[:3, :3] for guess in guesses)), np.mean(guesses, axis=0)[:3, 3]

    def residuals(change: np.ndarray) -> np.ndarray:
        camera_place, board_place = X @ _transform(change[:6]), Y @ _transform(change[6:])
        T_camera_base = np.linalg.inv(camera_place)
        return np.concatenate(
            [
                (camera.project(view.points, T_camera_base @ tool @ board_place) - view.pixels).ravel()
                for view, tool in zip(views, T_base_tool, strict=True)
            ]
        )

    change = least_squares(residuals, np.zeros(12))
    errors = np.split(residuals(change) ** 2, np.cumsum([2 * len(view.pixels) for view in views])[:-1])
    rms = float(np.sqrt(2 * np.mean(np.concatenate(errors))))  # of the distance, both axes together
    _check_rms(rms)
    per_view = tuple(float(np.sqrt(2 * np.mean(error))) for error in errors)
    return HandEyeCalibration(X @ _transform(change[:6]), Y @ _transform(change[6:]), rms, per_view)


def _board_pose(view: View, camera: CameraModel) -> np.ndarray:
    """Return T_camera_board of one view."""
    found, rotation, translation = cv2.solvePnP(
        view.points, camera.rays(view.pixels), np.eye(3), None, flags=cv2.SOLVEPNP_IPPE
    )
    if not found:
        raise ConfigurationError("a view's corners fit no pose of the board; compare --squares with the board")
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = cv2.Rodrigues(rotation)[0], np.ravel(translation)
    return T


def _park_martin(T_base_tool: Sequence[np.ndarray], T_camera_board: Sequence[np.ndarray]) -> np.ndarray:
    """Solve A X = X B for X = T_base_camera over all pairs of views; A is the tool's motion and B the board's."""
    turns_a, turns_b, pairs = [], [], []
    for first in range(len(T_base_tool)):
        for second in range(first + 1, len(T_base_tool)):
            A = T_base_tool[second] @ np.linalg.inv(T_base_tool[first])
            B = T_camera_board[second] @ np.linalg.inv(T_camera_board[first])
            a, b = np.ravel(cv2.Rodrigues(A[:3, :3])[0]), np.ravel(cv2.Rodrigues(B[:3, :3])[0])
            if min(np.linalg.norm(a), np.linalg.norm(b)) > SMALLEST_TURN_RAD and np.linalg.norm(a) < 3.0:
                turns_a.append(a)
                turns_b.append(b)
                pairs.append((A, B))
    strength = np.linalg.svd(np.array(turns_a).reshape(-1, 3), compute_uv=False) if turns_a else np.zeros(3)
    if len(pairs) < 3 or strength[1] < SMALLEST_SECOND_AXIS * strength[0]:
        raise ConfigurationError(
            "the tool hardly turned between the postures, or about one axis only, which does not determine the "
            "camera's place; turn the board by 20 degrees or more about two axes"
        )
    R = _nearest_rotation(np.array(turns_a).T @ np.array(turns_b))  # a = R b
    left = np.concatenate([A[:3, :3] - np.eye(3) for A, _ in pairs])
    right = np.concatenate([R @ B[:3, 3] - A[:3, 3] for A, B in pairs])
    X = np.eye(4)
    X[:3, :3], X[:3, 3] = R, np.linalg.lstsq(left, right, rcond=None)[0]
    return X


def least_squares(residuals: Callable[[np.ndarray], np.ndarray], start: np.ndarray, steps: int = 30) -> np.ndarray:
    """Minimise by Levenberg-Marquardt with numerical derivatives, for a dozen unknowns in m and rad."""
    x, damping = np.array(start, dtype=float), 1e-3
    found = residuals(x)
    for _ in range(steps):
        J = np.stack([(residuals(x + STEP * unit) - found) / STEP for unit in np.eye(len(x))], axis=1)
        H, gradient = J.T @ J, J.T @ found
        while damping < 1e6:
            change = -np.linalg.solve(H + damping * np.diag(np.diag(H) + 1e-12), gradient)
            tried = residuals(x + change)
            if tried @ tried < found @ found:
                x, found, damping = x + change, tried, damping / 5
                break
            damping *= 5
        else:
            return x
        if np.linalg.norm(change) < 1e-9:
            break
    return x


def _transform(change: np.ndarray) -> np.ndarray:
    """Make a 4 x 4 pose of a translation [3] m and a rotation vector [3] rad."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = cv2.Rodrigues(np.asarray(change[3:], dtype=float))[0], change[:3]
    return T


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    U, _, Vt = np.linalg.svd(matrix)
    return np.asarray(U @ np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt)


def write_camera_info(path: Path, found: CameraCalibration, camera_name: str) -> None:
    """Write the calibration file that ROS camera drivers read (camera_calibration_parsers' YAML; `camera_info_url`)."""
    K, D = found.camera.K, found.camera.distortion
    projection = np.hstack([K, np.zeros((3, 1))])

    def matrix(values: np.ndarray) -> dict[str, object]:
        rows, columns = np.atleast_2d(values).shape
        return {"rows": rows, "cols": columns, "data": [float(value) for value in np.ravel(values)]}

    document = {
        "image_width": found.camera.width,
        "image_height": found.camera.height,
        "camera_name": camera_name,
        "camera_matrix": matrix(K),
        "distortion_model": "plumb_bob",
        "distortion_coefficients": matrix(np.zeros(5) if D is None else D),
        "rectification_matrix": matrix(np.eye(3)),
        "projection_matrix": matrix(projection),
    }
    head = f"# {date.today().isoformat()}: {found.views} views, rms {found.rms_px:.3f} px\n"
    write_whole(path, head + yaml.safe_dump(document, sort_keys=False, default_flow_style=None))
