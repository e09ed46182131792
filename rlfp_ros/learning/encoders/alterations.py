"""Wrong encodings and corruptions of camera images, from which the domain-shift score is learnt and judged.

Each alteration takes an image uint8 [H, W, 3] rgb and a random generator, and returns an altered copy of its size.
`ENCODINGS` are mistakes of a driver or of a mounting: colours, byte orders, orientations, cut-outs. `CORRUPTIONS` are
what a lens, a sensor, a codec, light or an object in the way does to an image (as in Hendrycks and Dietterich 2019,
https://arxiv.org/abs/1903.12261), from mild to severe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np

Alteration = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _clipped(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 255).astype(np.uint8)


# --- wrong encodings and orientations ---------------------------------------------------------------------------------


def _yuyv_as_uyvy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Swap luminance and chrominance, as a driver does that names the wrong byte order."""
    yuv = cv2.cvtColor(image, cv2.COLOR_RGB2YUV)
    even = image.shape[1] // 2 * 2
    brightness = yuv[:, :even, 0]
    chrominance = (yuv[:, 0:even:2, 1:].astype(np.int16) + yuv[:, 1:even:2, 1:]) // 2
    swapped = yuv.copy()
    for column in (0, 1):
        swapped[:, column:even:2, 0] = chrominance[..., column]
        swapped[:, column:even:2, 1] = brightness[:, 0::2]
        swapped[:, column:even:2, 2] = brightness[:, 1::2]
    return cv2.cvtColor(swapped, cv2.COLOR_YUV2RGB)


