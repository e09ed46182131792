"""A live camera as its CameraInfo describes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class CameraModel:
    """Pinhole camera with lens distortion. Optical frame: x right, y down, z forward (REP-103)."""

    width: int  # px
    height: int  # px
    K: np.ndarray  # 3 x 3, px
    distortion: np.ndarray | None = None  # [4..14] OpenCV's order k1 k2 p1 p2 k3 ...; None: none
    optical_frame: str = ""

    def same(self, other: CameraModel) -> bool:
        """Equal in everything that decides about pixels."""
        return (
            (self.width, self.height) == (other.width, other.height)
            and np.array_equal(self.K, other.K)
            and (
                (self.distortion is None and other.distortion is None)
                or (
                    self.distortion is not None
                    and other.distortion is not None
                    and np.array_equal(self.distortion, other.distortion)
                )
            )
        )
