"""Passes judged percepts to the supervisor: object positions and domain shifts."""

from __future__ import annotations

import numpy as np

from rlfp_ros.control.safety.admission import Decision, PerceptAdmission
from rlfp_ros.control.safety.supervisor import Supervisor
from rlfp_ros.control.safety.tick_clock import NEVER, TickClock


class PerceptInputs:
    """What perception says: judged, and reported to the supervisor.

    Attributes
    ----------
    object_position
        [3] m in the base frame, of the last accepted percept; None before there is one.
    """

    def __init__(self, supervisor: Supervisor, clock: TickClock) -> None:
        self._supervisor = supervisor
        self.admission = PerceptAdmission(clock)
        self.object_position: np.ndarray | None = None

    def begin_episode(self, stamp_ns: int) -> None:
        """Ignore percepts with stamps up to `stamp_ns`, and forget the object."""
        self.admission.begin_episode(stamp_ns)
        self.object_position = None

    def on_object(self, xyz: np.ndarray, stamp_ns: int, now_ns: int) -> None:
        """Accept the position [3] m of an object in the base frame."""
        if self._taken(self.admission.judge_object(np.asarray(xyz), stamp_ns, now_ns), stamp_ns, now_ns):
            self.object_position = np.array(xyz, dtype=float)
            self._supervisor.saw_percept(stamp_ns, now_ns)

    def on_shift(self, shift: float, stamp_ns: int, now_ns: int) -> None:
        """Accept a domain shift without a stamp of its own: if object poses come, they show that the camera lives."""
        if self._taken(self.admission.judge_shift(np.asarray(shift), stamp_ns, now_ns), stamp_ns, now_ns):
            alive = self.admission.object_stamp_ns == NEVER
            self._supervisor.saw_percept(stamp_ns, now_ns, shift=float(shift), alive=alive)

    def on_scene(self, shift: float, stamp_ns: int, now_ns: int) -> None:
        """Accept a domain shift with its image's stamp."""
        if self._taken(self.admission.judge_scene(np.asarray(shift), stamp_ns, now_ns), stamp_ns, now_ns):
            self._supervisor.saw_percept(stamp_ns, now_ns, shift=float(shift))

    def _taken(self, decision: Decision, stamp_ns: int, now_ns: int) -> bool:
        if decision.fault is not None:
            self._supervisor.saw_percept(stamp_ns, now_ns, fault=decision.fault)
        if decision.counted is not None:
            self._supervisor.count(decision.counted)
        return decision.take
