"""Derives camera_info, transport and rectification from the name of an image topic."""

from __future__ import annotations

from typing import Literal

ImageKind = Literal["auto", "raw", "rectified"]  # whether the images still show the lens; auto: by the topic's name
TRANSPORTS = ("compressed", "compressedDepth", "theora", "ffmpeg", "zstd")  # last words that image_transport adds


def base_topic(image_topic: str) -> str:
    """Return the name of an image topic without image_transport's last word: /camera/image_raw."""
    parent, _, last = image_topic.rpartition("/")
    return parent if last in TRANSPORTS else image_topic


def camera_info_beside(image_topic: str) -> str:
    """Return the camera_info topic that belongs to an image topic, where image_transport and drivers put it."""
    parent, slash, _ = base_topic(image_topic).rpartition("/")
    return f"{parent}{slash}camera_info"


def is_rectified(image_topic: str, kind: ImageKind = "auto") -> bool:
    """Decide whether a topic's images are rectified, so that the lens no longer shows in them.

    image_proc names such topics image_rect, image_rect_color, ...; ZED cameras use a part named rect.
    """
    if kind != "auto":
        return kind == "rectified"
    return any(word == "rect" or word.startswith("image_rect") for word in base_topic(image_topic).split("/"))