def _wrong_step(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Read rows one to three bytes too short, which shears the image and mixes its channels."""
    step = image.shape[1] * image.shape[2] - int(rng.integers(1, 4))
    starts = np.arange(image.shape[0])[:, None] * step
    places = starts + np.arange(image.shape[1] * image.shape[2])
    return np.take(image.ravel(), places, mode="wrap").reshape(image.shape)


def _cut_out(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Enlarge the middle 60 to 85 %, as a driver's region of interest does."""
    height, width = image.shape[:2]
    rows, columns = (int(size * share) for share in [rng.uniform(0.6, 0.85)] for size in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = np.ascontiguousarray(image[top : top + rows, left : left + columns])
    return cv2.resize(middle, (width, height), interpolation=cv2.INTER_AREA)


def _letterbox(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Squeeze the image between black bars."""
    height, width = image.shape[:2]
    rows = height * 3 // 4
    boxed = np.zeros_like(image)
    top = (height - rows) // 2
    boxed[top : top + rows] = cv2.resize(image, (width, rows), interpolation=cv2.INTER_AREA)
    return boxed


def _quarter_turn(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn by 90 degrees either way; an oblong image is resized."""
    turned = np.ascontiguousarray(np.rot90(image, int(rng.choice([1, 3]))))
    return cv2.resize(turned, image.shape[1::-1], interpolation=cv2.INTER_AREA)


def _gamma(exponent: float) -> Alteration:
    table = (255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
    return lambda image, rng: table[image]


def _reordered(*channels: int) -> Alteration:
    return lambda image, rng: np.ascontiguousarray(image[..., channels])


ENCODINGS: Mapping[str, Alteration] = {
    "red and blue exchanged": _reordered(2, 1, 0),
    "channels rotated": _reordered(1, 2, 0),
    "YUYV read as UYVY": _yuyv_as_uyvy,
    "YUV read as RGB": lambda image, rng: cv2.cvtColor(image, cv2.COLOR_RGB2YUV),
    "HSV read as RGB": lambda image, rng: cv2.cvtColor(image, cv2.COLOR_RGB2HSV),
    "grey": lambda image, rng: np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1),
    "inverted": lambda image, rng: 255 - image,
    "linear light": _gamma(2.2),
    "gamma applied twice": _gamma(1 / 2.2),
    "limited range": lambda image, rng: (16 + image * (219 / 255)).astype(np.uint8),
    "upside down": lambda image, rng: np.ascontiguousarray(image[::-1, ::-1]),
    "mirrored left to right": lambda image, rng: np.ascontiguousarray(image[:, ::-1]),
    "mirrored top to bottom": lambda image, rng: np.ascontiguousarray(image[::-1]),
    "quarter turn": _quarter_turn,
    "wrong row step": _wrong_step,
    "cut out": _cut_out,
    "letterbox": _letterbox,
}


# --- corruptions ------------------------------------------------------------------------------------------------------


def _noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _clipped(image + rng.normal(0, rng.uniform(8, 60), image.shape))


def _shot_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    photons = rng.uniform(5, 60)
    return _clipped(rng.poisson(image / 255 * photons) / photons * 255)


def _dead_pixels(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    damaged = image.copy()
    chosen = rng.uniform(size=image.shape[:2]) < rng.uniform(0.02, 0.2)
    damaged[chosen] = rng.choice([0, 255], size=(int(chosen.sum()), 1))
    return damaged


def _defocus(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 4))


def _motion_blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = int(rng.integers(3, 13))
    kernel = np.zeros((size, size), np.float32)
    kernel[size // 2] = 1 / size
    turn = cv2.getRotationMatrix2D((size / 2 - 0.5, size / 2 - 0.5), rng.uniform(0, 180), 1)
    kernel = cv2.warpAffine(kernel, turn, (size, size))
    return _clipped(cv2.filter2D(image.astype(np.float32), -1, kernel / max(float(kernel.sum()), 1e-3)))


def _fog(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    density = rng.uniform(0.2, 0.7)
    cloud = cv2.resize(
        rng.uniform(0.7, 1, (4, 4)).astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_CUBIC
    )
    return _clipped(image * (1 - density) + 230 * density * cloud[..., None])


def _overexposed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _clipped(image * rng.uniform(1.3, 3))


def _underexposed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _clipped(image * rng.uniform(0.08, 0.6))


def _low_contrast(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    mean = image.mean()
    return _clipped((image - mean) * rng.uniform(0.1, 0.6) + mean)


def _jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(3, 25))])[1]
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)


def _pixelated(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    share = rng.uniform(0.2, 0.6)
    small = cv2.resize(image, (int(width * share), int(height * share)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def _covered(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    covered = image.copy()
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(1, 4))):
        rows, columns = int(rng.integers(height // 8, height // 2)), int(rng.integers(width // 8, width // 2))
        top, left = int(rng.integers(0, height - rows)), int(rng.integers(0, width - columns))
        covered[top : top + rows, left : left + columns] = rng.integers(0, 256, (1, 1, 3))
    return covered


def _tinted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _clipped(image * rng.uniform(0.5, 1.5, (1, 1, 3)))


def _other_hue(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + rng.integers(8, 172)) % 180  # OpenCV's hues are half degrees
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _other_saturation(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    factor = rng.choice([rng.uniform(0.05, 0.5), rng.uniform(1.5, 4)])
    hsv[..., 1] = _clipped(hsv[..., 1] * factor)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _lost_rows(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    damaged = image.copy()
    rows = int(rng.integers(image.shape[0] // 10, image.shape[0] * 3 // 5))
    top = int(rng.integers(0, image.shape[0] - rows))
    damaged[top : top + rows] = damaged[top]
    return damaged


def _half_black(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    damaged = image.copy()
    height, width = image.shape[0] // 2, image.shape[1] // 2
    halves = (damaged[:height], damaged[height:], damaged[:, :width], damaged[:, width:])
    halves[int(rng.integers(4))][:] = 0
    return damaged


def _highlights(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    lit = image.astype(np.float32)
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    for _ in range(int(rng.integers(1, 4))):
        y, x, size = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.05, 0.24) * height
        spot = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * size**2))
        lit += rng.uniform(80, 300) * spot[..., None].astype(np.float32)
    return _clipped(lit)


CORRUPTIONS: Mapping[str, Alteration] = {
    "noise": _noise,
    "shot noise": _shot_noise,
    "dead pixels": _dead_pixels,
    "defocus": _defocus,
    "motion blur": _motion_blur,
    "fog": _fog,
    "overexposed": _overexposed,
    "underexposed": _underexposed,
    "low contrast": _low_contrast,
    "JPEG": _jpeg,
    "pixelated": _pixelated,
    "covered": _covered,
    "tinted": _tinted,
    "other hue": _other_hue,
    "other saturation": _other_saturation,
    "lost rows": _lost_rows,
    "half black": _half_black,
    "highlights": _highlights,
}


# --- other views ------------------------------------------------------------------------------------------------------


def _wavy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    coarse = rng.normal(0, rng.uniform(1, 4), (5, 5, 2)).astype(np.float32)
    shift = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x, y = columns + shift[..., 0], rows + shift[..., 1]
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _other_view(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    place = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-20, 20), rng.uniform(0.85, 1.2))
    place[:, 2] += rng.uniform(-0.14, 0.14, 2) * (width, height)
    return cv2.warpAffine(image, place, (width, height), borderMode=cv2.BORDER_REFLECT)


VIEWS: Mapping[str, Alteration] = {"turned, shifted and scaled": _other_view}
UNSEEN: Mapping[str, Alteration] = {"wavy lens": _wavy}  # never learnt from


def altered_at_random(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply a wrong encoding, a corruption, another view, or two of them, as the score is learnt from."""
    families = [(ENCODINGS,), (CORRUPTIONS,), (VIEWS,), (CORRUPTIONS, CORRUPTIONS), (ENCODINGS, CORRUPTIONS)]
    chosen = [_one_of(family, rng) for family in families[int(rng.choice(5, p=(0.35, 0.4, 0.1, 0.1, 0.05)))]]
    for alteration in chosen:
        image = alteration(image, rng)
    return np.ascontiguousarray(image)


def _one_of(kinds: Mapping[str, Alteration], rng: np.random.Generator) -> Alteration:
    return list(kinds.values())[int(rng.integers(len(kinds)))]
