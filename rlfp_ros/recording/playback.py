"""Plays a bag in real time, with pause, speed and jumps in time: which message is due when, without any network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rlfp_ros.recording.reader import BagReader, RecordedMessage
from rlfp_ros.schema import ConfigurationError

LONGEST_WAIT_S = 0.05  # between two looks at requests
SLOWEST, FASTEST = 0.01, 100.0  # speed, as a factor of real time


@dataclass(frozen=True)
class PlaybackPosition:
    """Where a player is in its bag.

    Attributes
    ----------
    time_ns
        On the recorder's clock.
    playing
        Whether time passes.
    ended
        Whether everything was played.
    speed
        As a factor of real time.
    """

    time_ns: int
    playing: bool
    ended: bool
    speed: float


class BagPlayer:
    """Sends the messages of a bag when they are due. It waits at the beginning until it is told to play.

    Parameters
    ----------
    bag
        The bag; it is read from its beginning at each jump back.
    send
        Called with each message that is due. After a jump it gets the newest earlier message of each topic first, so
        that a viewer shows the state at that time.
    clock
        Steady clock, s.

    Raises
    ------
    ConfigurationError
        If the bag holds no message.
    """

    def __init__(
        self, bag: BagReader, send: Callable[[RecordedMessage], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bag, self._send, self._clock = bag, send, clock
        self._lock = threading.Lock()
        first = last = None
        for message in bag.messages():
            first = message.log_time_ns if first is None else first
            last = max(message.log_time_ns, last or 0)
        if first is None or last is None:
            raise ConfigurationError(f"{bag.path}: holds no message to play; choose another bag")
        self.begins_ns, self.ends_ns = first, last
        self._begun, self._playing, self._speed = False, False, 1.0
        self._time_ns = first
        self._since = clock()  # when `_time_ns` was right
        self._seek_ns: int | None = None
        self._messages: Iterator[RecordedMessage] = bag.messages()
        self._next = next(self._messages, None)

    def begin(self) -> None:
        """Play from the beginning, unless that was asked for before."""
        if not self._begun:
            self.request(True)

    def request(self, playing: bool, speed: float = 1.0, seek_ns: int | None = None) -> PlaybackPosition:
        """Take a viewer's request; any thread may call it.

        Parameters
        ----------
        playing
            False to pause.
        speed
            As a factor of real time; it is kept in 0.01 to 100.
        seek_ns
            Time to jump to; None to stay.
        """
        with self._lock:
            self._advance_time()
            self._begun, self._playing = True, playing
            self._speed = min(max(speed, SLOWEST), FASTEST) if speed == speed else 1.0
            if seek_ns is not None:
                self._seek_ns = self._time_ns = min(max(seek_ns, self.begins_ns), self.ends_ns)
            return self._position()

    def position(self) -> PlaybackPosition:
        """Return where the player is."""
        with self._lock:
            self._advance_time()
            return self._position()

    def play_due(self) -> float:
        """Send the messages that are due, and return the seconds to wait before the next call."""
        if not self._begun:
            return LONGEST_WAIT_S
        with self._lock:
            self._advance_time()
            now_ns, seek_ns, self._seek_ns = self._time_ns, self._seek_ns, None
        if seek_ns is not None:
            self._jump(seek_ns)
        while self._next is not None and self._next.log_time_ns <= now_ns:
            self._send(self._next)
            self._next = next(self._messages, None)
            if self._is_to_jump():  # what follows is not wanted any more
                return 0.0
        if self._next is None or not self._playing:
            return LONGEST_WAIT_S
        return min((self._next.log_time_ns - now_ns) * 1e-9 / self._speed, LONGEST_WAIT_S)

    def _is_to_jump(self) -> bool:
        return self._seek_ns is not None

    def _jump(self, to_ns: int) -> None:
        """Continue at another time."""
        newest: dict[str, RecordedMessage] = {}
        self._messages = self._bag.messages()
        self._next = next(self._messages, None)
        while self._next is not None and self._next.log_time_ns < to_ns:
            newest[self._next.topic] = self._next
            self._next = next(self._messages, None)
        for message in sorted(newest.values(), key=lambda message: message.log_time_ns):
            self._send(message)

    def _advance_time(self) -> None:
        now = self._clock()
        if self._playing:
            self._time_ns = min(self._time_ns + int((now - self._since) * 1e9 * self._speed), self.ends_ns)
        self._since = now

    def _position(self) -> PlaybackPosition:
        ended = self._time_ns >= self.ends_ns
        return PlaybackPosition(self._time_ns, self._playing and not ended, ended, self._speed)
