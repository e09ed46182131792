"""Joint states and images for tests of the decoder: correct ones, and the same with changed fields."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import Image, JointState

from rlfp_ros.control import arm as arms

PANDA = arms.load_arm("panda")
assert PANDA.gripper is not None
NAMES = [*PANDA.joint_names, *PANDA.gripper.joint_names]
RGB = np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def joints(**fields: Any) -> JointState:
    """Return a joint state of the Panda. A field is given as a list, or as the number of its values."""
    values = {"position": 9, "velocity": 9, "effort": 9} | {
        name: value for name, value in fields.items() if isinstance(value, int)
    }
    message = JointState(name=fields.get("name", NAMES))
    message.header.stamp.sec = 3
    for name, count in values.items():
        setattr(message, name, [0.01 * (place + 1) for place in range(count)])
    for name, value in fields.items():
        if isinstance(value, list) and name != "name":
            setattr(message, name, value)
    return message


def image(encoding: str, rows: np.ndarray, **fields: Any) -> Image:
    """Return an image of 8 x 6 pixels from the bytes [6, step] of its rows, with some `fields` changed."""
    values = {"height": 6, "width": 8, "step": rows.shape[1]} | fields
    return Image(encoding=encoding, data=rows.tobytes(), **values)


def padded(rows: np.ndarray, count: int = 5) -> np.ndarray:
    """Return the rows with `count` bytes behind each."""
    return np.hstack([rows, np.full((len(rows), count), 77, np.uint8)])


ROWS = RGB.reshape(6, -1)
BGR_ROWS = RGB[..., ::-1].reshape(6, -1)
GREY = RGB[..., 0].copy()
PNG = cv2.imencode(".png", RGB[..., ::-1])[1].tobytes()
