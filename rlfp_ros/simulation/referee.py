"""The episode referee: announces an episode, waits until all nodes are ready, begins and ends it."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from rlfp_ros.episode import Episode, Phase, Ready


class Referee:
    """The phases of consecutive episodes. Each method that changes the phase returns what to announce.

    Parameters
    ----------
    task
        Name of the task.
    seed
        Seed of the first episode; each later episode adds 1.
    episodes
        Number of episodes; 0 for no end.
    wait_for
        Names of the nodes that must answer before an episode begins.
    name
        Name of the node that has this referee.
    """

    def __init__(self, task: str, seed: int, episodes: int, wait_for: Collection[str], name: str = "") -> None:
        self._task, self._first_seed, self._episodes = task, seed, episodes
        self._wait_for = tuple(wait_for)
        self.nodes = (*self._wait_for, name) if wait_for else ()  # that take part in an episode
        self._ready: set[str] = set()
        self._since = time.monotonic()
        self.number = -1  # number of the episode
        self.phase: Phase | None = None  # None before the first episode is announced

    @property
    def seed(self) -> int:
        """Seed of the current episode."""
        return self._first_seed + self.number

    @property
    def missing(self) -> list[str]:
        """Nodes that have not answered the announcement."""
        return [name for name in self._wait_for if name not in self._ready]

    @property
    def waited_s(self) -> float:
        """Wall time in the current phase."""
        return time.monotonic() - self._since

    @property
    def is_last(self) -> bool:
        """Whether no episode follows the current one."""
        return bool(self._episodes) and self.number + 1 >= self._episodes

    def announce(self, stamp_ns: int) -> Episode:
        """Ask the graph to forget the last episode, whose last stamp is `stamp_ns`."""
        self.number += 1
        self._ready.clear()
        return self._enter(Phase.RESET, stamp_ns, nodes=self.nodes)

    def on_ready(self, answer: Ready) -> None:
        """Handle a node's answer; answers to earlier episodes are ignored."""
        if answer.id == self.number:
            self._ready.add(answer.node)

    def begin(self, stamp_ns: int, sample: dict[str, Any]) -> Episode:
        """Begin the episode with its sample."""
        return self._enter(Phase.RUNNING, stamp_ns, sample=sample)

    def end(self, stamp_ns: int, outcome: dict[str, Any]) -> Episode:
        """End the episode."""
        return self._enter(Phase.FINISHED, stamp_ns, outcome=outcome)

    def _enter(self, phase: Phase, stamp_ns: int, **content: Any) -> Episode:
        self.phase, self._since = phase, time.monotonic()
        return Episode(id=self.number, seed=self.seed, task=self._task, phase=phase, stamp=stamp_ns, **content)
