"""Run a bundle's perception and policy on a folder of images, without ROS and without a simulator.

python examples/load_bundle.py reach_panda FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

import rlfp_ros
from rlfp_ros.control.arm import JointState


def main(bundle_name: str, folder: Path) -> None:
    """Print where the object is and what the policy would do, for each image in turn."""
    bundle = rlfp_ros.load_bundle(bundle_name)
    arm = rlfp_ros.load_arm(bundle.contract.arm.name)
    perception, policy = rlfp_ros.Perception(bundle), rlfp_ros.Policy(bundle, arm)
    T_base_camera = bundle.contract.camera.T_base_camera.matrix()
    joints = np.array(arm.home)
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise SystemExit(f"{path}: not an image that OpenCV reads")
        percept = perception(image)
        stamp_ns = number * 1_000_000_000 // round(bundle.contract.camera.rate_hz)
        state = JointState(stamp_ns, joints, velocities=0 * joints, efforts=0 * joints)
        residual = policy.act(percept.features, state, stamp_ns, goal=None)
        position = percept.in_base(T_base_camera).position
        print(
            f"{path.name}: object at {np.round(position, 3)} m, domain shift {percept.domain_shift:.2f}, "
            f"tool velocity {np.round(residual.twist[:3], 3)} m/s"
        )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
