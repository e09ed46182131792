"""A LeRobot dataset whose images show their own number, so that a decoded image can be identified."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlfp_ros.data.lerobot.layout import Feature
from rlfp_ros.data.lerobot.reader import LerobotDataset
from rlfp_ros.data.lerobot.writer import LerobotWriter

FPS = 30
IMAGES = "observation.images.front"
BITS, SQUARE = 17, 8  # of the number, and px of the square that shows one bit
WIDTH, HEIGHT = 48, 24  # 6 x 3 squares


def numbered_image(number: int) -> np.ndarray:
    """Return an image with the bits of a number as white and black squares, uint8 [24, 48, 3]."""
    bits = (number >> np.arange(18)) & 1
    squares = 255 * bits.reshape(HEIGHT // SQUARE, WIDTH // SQUARE).astype(np.uint8)
    return np.repeat(np.kron(squares, np.ones((SQUARE, SQUARE), np.uint8))[..., None], 3, axis=2)


def number_in(image: np.ndarray) -> int:
    """Return the number that an image shows."""
    squares = image.mean(axis=2).reshape(HEIGHT // SQUARE, SQUARE, WIDTH // SQUARE, SQUARE).mean(axis=(1, 3))
    return int((squares.ravel() > 127) @ (1 << np.arange(18)))


def write_numbered(folder: Path, lengths: list[int], video_file_mb: float = 200) -> LerobotDataset:
    """Write episodes of the given lengths, whose images are numbered through."""
    features = {"action": Feature("float32", (1,), ("number",))}
    writer = LerobotWriter(folder, FPS, features, {IMAGES: (WIDTH, HEIGHT)}, "none", (), video_file_mb)
    first = 0
    for length in lengths:
        numbers = np.arange(first, first + length)
        writer.add({"action": numbers}, {IMAGES: (numbered_image(int(number)) for number in numbers)})
        writer.end_episode("count", {})
        first += length
    writer.close()
    return LerobotDataset(folder)
