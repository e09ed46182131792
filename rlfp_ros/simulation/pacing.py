"""Keeps real time on a machine that may be too slow: computes the due ticks and the images to draw."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

# Physics steps in one burst; if more are due, the real-time factor falls. A command covers two ticks before it brakes,
# so a longer burst would make the arm stop and go.
CATCH_UP_TICKS = 3
RENDER_SHARE = 0.8  # share of the time between images; a renderer that usually needs more is too slow
RENDERS = 15  # images over which this is judged, because a single slow one may only have been interrupted
SLOWEST_STRIDE = 4  # at least every fourth image is drawn, because a policy needs them
RECOVERY_S = 2.0  # time before the camera is tried at a higher rate again


class Pace:
    """Ticks that are due in real time.

    Parameters
    ----------
    real_time_factor
        Simulated seconds per second of wall time.
    tick_s
        Length of a tick.
    """

    def __init__(self, real_time_factor: float, tick_s: float) -> None:
        self._factor, self._tick_s = real_time_factor, tick_s
        self._start, self._start_tick = time.monotonic(), 0
        self.behind_s = 0.0  # total simulated time that was skipped

    def restart(self, tick: int) -> None:
        """Restart at `tick`, which is due now."""
        self._start, self._start_tick = time.monotonic(), tick

    def due(self, tick: int) -> tuple[int, bool]:
        """Return how many ticks are due after `tick`, and whether this machine is too slow for all of them.

        If it is, simulated time falls behind instead of catching up in a burst.
        """
        ticks = (time.monotonic() - self._start) * self._factor / self._tick_s - (tick - self._start_tick)
        late = ticks - CATCH_UP_TICKS
        if late <= 0:
            return int(ticks), False
        self.behind_s += late * self._tick_s
        self._start += late * self._tick_s / self._factor
        return CATCH_UP_TICKS, True


class FrameRate:
    """Reduces the image rate, instead of slowing the physics, if drawing is too slow.

    Parameters
    ----------
    frame_s
        Wall time between two images at the camera's full rate.
    """

    def __init__(self, frame_s: float) -> None:
        self._frame_s = frame_s
        self._renders: deque[float] = deque(maxlen=RENDERS)  # s
        self._slowed_at = time.monotonic()
        self.stride = 1  # every `stride`-th image is drawn

    def add(self, render_s: float) -> None:
        """Record the time that an image took."""
        self._renders.append(render_s)

    @property
    def render_s(self) -> float:
        """The usual time per image, s."""
        return float(np.median(self._renders)) if self._renders else 0.0

    def adapt(self, falls_behind: bool) -> int:
        """Return the stride, after time fell behind or kept up."""
        if falls_behind:
            if self.stride < SLOWEST_STRIDE and self._is_too_slow_for(self.stride):
                self.stride += 1
                self._slowed_at = time.monotonic()
                self._renders.clear()
        elif self.stride > 1 and time.monotonic() - self._slowed_at > RECOVERY_S:
            judged = len(self._renders) == RENDERS
            if judged and not self._is_too_slow_for(self.stride - 1):
                self.stride -= 1
        return self.stride

    def _is_too_slow_for(self, stride: int) -> bool:
        """Judge by the last RENDERS images; False while there are fewer."""
        return len(self._renders) == RENDERS and self.render_s > RENDER_SHARE * self._frame_s * stride
