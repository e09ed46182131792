"""Decodes images of a camera driver to rgb uint8 [H, W, 3], from the fields of Image and CompressedImage.

The distribution's `cv_bridge` converts if it is installed and usable, otherwise OpenCV; both give the same pixels.
Every message that cannot be an image ends in a ConfigurationError that names the field, because a camera with wrong
settings is for the user to correct.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from rlfp_ros.files import write_whole
from rlfp_ros.schema import ConfigurationError

Buffer = Any  # bytes, bytearray, memoryview, array.array or a numpy array of uint8

MAX_SIDE = 16384  # px; larger than any camera, small enough that a wrong header cannot take all memory
MAX_PIXELS = 1 << 26
# Source encodings of CompressedImage.format, in lower case, that hold distances instead of colour.
DEPTH_ENCODINGS = ("16uc1", "16sc1", "32fc1", "64fc1")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Encoding:
    channels: int  # bytes per pixel
    to_rgb: int | None  # OpenCV's conversion code; None if already rgb


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
    """Decode the fields of a sensor_msgs/Image.

    Parameters
    ----------
    encoding, height, width, data
        As in the message.
    step
        Length of a row in bytes; it may be longer than the row's pixels.
    topic
        Named in messages.

    Returns
    -------
    numpy.ndarray
        rgb uint8 [H, W, 3]. For rgb8 without padding a view of `data`: do not write to it.

    Raises
    ------
    ConfigurationError
        If a field is wrong. The message names the field.
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
    """Decode the fields of a sensor_msgs/CompressedImage.

    Parameters
    ----------
    format
        As image_transport writes it, "rgb8; jpeg compressed bgr8", or as some drivers do, "jpeg".
    data
        A JPEG or PNG file. Bytes behind its end are ignored; that is logged once per topic.
    topic
        Named in messages.

    Returns
    -------
    numpy.ndarray
        rgb uint8 [H, W, 3]. Grey becomes rgb, and alpha is left out, as in the raw encodings.

    Raises
    ------
    ConfigurationError
        If the format is another one, the file is cut or damaged, or the image is not a camera's colour image: 16 bits
        per channel (depth), or inks (CMYK).
    """
    words = format.lower()
    if "compresseddepth" in words.replace(" ", "") or not any(name in words for name in ("jpeg", "jpg", "png")):
        raise ConfigurationError(
            f"topic {topic}: format is {format!r}, expected jpeg or png; set it in the camera driver (image_transport "
            "parameter `format`)"
        )
    if words.partition(";")[0].strip() in DEPTH_ENCODINGS:
        raise ConfigurationError(f"topic {topic}: format is {format!r}, a depth image; {_COLOUR_ADVICE}")
    flat = np.frombuffer(data, dtype=np.uint8)
    content = flat.tobytes()
    header = _png_header(content) if content.startswith(_PNG_MAGIC) else _jpeg_header(content)
    if header is None:
        raise ConfigurationError(
            f"topic {topic}: data is not a whole jpeg or png image, although format is {format!r}; look for "
            "lost packets or a full disk at the camera driver"
        )
    if header.refused:
        raise ConfigurationError(f"topic {topic}: data is {header.refused}; {_COLOUR_ADVICE}")
    _check_size(topic, header.height, header.width)
    if header.length < len(content):
        _report_trailing_bytes(topic)
    try:
        image = cv2.imdecode(flat[: header.length], cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise ConfigurationError(f"topic {topic}: data does not decode as {format!r}")
    # imdecode assumes the channel order that the file format defines. Old publishers compressed rgb as if it were bgr
    # and declare this in `format`; then the two swaps cancel.
    return image if "compressed rgb" in words else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_size(topic: str, height: int, width: int) -> None:
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= MAX_PIXELS):
        raise ConfigurationError(
            f"topic {topic}: width x height is {width} x {height}, expected from 1 x 1 to {MAX_PIXELS} pixels"
        )


@dataclass(frozen=True)
class _Header:
    """Size and kind of a whole JPEG or PNG file, from its beginning."""

    height: int
    width: int
    length: int  # bytes up to the end of the image
    refused: str = ""  # description of the content if it cannot be used, otherwise empty


@functools.cache
def _report_trailing_bytes(topic: str) -> None:
    """Log once per topic that bytes are ignored."""
    log.warning("topic %s: bytes behind the end of the compressed image are ignored", topic)


