"""Draws the arm from any camera, for overlays on live images, with PyBullet's software renderer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.bullet import connect
from rlfp_ros.simulation.camera import GL_FROM_OPTICAL
from rlfp_ros.simulation.urdf import load_arm_body

NEAR, FAR = 0.05, 5.0  # m, clipping planes


@dataclass(frozen=True)
class Rendering:
    """One image of the arm alone."""

    image: np.ndarray  # uint8 [H, W, 3] rgb
    depth: np.ndarray  # [H, W] m along the optical axis; inf beside the arm
    mask: np.ndarray  # bool [H, W], true on the arm


class ArmRenderer:
    """Draws one arm in any posture. `close()` frees the physics server."""

    def __init__(self, arm: Arm, meshes: Literal["visual", "collision"] = "visual") -> None:
        """`meshes`: "visual" is the arm's real appearance, "collision" is what both simulators draw."""
        self._client = connect()
        shown = arm.model_copy(update={"visuals": "visual"}) if meshes == "visual" else arm
        try:
            loaded = load_arm_body(self._client, shown)
        except ConfigurationError:
            self._client.disconnect()
            raise
        self._body = loaded.body
        self._joints = [loaded.joints[name] for name in arm.joint_names]
        self._gripper = arm.gripper
        self._fingers = [loaded.joints[name] for name in arm.gripper.joint_names] if arm.gripper else []

    def __call__(
        self, camera: CameraModel, T_base_camera: np.ndarray, joints: np.ndarray, gripper_width: float = 0.0
    ) -> Rendering:
        """Draw the arm at `joints` [J] rad for a camera at `T_base_camera`, without lens distortion."""
        for joint, angle in zip(self._joints, joints, strict=True):
            self._client.resetJointState(self._body, joint, float(angle))
        if self._gripper is not None:
            for finger, position in zip(self._fingers, self._gripper.positions(gripper_width), strict=True):
                self._client.resetJointState(self._body, finger, position)
        view = GL_FROM_OPTICAL @ np.linalg.inv(T_base_camera)
        width, height = camera.width, camera.height
        _, _, pixels, buffer, bodies = self._client.getCameraImage(
            width,
            height,
            view.T.ravel().tolist(),
            _projection(camera).T.ravel().tolist(),
            renderer=self._client.ER_TINY_RENDERER,
            lightDirection=[0.5, -0.5, 1.0],
            shadow=0,
        )
        mask = np.asarray(bodies) == self._body
        depth = FAR * NEAR / (FAR - (FAR - NEAR) * np.asarray(buffer, dtype=np.float64))
        image = np.asarray(pixels, dtype=np.uint8)[..., :3]
        return Rendering(image, np.where(mask, depth, np.inf), mask)

    def close(self) -> None:
        """End the physics server."""
        self._client.disconnect()


def _projection(camera: CameraModel) -> np.ndarray:
    """OpenGL's projection matrix of a pinhole camera whose pixel centres are at integers."""
    K, width, height = camera.K, camera.width, camera.height
    matrix = np.zeros((4, 4))
    matrix[0, 0], matrix[1, 1] = 2 * K[0, 0] / width, 2 * K[1, 1] / height
    matrix[0, 2], matrix[1, 2] = 1 - (2 * K[0, 2] + 1) / width, (2 * K[1, 2] + 1) / height - 1
    matrix[2, 2], matrix[2, 3], matrix[3, 2] = (FAR + NEAR) / (NEAR - FAR), 2 * FAR * NEAR / (NEAR - FAR), -1.0
    return matrix
