"""Converts a live camera's image to the image that the encoder was trained on.

Every caller (training's own evaluation, the simulator, bag replay, the live node) goes through `Preprocessor`, so that
the network sees the same pixels everywhere. There are three cases, decided once per camera:

- if the camera is the bundle's, the image is not changed;
- if it has the bundle's field of view at another resolution, the image is resized by area;
- in all other cases (focal length, aspect ratio, principal point, lens), one `cv2.remap` removes the lens and
  re-projects the image into the bundle's pinhole camera, oversampled and then averaged by area, so that a 640 x 480
  camera does not alias in an 84 x 84 image.

Pixel centres are at integer coordinates (OpenCV's convention).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from rlfp_ros.contract import Contract
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.schema import ConfigurationError

SAME_CAMERA_PX = 0.05  # a camera whose pixels are this close to those of a plain resize is not re-projected
BORDER_PX = 0.5  # how far the bundle's image may extend beyond the live image, whose border pixels are repeated there
AZIMUTHS, RADII = 8, 100  # directions and distances at which a lens polynomial is checked for folding back
COARSEST = 0.5  # live pixels per bundle pixel; a coarser image does not show enough

Transform = Callable[[np.ndarray], np.ndarray]


class Preprocessor:
    """Computes the encoder's input from live images. Caches the transform for one camera."""

    def __init__(self, contract: Contract) -> None:
        if contract.image.stack != 1:
            raise ConfigurationError(
                f"bundle.yaml: image.stack is {contract.image.stack}, expected 1; "
                "stack features with policy.feature_stack instead"
            )
        self._camera = contract.camera
        self._grid = _pixel_grid(self._camera.width, self._camera.height, 1)
        self._own_K = self._camera.intrinsics.matrix()
        self._live: CameraModel | None = None
        self._transform: Transform = _unchanged
        self.description = ""  # of the plan in use, for a log line

    def __call__(self, image: np.ndarray, camera: CameraModel | None = None, source: str = "camera") -> np.ndarray:
        """Make the encoder's input from a live image.

        Parameters
        ----------
        image
            uint8 [H, W, 3], rgb.
        camera
            The camera that took it. None means the bundle's field of view, at any resolution of its aspect ratio.
        source
            What to name in an error: a topic or a file.

        Returns
        -------
        numpy.ndarray
            uint8 [h, w, 3], in the bundle's size. It may share memory with `image`.

        Raises
        ------
        ConfigurationError
            If the camera does not cover the bundle's field of view, or the image does not have the camera's size.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ConfigurationError(
                f"{source}: image is {image.dtype} {list(image.shape)}, expected uint8 [H, W, 3] rgb"
            )
        height, width = image.shape[:2]
        if camera is None:
            camera = self._like_own(width, height, source)
        elif (width, height) != (camera.width, camera.height):
            raise ConfigurationError(
                f"{source}: image is {width} x {height}, but camera_info says {camera.width} x {camera.height}; let "
                "the driver publish both for the same size"
            )
        self.use_camera(camera, source)
        return self._transform(image)

    def use_camera(self, camera: CameraModel, source: str = "camera_info") -> None:
        """Prepare the transform for a camera.

        Raises ConfigurationError, naming `source`, if the camera does not cover the bundle's field of view.
        """
        if self._live is not None and self._live.same(camera):
            return
        transform, description = self.plan(camera, source)
        self._live, self._transform, self.description = camera, transform, description

    def _like_own(self, width: int, height: int, source: str) -> CameraModel:
        """Return the bundle's camera with images of another resolution."""
        own = self._camera
        if abs(width * own.height - height * own.width) > max(own.width, own.height):
            raise ConfigurationError(
                f"{source}: image is {width} x {height} px, but the bundle's camera is {own.width} x {own.height}, "
                "another aspect ratio; give the camera's intrinsics (camera_info)"
            )
        return CameraModel(width, height, scaled_intrinsics(self._own_K, width / own.width, height / own.height))

    def plan(self, live: CameraModel, source: str) -> tuple[Transform, str]:
        """Return how images of `live` become images of the bundle's camera, and a description of it."""
        own = self._camera
        live_pixels = self._project(self._grid, live, source)
        self._check_coverage(live_pixels, live, source)
        scale = np.array([live.width / own.width, live.height / own.height])
        resized = (self._grid + 0.5) * scale - 0.5
        sizes = f"{live.width} x {live.height} -> {own.width} x {own.height}"
        if np.max(np.abs(live_pixels - resized) / scale) <= SAME_CAMERA_PX:
            if (live.width, live.height) == (own.width, own.height):
                return _unchanged, f"{sizes}, unchanged"
            method = cv2.INTER_AREA if scale.min() >= 1 else cv2.INTER_LINEAR
            return (
                lambda image: cv2.resize(image, (own.width, own.height), interpolation=method),
                f"{sizes}, resized by area",
            )
        # A bilinear sample covers two live pixels, so half as many samples as live pixels leave none out.
        density = max(live.K[0, 0] / self._own_K[0, 0], live.K[1, 1] / self._own_K[1, 1])
        samples = max(1, math.ceil(density / 2))
        fine = self._project(_pixel_grid(own.width, own.height, samples), live, source).astype(np.float32)
        maps = cv2.convertMaps(fine[..., 0], fine[..., 1], cv2.CV_16SC2)

        def reproject(image: np.ndarray) -> np.ndarray:
            oversampled = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            if samples == 1:
                return oversampled
            return cv2.resize(oversampled, (own.width, own.height), interpolation=cv2.INTER_AREA)

        lens = f"{live.lens.value} lens removed and " if live.bends_lines else ""
        return reproject, f"{sizes}, {lens}re-projected with {samples} x {samples} samples per pixel"

    def _project(self, grid: np.ndarray, live: CameraModel, source: str) -> np.ndarray:
        """Find the bundle's pixels `grid` [h, w, 2] in the live image, px."""
        own = self._own_K
        rays = np.ones((*grid.shape[:2], 3))
        rays[..., 0] = (grid[..., 0] - own[0, 2]) / own[0, 0]
        rays[..., 1] = (grid[..., 1] - own[1, 2]) / own[1, 1]
        if live.distortion is not None:
            _check_unfolded(rays, live, source)
        return live.project(rays.reshape(-1, 3)).reshape(*grid.shape[:2], 2)

    def _check_coverage(self, live_pixels: np.ndarray, live: CameraModel, source: str) -> None:
        own = self._camera
        last = np.array([live.width - 1, live.height - 1])
        margin = BORDER_PX * np.maximum(1.0, np.array([live.width / own.width, live.height / own.height])) + 0.5
        covered = np.all((live_pixels >= -margin) & (live_pixels <= last + margin), axis=-1)
        if not np.all(covered):
            found = live.field_of_view()
            wanted = CameraModel(own.width, own.height, self._own_K).field_of_view()
            raise ConfigurationError(
                f"{source}: the camera ({live.width} x {live.height}, {found[0]:.0f} x {found[1]:.0f} degrees) sees "
                f"{covered.mean():.0%} of the bundle's image, expected all of its {wanted[0]:.0f} x {wanted[1]:.0f} "
                "degrees; use a wider lens or another image size, or train for this camera"
            )
        coarseness = min(live.K[0, 0] / self._own_K[0, 0], live.K[1, 1] / self._own_K[1, 1])
        if coarseness < COARSEST:
            raise ConfigurationError(
                f"{source}: the camera ({live.width} x {live.height}) has {coarseness:.2f} pixels per pixel of "
                f"the bundle's {own.width} x {own.height}, expected at least {COARSEST:g}; set a larger image size"
            )


