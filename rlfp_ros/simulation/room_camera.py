"""The camera of a room: MuJoCo's renderer, a calibrated lens, and a sensor model.

Nothing is shared with `simulation.camera`, so that the twin's images differ too: other sampling, a plumb-bob lens,
photon noise, vignetting, and an exposure loop that follows the scene.
"""

from __future__ import annotations

import os

import cv2
import numpy as np

from rlfp_ros.contract import CameraContract
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.mujoco_headless import PACKAGES, mujoco
from rlfp_ros.simulation.randomization import Sample, stream
from rlfp_ros.simulation.room import RoomCamera

EXPOSURE_TARGET = 0.45  # mean of the image as a share of full scale
EXPOSURE_FOLLOWS = 0.08  # share of its error that automatic exposure corrects per frame
EXPOSURE_GAIN = (0.3, 6.0)  # range of automatic exposure
GL_FROM_OPTICAL = np.diag([1.0, -1.0, -1.0])  # OpenGL looks along -z with y up


class RoomLens:
    """Maps each pixel of the distorted image to the ideal image that the renderer draws."""

    def __init__(self, camera: CameraModel) -> None:
        width, height, focal = camera.width, camera.height, float(camera.K[0, 0])
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
        rays = camera.rays(grid).reshape(height, width, 2)
        # Barrel distortion needs pixels beyond the ideal image's border, so the renderer draws a larger image.
        reach = np.abs(rays).max(axis=(0, 1)) * 1.02
        self.render_width = int(np.ceil(2 * focal * reach[0]))
        self.render_height = int(np.ceil(2 * focal * reach[1]))
        centre = np.array([(self.render_width - 1) / 2, (self.render_height - 1) / 2])
        ideal = (rays * focal + centre).astype(np.float32)
        self._maps = cv2.convertMaps(ideal[..., 0], ideal[..., 1], cv2.CV_16SC2)
        self.render_fov_deg = float(np.degrees(2 * np.arctan(0.5 * self.render_height / focal)))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the distorted image uint8 [H, W, 3] of an ideal one [render_height, render_width, 3]."""
        rows, columns = self._maps
        return np.asarray(cv2.remap(image, rows, columns, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def room_camera(settings: RoomCamera) -> CameraModel:
    """Return the calibrated camera of a room."""
    width, height = settings.width, settings.height
    focal = 0.5 * height / np.tan(np.radians(settings.field_of_view_deg) / 2)
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    return CameraModel(width, height, K, np.array(settings.distortion))


class RoomElectronics:
    """Sensor and encoder of one episode."""

    def __init__(self, camera: RoomCamera, sample: Sample) -> None:
        self._rng = stream(sample.seed, "room camera noise")
        self._gains = 2.0 ** sample["exposure"] * np.asarray(sample["white_balance"])
        self._gamma, self._blur = sample["gamma"], sample["blur"]
        self._read_noise, self._shot_noise = sample["read_noise"], sample["shot_noise"]
        self._quality = camera.jpeg_quality
        self._exposure: float | None = None
        y, x = np.mgrid[-1 : 1 : camera.height * 1j, -1 : 1 : camera.width * 1j]
        self._vignette = (1 - camera.vignetting * (x**2 + y**2) / 2)[..., None].astype(np.float32)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        light = image.astype(np.float32) / 255 * self._vignette
        wanted = float(np.clip(EXPOSURE_TARGET / max(float(light.mean()), 1e-3), *EXPOSURE_GAIN))
        last = wanted if self._exposure is None else self._exposure
        self._exposure = last + EXPOSURE_FOLLOWS * (wanted - last)
        light *= (self._exposure * self._gains).astype(np.float32)
        if self._blur > 0.1:
            light = cv2.GaussianBlur(light, (0, 0), self._blur)
        np.clip(light, 0, 1, out=light)
        spread = np.sqrt(self._read_noise**2 + self._shot_noise**2 * light) / 255
        light += spread * self._rng.standard_normal(light.shape, dtype=np.float32)
        np.clip(light, 0, 1, out=light)
        counts = (255 * light**self._gamma).astype(np.uint8)
        if self._quality < 100:
            encoded = cv2.imencode(".jpg", counts, [cv2.IMWRITE_JPEG_QUALITY, self._quality])[1]
            counts = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
        return counts


class MujocoCamera:
    """Takes images of a MuJoCo world.

    `contract` is the bundle's camera, `live` the camera of the arm's cell, by default the room's, and the attribute
    `model` is this camera as its camera_info describes it.
    """

    NAME = "room_camera"

    def __init__(
        self,
        contract: CameraContract,
        settings: RoomCamera,
        model: mujoco.MjModel,
        live: CameraModel | None = None,
    ) -> None:
        self.contract = contract
        self.model = live or room_camera(settings)
        self._settings = settings.model_copy(update={"width": self.model.width, "height": self.model.height})
        self.lens = RoomLens(self.model)
        self._mujoco, self._id = model, model.camera(self.NAME).id
        try:
            self._renderer = mujoco.Renderer(model, self.lens.render_height, self.lens.render_width)
        except Exception as error:  # PyOpenGL and MuJoCo raise various classes
            raise ConfigurationError(
                f"MuJoCo cannot draw with MUJOCO_GL={os.environ['MUJOCO_GL']} ({type(error).__name__}: {error}); "
                f"run: apt-get install {PACKAGES}"
            ) from None

    def reset(self, sample: Sample) -> None:
        """Apply the pose of this episode."""
        moved, rng = self._settings.moved, stream(sample.seed, "room camera place")
        T = self.contract.T_base_camera.matrix().copy()
        T[:3, 3] += np.asarray(moved.xyz) + rng.uniform(-moved.spread_m, moved.spread_m, 3)
        turn = np.radians(np.asarray(moved.rotation_deg) + rng.uniform(-moved.spread_deg, moved.spread_deg, 3))
        T[:3, :3] = T[:3, :3] @ cv2.Rodrigues(turn)[0]
        self.T_base_camera = T
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, (T[:3, :3] @ GL_FROM_OPTICAL).ravel())
        self._mujoco.cam_pos[self._id], self._mujoco.cam_quat[self._id] = T[:3, 3], quaternion
        self._mujoco.cam_fovy[self._id] = self.lens.render_fov_deg
        self._electronics = RoomElectronics(self._settings, sample)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return the pixels [N, 2] at which points [N, 3] m of the base frame appear in this episode's image."""
        return self.model.project(np.asarray(points, np.float64), np.linalg.inv(self.T_base_camera))

    def expose(self, data: mujoco.MjData) -> np.ndarray:
        """Return an image of the present state, uint8 [H, W, 3] rgb."""
        mujoco.mj_camlight(self._mujoco, data)
        self._renderer.update_scene(data, self._id)
        return self._electronics(self.lens(self._renderer.render()))

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()
