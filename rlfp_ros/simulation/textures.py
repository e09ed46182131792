"""Procedural textures for the surfaces of training and validation.

`train` and `validation` share no generator, so that validation shows kinds of surfaces that training never saw.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from rlfp_ros.simulation.room import load_texture

SIZE = 128  # px; the camera sees a surface at about this resolution

Generator = Callable[[np.random.Generator], np.ndarray]


def _colour(rng: np.random.Generator) -> np.ndarray:
    """Draw a colour, [3] in 0..255, with moderate saturation, as on real tables and walls."""
    hue, saturation, value = rng.uniform(0, 180), 255 * rng.beta(1.3, 2.5), rng.uniform(40, 250)
    pixel = np.array([[[hue, saturation, value]]], np.float32).astype(np.uint8)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def _blend(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mix two random colours by a mask [H, W] in 0..1."""
    return _colour(rng) * mask[..., None] + _colour(rng) * (1 - mask[..., None])


def _smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Compute value noise [SIZE, SIZE] in 0..1 with about `cells` bumps across."""
    coarse = rng.uniform(size=(cells + 1, cells + 1)).astype(np.float32)
    fine = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return np.clip(fine, 0, 1)


def plain(rng: np.random.Generator) -> np.ndarray:
    """One colour."""
    return np.broadcast_to(_colour(rng), (SIZE, SIZE, 3))


def gradient(rng: np.random.Generator) -> np.ndarray:
    """A ramp between two colours in any direction."""
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.meshgrid(np.linspace(-1, 1, SIZE), np.linspace(-1, 1, SIZE))
    return _blend(np.clip(0.5 + 0.5 * (np.cos(angle) * x + np.sin(angle) * y), 0, 1), rng)


def checker(rng: np.random.Generator) -> np.ndarray:
    """Squares of two colours."""
    cells = int(rng.integers(2, 17))
    index = (np.arange(SIZE) * cells // SIZE) % 2
    return _blend((index[:, None] ^ index[None, :]).astype(np.float32), rng)


def clouds(rng: np.random.Generator) -> np.ndarray:
    """Noise over several octaves."""
    octaves = [_smooth_noise(rng, cells) * weight for cells, weight in ((3, 0.5), (8, 0.3), (24, 0.2))]
    return _blend(np.clip(sum(octaves), 0, 1), rng)


def speckle(rng: np.random.Generator) -> np.ndarray:
    """Fine independent noise in every channel, like stone or fabric."""
    noise = cv2.GaussianBlur(rng.normal(size=(SIZE, SIZE, 3)).astype(np.float32), (0, 0), rng.uniform(0.5, 2))
    return _colour(rng) + noise / (noise.std() + 1e-6) * rng.uniform(8, 40)


def wood(rng: np.random.Generator) -> np.ndarray:
    """Stretched noise with rings."""
    bands = cv2.resize(rng.uniform(size=(int(rng.integers(8, 40)), 3)).astype(np.float32), (SIZE, SIZE))
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (bands * rng.uniform(2, 6) + _smooth_noise(rng, 4)))
    brown = np.array([rng.uniform(110, 210), rng.uniform(70, 150), rng.uniform(30, 100)], np.float32)
    return brown * (0.65 + 0.35 * rings[..., None])


def stripes(rng: np.random.Generator) -> np.ndarray:
    """Sinusoidal stripes at any angle."""
    angle, frequency = rng.uniform(0, np.pi), rng.uniform(2, 12)
    x, y = np.meshgrid(np.linspace(0, 1, SIZE), np.linspace(0, 1, SIZE))
    return _blend(0.5 + 0.5 * np.sin(2 * np.pi * frequency * (np.cos(angle) * x + np.sin(angle) * y)), rng)


def patches(rng: np.random.Generator) -> np.ndarray:
    """Overlapping rectangles, like papers on a desk."""
    image = np.array(plain(rng))
    for _ in range(int(rng.integers(4, 16))):
        x, y, width, height = rng.integers(0, SIZE, 4)
        image[y : y + height // 2 + 4, x : x + width // 2 + 4] = _colour(rng)
    return image


def cells(rng: np.random.Generator) -> np.ndarray:
    """Voronoi cells, like tiles or terrazzo."""
    centres = rng.uniform(0, SIZE, (int(rng.integers(8, 60)), 2))
    colours = np.stack([_colour(rng) for _ in range(len(centres))])
    y, x = np.mgrid[:SIZE, :SIZE]
    nearest = np.argmin((x[..., None] - centres[:, 0]) ** 2 + (y[..., None] - centres[:, 1]) ** 2, axis=-1)
    return colours[nearest] * rng.uniform(0.6, 1.0) + _colour(rng) * 0.2


def rings(rng: np.random.Generator) -> np.ndarray:
    """Concentric circles."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - rng.uniform(0.2, 0.8, (2, 1, 1))
    return _blend(0.5 + 0.5 * np.sin(np.hypot(x, y) * rng.uniform(20, 90)), rng)


def weave(rng: np.random.Generator) -> np.ndarray:
    """A cloth-like product of two stripes."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    frequency = rng.uniform(8, 30)
    return _blend(0.5 + 0.5 * np.sin(2 * np.pi * frequency * x) * np.sin(2 * np.pi * frequency * y), rng)


GENERATORS: dict[str, tuple[Generator, ...]] = {
    "train": (plain, gradient, checker, clouds, speckle, wood, stripes, patches),
    "validation": (cells, rings, weave),
}
# Photographs in pybullet_data, except those in the twin's rooms (sim/scenes/twin_*.yaml).
PHOTOGRAPHS = {
    "train": (
        "pybullet_data:domino/domino.jpg",
        "pybullet_data:aliengo/meshes/aliengo.png",
        "pybullet_data:heightmaps/gimp_overlay_out.png",
        "pybullet_data:racecar/meshes/wheel.jpg",
    ),
    "validation": ("pybullet_data:jenga/jenga.png", "pybullet_data:quadruped/t-motor.jpg"),
}
SEEDS = {"train": 20_000, "validation": 70_000}


def texture_set(name: str, count: int, first: int = 0) -> list[np.ndarray]:
    """Return `count` textures of the set from number `first` on, uint8 [SIZE, SIZE, 3] rgb; deterministic."""
    generators = GENERATORS[name]
    images = []
    for index in range(first, first + count):
        rng = np.random.default_rng(SEEDS[name] + index)
        image = generators[index % len(generators)](rng)
        images.append(np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8)))
    return images


def photograph_set(name: str, count: int) -> list[np.ndarray]:
    """Return `count` parts of the set's photographs, uint8 [SIZE, SIZE, 3] rgb; deterministic."""
    photographs = [load_texture(source) for source in PHOTOGRAPHS[name]]
    cuts = []
    for index in range(count):
        rng = np.random.default_rng(SEEDS[name] + 500 + index)
        photograph = photographs[index % len(photographs)]
        size = int(rng.integers(SIZE, len(photograph) + 1))
        x, y = rng.integers(0, len(photograph) - size + 1, 2)
        cut = cv2.resize(photograph[y : y + size, x : x + size], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        cuts.append(np.ascontiguousarray(np.rot90(cut, int(rng.integers(4)))))
    return cuts