def scaled_intrinsics(K: np.ndarray, x: float, y: float) -> np.ndarray:
    """Return K [3, 3] of the same camera with its image resized by `x` and `y`."""
    scaled = np.array(K, dtype=np.float64)
    scaled[0, 0] *= x
    scaled[1, 1] *= y
    scaled[0, 2] = (scaled[0, 2] + 0.5) * x - 0.5
    scaled[1, 2] = (scaled[1, 2] + 0.5) * y - 0.5
    return scaled


def _pixel_grid(width: int, height: int, samples: int) -> np.ndarray:
    """Return coordinates [h * samples, w * samples, 2] of `samples` x `samples` evenly spaced points per pixel."""
    x = (np.arange(width * samples) + 0.5) / samples - 0.5
    y = (np.arange(height * samples) + 0.5) / samples - 0.5
    return np.stack(np.meshgrid(x, y), axis=-1)


def _check_unfolded(rays: np.ndarray, live: CameraModel, source: str) -> None:
    """Raise ConfigurationError if the lens polynomial folds back; it is valid only inside the calibrated image."""
    farthest = float(np.max(np.linalg.norm(rays[..., :2], axis=-1)))
    angles, radii = np.linspace(0, 2 * np.pi, AZIMUTHS, endpoint=False), np.linspace(0.0, farthest, RADII)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    lines = np.ones((AZIMUTHS, RADII, 3))
    lines[..., :2] = directions[:, None] * radii[:, None]
    plane = replace(live, K=np.eye(3)).project(lines.reshape(-1, 3)).reshape(AZIMUTHS, RADII, 2)
    if np.any(np.sum(np.diff(plane, axis=1) * directions[:, None], axis=-1) <= 0):
        assert live.distortion is not None
        raise ConfigurationError(
            f"{source}: distortion {np.round(live.distortion, 4).tolist()} ({live.lens.value}) is not usable up to "
            f"{math.degrees(math.atan(farthest)):.0f} degrees off axis, which the bundle's image needs; "
            "calibrate again with the board near the corners, or use a lens with less distortion"
        )


def _unchanged(image: np.ndarray) -> np.ndarray:
    return image
