"""Turn a recorded bag into NumPy arrays: images with the arm's joints at that time.

python examples/bag_to_numpy.py BAG out.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import rlfp_ros
from rlfp_ros.recording.snapshots import read_snapshots


def main(bag: Path, out: Path, arm_name: str = "panda") -> None:
    """Write images uint8 [N, H, W, 3] rgb, joint positions [N, J] rad and stamps [N] ns."""
    images, positions, stamps = [], [], []
    for snapshot in read_snapshots(bag, rlfp_ros.load_arm(arm_name)):
        if snapshot.joints is not None:
            images.append(snapshot.image)
            positions.append(snapshot.joints.positions)
            stamps.append(snapshot.stamp_ns)
    if not images:
        sys.exit(f"{bag}: holds no image with joint states before it")
    np.savez_compressed(out, images=np.stack(images), joint_positions=np.stack(positions), stamps_ns=np.array(stamps))
    print(f"{out}: {len(images)} images of {bag}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
