"""Records a training: episodes, figures, checkpoints. Algorithms write no files themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlfp_ros.learning.runs.checkpoint import load_checkpoint, save_checkpoint
from rlfp_ros.learning.runs.progress import TrainingProgress

CHECKPOINT_EVERY_S = 60.0
RECENT = 100  # number of episodes in the displayed averages


@dataclass(frozen=True)
class TrainingEpisode:
    """An episode that ended during training."""

    step: int  # environment steps taken by then
    episode_return: float  # undiscounted, unscaled
    success: bool


class TrainingLog:
    """A log in memory or, with a folder, also in `checkpoint.pt`, and with `progress` also in curves.

    Parameters
    ----------
    directory
        The run folder; None keeps everything in memory.
    key
        Describes the training: a checkpoint of another one is refused.
    progress
        Shows and records episodes and figures; one of its stages has begun.
    """

    def __init__(
        self,
        directory: Path | None = None,
        key: dict[str, Any] | None = None,
        progress: TrainingProgress | None = None,
    ) -> None:
        self.episodes: list[TrainingEpisode] = []
        self._file = directory / "checkpoint.pt" if directory else None
        self._key, self._progress = key or {}, progress
        self._saved = time.monotonic()
        self.resumed = load_checkpoint(self._file, self._key) if self._file else None
        if self.resumed:
            self.episodes = [TrainingEpisode(*row) for row in self.resumed["episodes"]]

    def episode(self, step: int, info: dict[str, Any]) -> None:
        """Record an episode that ended after `step` environment steps in all, with the environment's `info`."""
        ended = TrainingEpisode(step, float(info["episode"]["r"]), bool(info.get("success", False)))
        self.episodes.append(ended)
        if self._progress:
            recent = self.episodes[-RECENT:]
            mean = sum(episode.episode_return for episode in recent) / len(recent)
            rate = sum(episode.success for episode in recent) / len(recent)
            self._progress.show(
                step,
                f"success {rate:.2f}, return {mean:.1f}",
                success_rate=rate,
                episode_return=ended.episode_return,
                success=float(ended.success),
            )

    def figures(self, step: int, **values: float) -> None:
        """Record losses and other figures after `step` environment steps."""
        if self._progress:
            self._progress.record(step, **values)

    def checkpoint(self, step: int, state: Callable[[], dict[str, Any]], last: bool = False) -> None:
        """Save a checkpoint every minute and at the end; `state()` returns the algorithm's state."""
        if self._file and (last or time.monotonic() - self._saved > CHECKPOINT_EVERY_S):
            rows = [(episode.step, episode.episode_return, episode.success) for episode in self.episodes]
            save_checkpoint(self._file, self._key, step=step, episodes=rows, **state())
            self._saved = time.monotonic()
