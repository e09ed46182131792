"""The joint states of the last second, to look up those at an image's time."""

from __future__ import annotations

from collections import deque

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState as JointStateMessage

from rlfp_ros.control.arm import JointState
from rlfp_ros.nodes import messages
from rlfp_ros.recording import decode
from rlfp_ros.recording.decode import NANOSECONDS
from rlfp_ros.schema import ConfigurationError


class JointHistory:
    """Serialised joint states by their stamps; a message is decoded only if an image needs it.

    The joints that go with an image are those at its time of exposure, not the newest: so what is made of the image
    does not depend on how long perception took, in simulation and on hardware alike.

    Parameters
    ----------
    matcher
        Brings a message's joints into the arm's order.
    kept_s
        How long joint states are kept, s.
    max_age_s
        Largest age of the joint state that goes with an image, at the image's stamp, s.
    """

    def __init__(self, matcher: decode.JointMatcher, kept_s: float, max_age_s: float) -> None:
        self._matcher = matcher
        self._kept_ns, self._max_age_ns = int(kept_s * NANOSECONDS), max_age_s * NANOSECONDS
        self._states: deque[tuple[int, bytes]] = deque()  # oldest first

    def __len__(self) -> int:
        return len(self._states)

    def clear(self) -> None:
        """Forget all joint states."""
        self._states.clear()

    def add(self, stamp_ns: int, message: bytes) -> bool:
        """Keep a joint state; return False if it is the newest one again."""
        if self._states and stamp_ns <= self._states[-1][0]:
            if stamp_ns == self._states[-1][0]:
                return False
            self._states.clear()  # time went back: another simulator, another bag
        self._states.append((stamp_ns, message))
        while self._states[0][0] < stamp_ns - self._kept_ns:
            self._states.popleft()
        return True

    def reaches(self, stamp_ns: int) -> bool:
        """Whether a joint state of that time or later is there, so that `at` does not change any more."""
        return bool(self._states) and self._states[-1][0] >= stamp_ns

    def at(self, stamp_ns: int) -> JointState:
        """Return the newest joint state that is not newer than `stamp_ns`.

        Raises
        ------
        ConfigurationError
            If there is none, or if it is too old.
        """
        for stamp, message in reversed(self._states):
            if stamp <= stamp_ns:
                if stamp_ns - stamp > self._max_age_ns:
                    raise ConfigurationError(
                        f"topic {messages.JOINT_STATES.name}: the joints are {(stamp_ns - stamp) * 1e-9:.3f} s older "
                        f"than the image, expected at most {self._max_age_ns * 1e-9:g} s (joint_max_age_s)"
                    )
                return self._matcher(deserialize_message(message, JointStateMessage))
        raise ConfigurationError(
            f"topic {messages.JOINT_STATES.name}: no joint state is as old as the image; compare the clocks of camera "
            "and arm, or raise history_s"
        )
