"""A person moves the arm instead of the policy: what comes on `operator/jog`, and which of the two has the arm.

A takeover begins with the first jog that is taken. First the policy fades and the arm comes to rest, then the person's
velocity ramps up: the two are never added. When jogs stop coming, the arm comes to rest and holds. It does not continue
by itself, because a person who lets go of a button is about to press another one: `enable` gives the arm back.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from rlfp_ros import schema
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.safety.ages import LATE, age_s, fade
from rlfp_ros.control.safety.tick_clock import NEVER, TickClock
from rlfp_ros.control.safety.verdict import Reason
from rlfp_ros.episode import parse_json
from rlfp_ros.schema import ConfigurationError, Schema

MAX_CHARACTERS = 1000  # of a message
Share = Annotated[float, Field(ge=-1.0, le=1.0)]
Shares = tuple[Share, Share, Share]


class Jog(Schema):
    """Content of the topic `operator/jog`: a velocity of the tool that a person asks for.

    Attributes
    ----------
    stamp
        ns, when the person asked for it, on the clock of the graph.
    lease
        The operator's place, as in `frame_id` of the heartbeats of the same page.
    linear, angular
        Shares of the highest jog speeds, -1 to 1, along and about the axes of the base frame.
    """

    stamp: int = Field(ge=0)
    lease: str = Field(min_length=1, max_length=64)
    linear: Shares
    angular: Shares = (0.0, 0.0, 0.0)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return self.model_dump_json()

    @staticmethod
    def from_json(text: str) -> Jog:
        """Parse one line of JSON. Raises ConfigurationError if it is anything else than a jog."""
        if len(text) > MAX_CHARACTERS:
            raise ConfigurationError(
                f"topic operator/jog: data has {len(text)} characters, expected at most {MAX_CHARACTERS}"
            )
        return schema.validate(parse_json(text, "operator/jog"), Jog, source="topic operator/jog")


class JogAdmission:
    """Judges jogs by their lease and stamp.

    Attributes
    ----------
    twist
        [6] m/s and rad/s in the base frame, of the newest one that was taken.
    """

    def __init__(self, arm: Arm, settings: ControllerSettings, clock: TickClock) -> None:
        self._settings, self._clock = settings, clock
        tool = arm.tool_limits
        self._linear, self._angular = settings.jog_scale * tool.speed, settings.jog_scale * tool.angular_speed
        self.begin_episode(NEVER)

    def begin_episode(self, stamp_ns: int) -> None:
        """Ignore jogs with stamps up to `stamp_ns`."""
        self._reset_stamp_ns = stamp_ns
        self.forget()

    def forget(self) -> None:
        """Forget the newest one."""
        self._stamp_ns = NEVER
        self.twist = np.zeros(6)

    def refusal(self, jog: Jog, may_move: bool, has_lease: bool, now_ns: int) -> Reason | None:
        """Judge one jog and keep it if it is taken; otherwise return why not.

        Parameters
        ----------
        may_move
            Whether the arm is enabled, and its motion has begun.
        has_lease
            Whether fresh heartbeats with the same lease come.
        """
        if not may_move:
            return Reason.JOG_NOT_ENABLED
        if not has_lease:
            return Reason.JOG_LEASE
        if self._clock.in_future(jog.stamp, now_ns):
            return Reason.JOG_FUTURE
        old = age_s(self._clock.reached(now_ns), jog.stamp) > self._settings.jog_max_age_s
        if old or jog.stamp <= max(self._stamp_ns, self._reset_stamp_ns):
            return Reason.JOG_OLD
        self._stamp_ns = jog.stamp
        self.twist = np.concatenate(
            (self._linear * _shortened(jog.linear), self._angular * _shortened(jog.angular)), dtype=float
        )
        return None


def _shortened(shares: Shares) -> np.ndarray:
    vector = np.array(shares)
    return vector / max(1.0, float(np.linalg.norm(vector)))


class Takeover:
    """Whether a person has the arm.

    Attributes
    ----------
    active
        Whether a person has taken the arm over.
    acts
        Whether the policy has faded, so that the person's velocity may act.
    """

    def __init__(self, settings: ControllerSettings) -> None:
        self._timeout_s = settings.jog_timeout_s
        self.end()

    def saw(self, now_ns: int) -> None:
        """Take note of a jog that was taken."""
        self.active = True
        self._jog_ns = now_ns

    def hand_over(self) -> None:
        """Take note that the policy has faded and the arm is at rest."""
        self.acts = True

    def end(self) -> None:
        """Give the arm back to the policy."""
        self.active = self.acts = False
        self._jog_ns = NEVER

    def freshness(self, now_ns: int) -> float:
        """Return how fresh the newest jog is, 0..1."""
        return fade(age_s(now_ns, self._jog_ns), LATE * self._timeout_s, self._timeout_s)