_COLOUR_ADVICE = "let the camera driver publish colour images with 8 bits per channel"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")  # length of the content, type; a CRC of 4 bytes follows the content
_FRAME = struct.Struct(">BHHB")  # bits per channel, height, width, channels


def _png_header(content: bytes) -> _Header | None:
    """Parse the chunks of a PNG. Returns None if a chunk is cut or damaged, or the last one is missing."""
    place, header = len(_PNG_MAGIC), b""
    while place + 12 <= len(content):
        length, kind = _CHUNK.unpack_from(content, place)
        end = place + 8 + length
        if end + 4 > len(content) or zlib.crc32(content[place + 4 : end]) != int.from_bytes(content[end : end + 4]):
            return None
        if kind == b"IHDR" and length == 13:
            header = content[place + 8 : end]
        place = end + 4
        if kind == b"IEND":
            break
    else:
        return None
    if not header:
        return None
    width, height, bits, colour = struct.unpack_from(">IIBB", header)
    refused = f"a PNG of 16-bit {'colour' if colour & 2 else 'grey values (depth)'}" if bits == 16 else ""
    return _Header(height, width, place, refused)


def _jpeg_header(content: bytes) -> _Header | None:
    """Parse the segments of a JPEG up to its pixels, then search for the end. Returns None if it is missing.

    libjpeg fills missing pixels with grey without an error, and a policy must not act on such an image. End markers
    inside segments (those of a thumbnail) do not count.
    """
    if content[:2] != b"\xff\xd8":
        return None
    place = 2
    frame: tuple[int, int, int, int] | None = None
    while place + 4 <= len(content):
        if content[place] != 0xFF:
            return None
        marker = content[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        length = int.from_bytes(content[place + 2 : place + 4])
        if length < 2 or place + 2 + length > len(content):
            return None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if length < 2 + _FRAME.size:
                return None
            frame = _FRAME.unpack_from(content, place + 4)
        place += 2 + length
        if marker == 0xDA:  # the pixels follow, in which 0xFF is always followed by 0 or by a marker
            break
    end = content.find(b"\xff\xd9", place) + 2
    if frame is None or end < 2:
        return None
    bits, height, width, channels = frame
    refused = f"a JPEG with {bits} bits per channel" if bits != 8 else ""
    refused = refused or ("a JPEG of four inks (CMYK)" if channels == 4 else "")
    return _Header(height, width, end, refused)


@functools.cache
def cv_bridge() -> Any | None:
    """Return a `CvBridge` if one is installed and safe to use, else None; `cv_bridge_status` gives the reason.

    The distributions build cv_bridge against NumPy 1. Under NumPy 2 importing it prints a page of warnings and
    calling it can crash the process, so it is not used there.
    """
    if int(np.__version__.split(".")[0]) >= 2:
        return None
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
        probe = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
        usable = np.array_equal(_with_cv_bridge(bridge, "bgr8", probe), probe[..., ::-1])
    except Exception:  # a binary that was built for another NumPy or OpenCV can raise anything
        return None
    return bridge if usable else None


def cv_bridge_status() -> str:
    """Return the name of the library that converts images, for the log and for `doctor`."""
    if cv_bridge() is not None:
        return "cv_bridge"
    if int(np.__version__.split(".")[0]) >= 2 and importlib.util.find_spec("cv_bridge") is not None:
        return f"OpenCV (cv_bridge is built against NumPy 1 and NumPy {np.__version__} is installed)"
    return "OpenCV (cv_bridge is not installed)"


def _with_cv_bridge(bridge: Any, encoding: str, pixels: np.ndarray) -> np.ndarray:
    """Convert rows without padding: imgmsg_to_cv2 keeps the padding of multi-channel images as pixels."""
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


def write_image(path: Path, image: np.ndarray, then: str = "run the command again or choose another --out") -> None:
    """Write an image file, whole or not at all, in the format that its name ends with.

    Parameters
    ----------
    path
        The file; its folder is made if it is missing.
    image
        uint8 [H, W, 3] rgb, or [H, W] grey.
    then
        What to do once the disk is in order again, for the message.

    Raises
    ------
    ConfigurationError
        If OpenCV does not write this format, or the file cannot be written.
    """
    if not cv2.haveImageWriter(path.name):
        raise ConfigurationError(f"{path}: not an image format that OpenCV writes; let its name end in .png")
    _, data = cv2.imencode(path.suffix, image if image.ndim == 2 else image[..., ::-1])
    write_whole(path, data.tobytes(), then)
