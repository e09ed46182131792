"""From the live camera's picture to the picture that the encoder was trained on.

Every caller (training's own evaluation, the simulator, bag replay, the live node) goes through `Preprocessor`, so that
the network sees the same pixels everywhere. Three cases, decided once for each camera and then kept:

- the picture is the bundle's already: it passes through untouched;
- the camera sees the bundle's field of view at another resolution: area resize;
- anything else (other focal length, aspect ratio, principal point, lens distortion): one `cv2.remap` undistorts and
  re-projects it into the bundle's pinhole camera, oversampled and then averaged by area, so that a 640 x 480 camera
  does not alias in an 84 x 84 picture.

Pixel centres are at integer coordinates (OpenCV's convention).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from rlfp_ros.contract import Contract
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.schema import ConfigurationError

# A camera whose pixels fall this near to where a plain resize puts them is not worth a re-projection.
SAME_CAMERA_PX = 0.05
# How far beyond the live picture's border the bundle's may look; the border pixels are repeated there.
BORDER_PX = 0.5
COARSEST = 0.5  # live pixels for each bundle pixel below which a picture is too coarse to be of use

Transform = Callable[[np.ndarray], np.ndarray]


class Preprocessor:
    """The encoder's input from a live picture. Keeps the plan for one camera; another camera makes a new plan."""

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

    def __call__(
        self, image: np.ndarray, K: np.ndarray | None = None, distortion: np.ndarray | None = None
    ) -> np.ndarray:
        """uint8 [h, w, 3] for the encoder from rgb uint8 [H, W, 3] of a camera with `K` [3, 3] px and `distortion` [n].

        `K` None means the bundle's field of view, at any resolution of its aspect ratio. The result may share memory
        with `image`. Raises ConfigurationError where the camera cannot serve.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ConfigurationError(f"image is {image.dtype} {list(image.shape)}, expected uint8 [H, W, 3] rgb")
        height, width = image.shape[:2]
        if K is None:
            K = scaled_intrinsics(self._own_K, width / self._camera.width, height / self._camera.height)
            if abs(width * self._camera.height - height * self._camera.width) > max(
                self._camera.width, self._camera.height
            ):
                raise ConfigurationError(
                    f"image is {width} x {height} px, but the bundle's camera is {self._camera.width} x "
                    f"{self._camera.height}, another aspect ratio; give the camera's intrinsics (camera_info)"
                )
        self.use(CameraModel(width, height, K, distortion))
        return self._transform(image)

    def use(self, live: CameraModel, source: str = "camera_info") -> None:
        """Plan for this camera. Raises ConfigurationError, naming `source`, where it cannot see what is needed."""
        if self._live is not None and self._live.same(live):
            return
        transform, description = self._plan(live, source)
        self._live, self._transform, self.description = live, transform, description

    def _plan(self, live: CameraModel, source: str) -> tuple[Transform, str]:
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
        # Bilinear sampling reaches over two live pixels, so half as many samples as live pixels leave none out.
        density = max(live.K[0, 0] / self._own_K[0, 0], live.K[1, 1] / self._own_K[1, 1])
        samples = max(1, math.ceil(density / 2))
        fine = self._project(_pixel_grid(own.width, own.height, samples), live, source).astype(np.float32)
        maps = cv2.convertMaps(fine[..., 0], fine[..., 1], cv2.CV_16SC2)

        def reproject(image: np.ndarray) -> np.ndarray:
            oversampled = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            if samples == 1:
                return oversampled
            return cv2.resize(oversampled, (own.width, own.height), interpolation=cv2.INTER_AREA)

        lens = "undistorted and " if live.distortion is not None else ""
        return reproject, f"{sizes}, {lens}re-projected with {samples} x {samples} samples a pixel"

    def _project(self, grid: np.ndarray, live: CameraModel, source: str) -> np.ndarray:
        """Where the bundle's pixels `grid` [h, w, 2] lie in the live picture, px."""
        own = self._own_K
        rays = np.ones((*grid.shape[:2], 3))
        rays[..., 0] = (grid[..., 0] - own[0, 2]) / own[0, 0]
        rays[..., 1] = (grid[..., 1] - own[1, 2]) / own[1, 1]
        if live.distortion is not None:
            self._check_unfolded(rays, live.distortion, source)
        pixels, _ = cv2.projectPoints(rays.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), live.K, live.distortion)
        return np.asarray(pixels).reshape(*grid.shape[:2], 2)

    def _check_unfolded(self, rays: np.ndarray, distortion: np.ndarray, source: str) -> None:
        """A distortion polynomial holds inside the calibrated picture; far outside, it turns back on itself."""
        farthest = float(np.max(np.linalg.norm(rays[..., :2], axis=-1)))
        radii = np.linspace(0.0, farthest, 100)
        line = np.stack([radii, np.zeros_like(radii), np.ones_like(radii)], axis=-1).reshape(-1, 1, 3)
        radial = np.array(distortion, dtype=np.float64)
        radial[2:4] = 0.0  # tangential terms only shift
        distorted, _ = cv2.projectPoints(line, np.zeros(3), np.zeros(3), np.eye(3), radial)
        if np.any(np.diff(distorted.reshape(-1, 2)[:, 0]) <= 0):
            raise ConfigurationError(
                f"{source}: distortion {np.round(distortion, 4).tolist()} is not usable up to "
                f"{math.degrees(math.atan(farthest)):.0f} degrees off axis, which the bundle's picture needs; "
                "calibrate again with the board near the corners, or use a lens with less distortion"
            )

    def _check_coverage(self, live_pixels: np.ndarray, live: CameraModel, source: str) -> None:
        own = self._camera
        last = np.array([live.width - 1, live.height - 1])
        margin = BORDER_PX * np.maximum(1.0, np.array([live.width / own.width, live.height / own.height])) + 0.5
        covered = np.all((live_pixels >= -margin) & (live_pixels <= last + margin), axis=-1)
        if not np.all(covered):
            found = _field_of_view(live.K, live.width, live.height)
            wanted = _field_of_view(self._own_K, own.width, own.height)
            raise ConfigurationError(
                f"{source}: the camera ({live.width} x {live.height}, {found[0]:.0f} x {found[1]:.0f} degrees) sees "
                f"{covered.mean():.0%} of the bundle's picture, expected all of its {wanted[0]:.0f} x {wanted[1]:.0f} "
                "degrees; use a wider lens or another image size, or train for this camera"
            )
        coarseness = min(live.K[0, 0] / self._own_K[0, 0], live.K[1, 1] / self._own_K[1, 1])
        if coarseness < COARSEST:
            raise ConfigurationError(
                f"{source}: the camera ({live.width} x {live.height}) has {coarseness:.2f} pixels for each one of "
                f"the bundle's {own.width} x {own.height}, expected at least {COARSEST:g}; set a larger image size"
            )


def scaled_intrinsics(K: np.ndarray, x: float, y: float) -> np.ndarray:
    """K [3, 3] of the same camera with its picture resized by `x` and `y`."""
    scaled = np.array(K, dtype=np.float64)
    scaled[0, 0] *= x
    scaled[1, 1] *= y
    scaled[0, 2] = (scaled[0, 2] + 0.5) * x - 0.5
    scaled[1, 2] = (scaled[1, 2] + 0.5) * y - 0.5
    return scaled


def _pixel_grid(width: int, height: int, samples: int) -> np.ndarray:
    """Coordinates [h * samples, w * samples, 2] of `samples` x `samples` points spread evenly in every pixel."""
    x = (np.arange(width * samples) + 0.5) / samples - 0.5
    y = (np.arange(height * samples) + 0.5) / samples - 0.5
    return np.stack(np.meshgrid(x, y), axis=-1)


def _field_of_view(K: np.ndarray, width: int, height: int) -> tuple[float, float]:
    return (
        math.degrees(2 * math.atan(width / 2 / K[0, 0])),
        math.degrees(2 * math.atan(height / 2 / K[1, 1])),
    )


def _unchanged(image: np.ndarray) -> np.ndarray:
    return image
