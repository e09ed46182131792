"""Videos of a dataset: many episodes in one H.264 file of a constant rate, and images read back by their number."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from rlfp_ros.schema import ConfigurationError

CODEC = "h264"
# A key image at every second image makes random access cheap; each image is shown when it is decoded.
OPTIONS = {"crf": "12", "preset": "veryfast", "g": "2", "bf": "0"}


def pixel_format(width: int, height: int) -> str:
    """Return the pixel format for a size: colours at half the resolution need even sizes."""
    return "yuv420p" if width % 2 == 0 and height % 2 == 0 else "yuv444p"


def video_document(width: int, height: int, fps: int) -> dict[str, Any]:
    """Return `info` of a video feature in `info.json`."""
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": CODEC,
        "video.pix_fmt": pixel_format(width, height),
        "video.fps": fps,
        "video.channels": 3,
        "video.is_depth_map": False,
        "is_depth_map": False,
        "has_audio": False,
    }


class VideoWriter:
    """Writes one video file, image by image.

    Parameters
    ----------
    path
        The file to write.
    width, height
        Size of the images, px.
    fps
        Images per second; image n has the time stamp n / fps.
    """

    def __init__(self, path: Path, width: int, height: int, fps: int) -> None:
        self.frames = 0
        self.size = 0  # bytes of the encoded images
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=fps, options=dict(OPTIONS))
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = pixel_format(width, height)
        self._period = Fraction(1, fps)  # the stream's own time base changes with the first image

    def add(self, image: np.ndarray) -> None:
        """Append one image, uint8 [H, W, 3] rgb."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = self.frames, self._period
        self._mux(frame)
        self.frames += 1

    def close(self) -> None:
        """Write what the encoder still holds, and the file's index."""
        if self.frames:
            self._mux(None)
        self._container.close()

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            self.size += packet.size
            self._container.mux(packet)


def read_frames(path: Path, first: int, count: int, fps: float) -> Iterator[np.ndarray]:
    """Yield images of a video as uint8 [H, W, 3] rgb.

    Parameters
    ----------
    path
        The file.
    first
        Number of the first image to yield, from 0.
    count
        How many to yield.
    fps
        Images per second; image n is the one whose time stamp is nearest to n / fps.

    Raises
    ------
    ConfigurationError
        If the file cannot be decoded, or an image is missing or has another time stamp.
    """
    try:
        with av.open(str(path)) as container:
            yield from _frames(container, path, first, count, fps)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise ConfigurationError(
            f"{path}: cannot be decoded as a video ({error}); copy the whole dataset again"
        ) from None


def _frames(container: Any, path: Path, first: int, count: int, fps: float) -> Iterator[np.ndarray]:
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    if first:
        # Half an image early: seeking rounds, and must not arrive after the image.
        container.seek(max(0, int((first - 0.5) / fps / stream.time_base)), stream=stream)
    wanted = first
    for frame in container.decode(stream):
        number = float(np.nan if frame.time is None else frame.time) * fps
        if number < wanted - 0.5:
            continue
        if not abs(number - wanted) <= 0.1:  # also if it has no time
            break
        yield frame.to_ndarray(format="rgb24")
        wanted += 1
        if wanted == first + count:
            return
    raise ConfigurationError(
        f"{path}: has no image at {wanted / fps:.3f} s, expected {count} images from {first / fps:.3f} s on at "
        f"{fps:g} Hz; copy the whole dataset again"
    )
