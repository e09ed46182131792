"""What a camera driver sends -> rgb uint8 [H, W, 3]. ROS-free: takes the fields of Image and CompressedImage.

The distribution's `cv_bridge` converts where it is installed and usable, OpenCV elsewhere; both give the same pixels.
Every message that cannot be a picture ends in a ConfigurationError that names the field: a camera that is set up
wrongly is for the user to put right.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import struct
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from rlfp_ros.schema import ConfigurationError

Buffer = Any  # bytes, bytearray, memoryview, array.array or a numpy array of uint8

MAX_SIDE = 16384  # px; larger than any camera, small enough that a wrong header cannot take all memory
MAX_PIXELS = 1 << 26


@dataclass(frozen=True)
class _Encoding:
    channels: int  # bytes for each pixel
    to_rgb: int | None  # OpenCV's conversion code; None: already rgb


_ENCODINGS = {
    "rgb8": _Encoding(3, None),
    "bgr8": _Encoding(3, cv2.COLOR_BGR2RGB),
    "rgba8": _Encoding(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Encoding(4, cv2.COLOR_BGRA2RGB),
    "mono8": _Encoding(1, cv2.COLOR_GRAY2RGB),
    "yuv422": _Encoding(2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": _Encoding(2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": _Encoding(2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": _Encoding(2, cv2.COLOR_YUV2RGB_YUY2),
}
ENCODINGS = tuple(_ENCODINGS)


def from_raw(
    encoding: str, height: int, width: int, step: int, data: Buffer, topic: str = "camera/image_raw"
) -> np.ndarray:
    """The fields of a sensor_msgs/Image -> rgb uint8 [H, W, 3].

    `step` is the length of a row in bytes and may be longer than the row's pixels. The result is a view of `data`
    where `encoding` is rgb8 without padding: do not write to it. Raises ConfigurationError naming the field of
    `topic` that is wrong.
    """
    kind = _ENCODINGS.get(encoding)
    if kind is None:
        raise ConfigurationError(
            f"topic {topic}: encoding is {encoding!r}, expected one of {', '.join(ENCODINGS)}; "
            "set it in the camera driver"
        )
    _check_size(topic, height, width)
    row = width * kind.channels
    if kind.channels == 2 and width % 2:
        raise ConfigurationError(f"topic {topic}: width is {width}, expected an even one with encoding {encoding}")
    if step < row:
        raise ConfigurationError(
            f"topic {topic}: step is {step}, expected at least {row} for {width} pixels of encoding {encoding}"
        )
    flat = np.frombuffer(data, dtype=np.uint8)
    needed = step * (height - 1) + row  # the last row's padding may be missing
    if flat.size < needed:
        raise ConfigurationError(
            f"topic {topic}: data has {flat.size} bytes, expected {step * height} for {height} rows of step {step}"
        )
    strides = (step, kind.channels, 1)
    pixels = np.lib.stride_tricks.as_strided(flat[:needed], (height, width, kind.channels), strides, writeable=False)
    if kind.to_rgb is None:
        return np.ascontiguousarray(pixels)
    bridge = cv_bridge()
    if bridge is not None:
        return _with_cv_bridge(bridge, encoding, np.ascontiguousarray(pixels))
    return cv2.cvtColor(np.ascontiguousarray(pixels), kind.to_rgb)


def from_compressed(format: str, data: Buffer, topic: str = "camera/image_raw/compressed") -> np.ndarray:
    """The fields of a sensor_msgs/CompressedImage (jpeg or png) -> rgb uint8 [H, W, 3].

    `format` is as image_transport writes it, "rgb8; jpeg compressed bgr8", or as some drivers do, "jpeg". Raises
    ConfigurationError naming the field of `topic` that is wrong.
    """
    words = format.lower()
    if "compresseddepth" in words.replace(" ", "") or not any(name in words for name in ("jpeg", "jpg", "png")):
        raise ConfigurationError(
            f"topic {topic}: format is {format!r}, expected jpeg or png; set it in the camera driver (image_transport "
            "parameter `format`)"
        )
    flat = np.frombuffer(data, dtype=np.uint8)
    content = flat.tobytes()
    size = _png_size(content) if content.startswith(_PNG_MAGIC) else _jpeg_size(content)
    if size is None:
        raise ConfigurationError(
            f"topic {topic}: data ({flat.size} bytes) is not a whole jpeg or png picture, expected one as format "
            f"{format!r} says; look for lost packets or a full disk at the camera driver"
        )
    _check_size(topic, *size)
    try:
        image = cv2.imdecode(flat, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise ConfigurationError(f"topic {topic}: data ({flat.size} bytes) does not decode as {format!r}")
    # imdecode assumes that the file holds what its format defines. Old publishers compressed rgb as if it were bgr
    # and say so; then the two swaps cancel.
    return image if "compressed rgb" in words else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_size(topic: str, height: int, width: int) -> None:
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= MAX_PIXELS):
        raise ConfigurationError(
            f"topic {topic}: width x height is {width} x {height}, expected from 1 x 1 to {MAX_PIXELS} pixels"
        )


_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def _png_size(content: bytes) -> tuple[int, int] | None:
    """(height, width) of a whole PNG, from its first chunk; None where the last chunk is missing."""
    if len(content) < 45 or b"IEND" not in content[-64:]:
        return None
    width, height = struct.unpack(">II", content[16:24])
    return height, width


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """(height, width) of a whole JPEG, from its start-of-frame segment; None where the end is missing.

    libjpeg fills what is missing with grey and goes on: a policy must not act on that.
    """
    if len(content) < 64 or content[:2] != b"\xff\xd8" or b"\xff\xd9" not in content[-64:]:
        return None
    place = 2
    while place + 9 < len(content):
        if content[place] != 0xFF:
            return None
        marker = content[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        (length,) = struct.unpack(">H", content[place + 2 : place + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", content[place + 5 : place + 9])
            return height, width
        if length < 2:
            return None
        place += 2 + length
    return None


@functools.cache
def cv_bridge() -> Any | None:
    """A `CvBridge` where one is installed and safe to use, else None; see `cv_bridge_status` for the reason.

    The distributions build cv_bridge against NumPy 1. Under NumPy 2 importing it prints a page of warnings and
    calling it can crash the process, so it is left alone there.
    """
    if int(np.__version__.split(".")[0]) >= 2:
        return None
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
        probe = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
        usable = np.array_equal(_with_cv_bridge(bridge, "bgr8", probe), probe[..., ::-1])
    except Exception:  # a binary that was built for another NumPy or OpenCV raises what it likes
        return None
    return bridge if usable else None


def cv_bridge_status() -> str:
    """Who converts images here, in words for a log line and for `doctor`."""
    if cv_bridge() is not None:
        return "cv_bridge"
    if int(np.__version__.split(".")[0]) >= 2 and importlib.util.find_spec("cv_bridge") is not None:
        return f"OpenCV (cv_bridge is built against NumPy 1 and NumPy {np.__version__} is installed)"
    return "OpenCV (cv_bridge is not installed)"


def _with_cv_bridge(bridge: Any, encoding: str, pixels: np.ndarray) -> np.ndarray:
    """Rows without padding only: imgmsg_to_cv2 keeps the padding of multi-channel images as pixels."""
    height, width, channels = pixels.shape
    aliases = {"uyvy": "yuv422", "yuyv": "yuv422_yuy2"}  # cv_bridge does not know the newer names
    message = SimpleNamespace(
        height=height,
        width=width,
        encoding=aliases.get(encoding, encoding),
        is_bigendian=0,
        step=width * channels,
        data=pixels.tobytes(),
    )
    return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, desired_encoding="rgb8"))
