"""Reads an image file as an array."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def read_image(path: Path) -> np.ndarray:
    """Return the image, uint8 [H, W, 3] in OpenCV's order bgr."""
    image = cv2.imread(str(path))
    assert image is not None, f"{path}: not an image"
    return image
