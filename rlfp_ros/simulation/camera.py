"""The simulated camera: TinyRenderer's image, then the effects of a lens and a sensor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np

from rlfp_ros.contract import CameraContract
from rlfp_ros.simulation.randomization import Sample, stream

NEAR, FAR = 0.05, 4.0  # m, clipping planes
METERED_LEVEL = 120  # mean image value (0..255) that automatic exposure aims at
CULLING_MARGIN = 0.01  # m; more than a link moves in a tick
NOISE_POOL = 4  # size of the noise pool in images
AUTOMATIC_GAIN = (0.5, 4.0)  # range of automatic exposure
GL_FROM_OPTICAL = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL looks along -z with y up


@dataclass(frozen=True)
class Frame:
    """One image. `stamp_ns` is the time of exposure."""

    stamp_ns: int
    image: np.ndarray  # uint8 [H, W, 3] rgb


class Camera:
    """A camera whose pose deviates slightly from the contract's, differently in every episode."""

    def __init__(self, contract: CameraContract) -> None:
        self.contract = contract
        self._rays = self._normalised_grid()

    def reset(self, sample: Sample, background: np.ndarray) -> None:
        """Apply an episode's pose, lens, light and electronics.

        `background`, uint8 [H, W, 3], appears behind all bodies. It is cheaper than walls and can be any image.
        """
        contract = self.contract
        self.T_base_camera = contract.T_base_camera.matrix() @ np.eye(4)
        self.T_base_camera[:3, 3] += sample["camera_position"]
        self.T_base_camera[:3, :3] = self.T_base_camera[:3, :3] @ cv2.Rodrigues(np.asarray(sample["camera_angle"]))[0]
        nominal_fov = 2 * np.degrees(np.arctan(contract.height / 2 / contract.intrinsics.fy))
        fov = nominal_fov + sample["field_of_view"]
        self.focal = 0.5 * contract.height / np.tan(np.radians(fov) / 2)  # px
        self.distortion = sample["lens_distortion"]
        self._frustum = self._frustum_planes()
        self._view = (GL_FROM_OPTICAL @ np.linalg.inv(self.T_base_camera)).T.ravel().tolist()
        self._projection = self._projection_matrix(fov)
        light = self._light_arguments(sample)
        opposite = np.radians(sample["fill_azimuth"])
        self._lights = [light, light | {"lightDirection": [np.cos(opposite), np.sin(opposite), 1.0]}]
        rng = stream(sample.seed, "lamps")
        for _ in range(int(sample["lamps"])):
            azimuth, height = rng.uniform(-np.pi, np.pi), rng.uniform(0.3, 2.0)
            colour = (np.asarray(sample["light_colour"]) * rng.uniform(0.5, 1.0, 3)).tolist()
            direction = [np.cos(azimuth), np.sin(azimuth), height]
            self._lights.append(light | {"lightDirection": direction, "lightColor": colour})
        self._fill_weight = sample["fill_light"]
        plain = np.ones(background.shape[:2], np.float32)
        self._backdrops = [(background, plain)] * len(self._lights)  # image per light behind moving bodies, and depth
        self.electronics = Electronics(sample, contract)
        self._remap = None
        if self.distortion:
            # The ideal pixel of each distorted pixel: the inverse of x_d = x (1 + k r^2) to first order.
            scale = 1 - self.distortion * np.sum(self._rays**2, axis=-1, keepdims=True)
            ideal = (self._rays * scale * self.focal + self._centre()).astype(np.float32)
            self._remap = cv2.convertMaps(ideal[..., 0], ideal[..., 1], cv2.CV_16SC2)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return the pixels [N, 2] at which points [N, 3] m of the base frame appear in this episode's image."""
        T_camera_base = np.linalg.inv(self.T_base_camera)
        optical = points @ T_camera_base[:3, :3].T + T_camera_base[:3, 3]
        plane = optical[:, :2] / optical[:, 2:]
        plane = plane * (1 + self.distortion * np.sum(plane**2, axis=-1, keepdims=True))
        return plane * self.focal + self._centre()

    def render(self, client: Any) -> np.ndarray:
        """Return the ideal image through the lens, uint8 [H, W, 3]; `expose` adds the electronics."""
        image, _ = self._lit(client, 0)
        if self._fill_weight > 0:
            image = cv2.addWeighted(image, 1 - self._fill_weight, self._lit(client, 1)[0], self._fill_weight, 0)
        for lamp in range(2, len(self._lights)):
            image = cv2.addWeighted(image, 1 - 1 / lamp, self._lit(client, lamp)[0], 1 / lamp, 0)
        if self._remap is not None:
            rows, columns = self._remap
            image = cv2.remap(image, rows, columns, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return image

    @property
    def casts_shadows(self) -> bool:
        """Whether this episode has shadows, so that all bodies must be drawn together."""
        return bool(self._lights[0]["shadow"])

    def keep(self, client: Any) -> None:
        """Use the present view as the backdrop of all images until the next `reset`. Not possible with shadows."""
        for light in range(len(self._lights)):
            if light != 1 or self._fill_weight > 0:
                self._backdrops[light] = self._lit(client, light)

    def sees(self, boxes: np.ndarray) -> list[bool]:
        """Return which boxes, [N, 2, 3] lowest and highest corner in m, base frame, may be in the image.

        No visible box is missed; a few invisible ones are included.
        """
        normals, offsets = self._frustum
        lower, upper = boxes[:, 0], boxes[:, 1]
        outermost = np.maximum(normals, 0.0), np.minimum(normals, 0.0)
        inside = upper.dot(outermost[0]) + lower.dot(outermost[1]) + offsets >= -CULLING_MARGIN
        return np.logical_and.reduce(inside, axis=1).tolist()

    def _lit(self, client: Any, light: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the undistorted image under one light, uint8 [H, W, 3], and its depth [H, W], 0 near, 1 far."""
        width, height = self.contract.width, self.contract.height
        _, _, pixels, depth, _ = client.getCameraImage(
            width,
            height,
            self._view,
            self._projection,
            renderer=client.ER_TINY_RENDERER,
            flags=client.ER_NO_SEGMENTATION_MASK,
            **self._lights[light],
        )
        backdrop, backdrop_depth = self._backdrops[light]
        nearer = depth < backdrop_depth
        image = cv2.copyTo(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), nearer.view(np.uint8), backdrop.copy())
        self._depth = np.minimum(depth, backdrop_depth)
        return image, self._depth

    def depth(self) -> np.ndarray:
        """Return the depth of the last `render` along the optical axis, float32 [H, W] m; FAR without a body."""
        metres = FAR * NEAR / (FAR - (FAR - NEAR) * self._depth.astype(np.float32))
        if self._remap is not None:
            rows, columns = self._remap
            metres = cv2.remap(metres, rows, columns, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        return metres

    def expose(self, image: np.ndarray) -> np.ndarray:
        """Apply the sensor to an image: exposure, white balance, gamma, blur, noise, JPEG."""
        return self.electronics(image)

    def skip(self) -> None:
        """Leave an image out; the next ones are as if it had been taken."""
        self.electronics.skip()

    def _centre(self) -> np.ndarray:
        return np.array([self.contract.intrinsics.cx, self.contract.intrinsics.cy])

    def _normalised_grid(self) -> np.ndarray:
        intrinsics = self.contract.intrinsics
        y, x = np.mgrid[: self.contract.height, : self.contract.width]
        return np.stack([(x - intrinsics.cx) / intrinsics.fx, (y - intrinsics.cy) / intrinsics.fy], axis=-1)

    def _frustum_planes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return unit normals [3, 4] and offsets [4] of the planes that bound the view, inwards, base frame."""
        contract = self.contract
        left, top = (self._centre() + 0.5) / self.focal
        right, bottom = (np.array([contract.width, contract.height]) - 0.5 - self._centre()) / self.focal
        normals = np.array([[1, 0, left], [-1, 0, right], [0, 1, top], [0, -1, bottom]])
        normals = self.T_base_camera[:3, :3] @ (normals / np.linalg.norm(normals, axis=1, keepdims=True)).T
        return normals, -self.T_base_camera[:3, 3] @ normals

    def _projection_matrix(self, fov_deg: float) -> list[float]:
        """Return OpenGL's projection, column by column; the principal point may lie beside the image's middle."""
        width, height = self.contract.width, self.contract.height
        f = 1 / np.tan(np.radians(fov_deg) / 2)
        cx, cy = self._centre()
        matrix = np.zeros((4, 4))
        matrix[0, 0], matrix[1, 1], matrix[3, 2] = f / (width / height), f, -1
        matrix[0, 2], matrix[1, 2] = (width - 1 - 2 * cx) / width, (2 * cy + 1 - height) / height
        matrix[2, 2], matrix[2, 3] = (FAR + NEAR) / (NEAR - FAR), 2 * FAR * NEAR / (NEAR - FAR)
        return list(matrix.T.ravel())

    @staticmethod
    def _light_arguments(sample: Sample) -> dict[str, Any]:
        # Give every argument every time, because TinyRenderer keeps the last value of an argument that is left out.
        azimuth, elevation = np.radians(sample["light_azimuth"]), np.radians(sample["light_elevation"])
        direction = [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
        return {
            "lightDirection": direction,
            "lightColor": sample["light_colour"],
            "lightDistance": 2.0,
            "shadow": int(stream(sample.seed, "shadow").uniform() < sample["shadows"]),
            "lightAmbientCoeff": sample["ambient"],
            "lightDiffuseCoeff": sample["diffuse"],
            "lightSpecularCoeff": sample["specular"],
        }


@cache
def _noise_pool(count: int) -> np.ndarray:
    """Return standard normal numbers for images of `count` values, the same in every process.

    Drawing new numbers for each image would take two thirds of its processing time after rendering.
    """
    return np.random.default_rng(count).standard_normal(NOISE_POOL * count, dtype=np.float32)


class Electronics:
    """Sensor and image encoder of one episode. The noise differs in every frame.

    Exposure is automatic, as in common cameras: it settles on the first image of an episode, with an error of some
    stops.
    """

    def __init__(self, sample: Sample, contract: CameraContract) -> None:
        self._rng = stream(sample.seed, "camera")
        self._gain = 2.0 ** sample["exposure"] * np.asarray(sample["white_balance"])
        self._gamma = sample["gamma"]
        self._lookup: np.ndarray | None = None
        self._brightness = 1 - sample["low_light"]
        self._blur, self._noise = sample["blur"], sample["noise"] / self._brightness
        self._quality = int(sample["jpeg_quality"])
        values = 3 * contract.width * contract.height
        self._noise_places = (NOISE_POOL - 1) * values  # in the pool, at which the noise of an image may begin
        self._glare = None
        if sample["glare"] > 0:
            centre = self._rng.uniform(0, 1, 2) * (contract.width, contract.height)
            radius = self._rng.uniform(0.05, 0.4) * contract.width
            y, x = np.mgrid[: contract.height, : contract.width]
            spot = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * radius**2))
            self._glare = np.repeat((255 * sample["glare"] * spot)[..., None], 3, axis=-1).astype(np.uint8)

    def skip(self) -> None:
        """Leave an image out; the next ones are as if it had been taken."""
        if self._noise > 0:
            self._rng.integers(self._noise_places)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if self._glare is not None:
            image = cv2.add(image, self._glare)
        if self._brightness < 1:
            image = cv2.convertScaleAbs(image, alpha=self._brightness)
        if self._lookup is None:
            automatic = np.clip(METERED_LEVEL / max(float(image.mean()), 1.0), *AUTOMATIC_GAIN)
            levels = np.arange(256)[:, None] / 255 * self._gain * automatic
            self._lookup = (255 * np.clip(levels, 0, 1) ** self._gamma).astype(np.uint8)[None]
        image = cv2.LUT(image, self._lookup)
        if self._blur > 0.1:
            image = cv2.GaussianBlur(image, (0, 0), self._blur)
        if self._noise > 0:
            pool = _noise_pool(image.size)
            start = int(self._rng.integers(self._noise_places))
            noise = self._noise * pool[start : start + image.size].reshape(image.shape)
            noise += image
            image = np.clip(noise, 0, 255, out=noise).astype(np.uint8)
        if self._quality < 100:
            encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self._quality])[1]
            return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
        return image
