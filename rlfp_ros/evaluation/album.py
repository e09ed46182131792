"""Keeps the episodes of an evaluation in a run folder: outcomes, causes of failures, and some as animations."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from rlfp_ros.contract import Bundle
from rlfp_ros.evaluation.episodes import count
from rlfp_ros.evaluation.evaluate import Report, Series
from rlfp_ros.evaluation.failures import TracedRollout, count_modes
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.files import AGAIN, explained, write_whole
from rlfp_ros.perception.encoder import Percept
from rlfp_ros.perception.overlay import draw
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.ticked_world import ArmWorld, Outcome
from rlfp_ros.simulation.worlds import load_conditions

FOLDER = "episodes"  # in the run folder
FILE = "episodes.json"
SUCCESSES = 2  # episodes that are kept as animations, per profile or room
FAILURES, PER_MODE = 6, 2  # the same of failed episodes, in all and per cause
SIDE = 192  # px, of an animation
IMAGES_PER_S = 10.0  # of an animation, which plays in real time
LAST_MS = 1200  # duration of the last image
QUALITY = 45  # of WebP, 0 to 100


@dataclass(frozen=True)
class KeptEpisode:
    """An episode that was played for an evaluation."""

    seed: int
    success: bool
    steps: int  # camera frames
    distance_m: float  # from success, at the end
    mode: str | None  # cause of the failure, a `FailureMode`
    animation: str | None = None  # name of its file, if it was kept


@dataclass(frozen=True)
class KeptSeries:
    """The episodes under one profile or in one room."""

    folder: Path
    world: str
    profile: str
    rate_hz: float  # of the camera
    episodes: tuple[KeptEpisode, ...]


class Film:
    """The images of one episode, as the policy received them."""

    def __init__(self, bundle: Bundle, world: ArmWorld) -> None:
        self._intrinsics, self._world = bundle.contract.camera.intrinsics, world
        rate = bundle.contract.camera.rate_hz
        self._every = max(1, round(rate / IMAGES_PER_S))
        self._image_ms = round(1000 * self._every / rate)
        self._percepts: list[Percept] = []
        self._seen = 0

    def add(self, percept: Percept) -> None:
        """Take the next image."""
        if self._seen % self._every == 0:
            self._percepts.append(percept)
        self._last = percept
        self._seen += 1

    def animation(self) -> bytes:
        """Return the episode as an animated WebP, with feature points, object pose, goal and domain shift drawn in."""
        percepts = [*self._percepts, self._last]
        frames = [Image.fromarray(self._drawn(percept)) for percept in percepts]
        times = [self._image_ms] * (len(frames) - 1) + [LAST_MS]
        buffer = io.BytesIO()
        frames[0].save(
            buffer,
            "WEBP",
            save_all=True,
            append_images=frames[1:],
            duration=times,
            loop=0,
            quality=QUALITY,
            minimize_size=True,
        )
        return buffer.getvalue()

    def _drawn(self, percept: Percept) -> np.ndarray:
        goal = self._world.task.goal_point()
        if goal is not None:
            T_camera_base = np.linalg.inv(self._world.camera.T_base_camera)
            goal = T_camera_base[:3, :3] @ goal + T_camera_base[:3, 3]
        drawn = draw(percept.image, self._intrinsics, percept.features, percept.object_pose, percept.domain_shift, goal)
        height = round(SIDE * drawn.shape[0] / drawn.shape[1])
        return np.asarray(cv2.resize(drawn, (SIDE, height), interpolation=cv2.INTER_AREA))


class Album:
    """Plays episodes in process and keeps them in `<run>/episodes/<world>_<profile>/`.

    Parameters
    ----------
    run
        The run folder.
    """

    def __init__(self, run: Path) -> None:
        self._run = run

    def clear(self) -> None:
        """Remove all episodes: those of an older policy. Raises ConfigurationError if that is impossible."""
        with explained(self._run / FOLDER):
            if (self._run / FOLDER).exists():
                shutil.rmtree(self._run / FOLDER)

    def play(self, series: Series, report: Report) -> tuple[list[Outcome], dict[str, Any]]:
        """Play episodes as `evaluate.play_in_process` does; return their outcomes, and `failures` by cause."""
        conditions = load_conditions(series.world, series.profile)
        rollout = Rollout(series.bundle, conditions, arm=series.arm)
        traced, grips = TracedRollout(series.bundle, rollout), rollout.world.task.grips
        traces, episodes, animations = [], [], dict[str, bytes]()
        kept: Counter[str | None] = Counter()
        for number in range(series.episodes):
            film = Film(series.bundle, rollout.world)
            trace = traced.play(series.seed + number, film.add)
            traces.append(trace)
            assert trace.outcome is not None
            mode, animation = trace.mode_of(grips), None
            if wanted(kept, mode):
                kept[mode] += 1
                animation = f"seed_{trace.seed}.webp"
                animations[animation] = film.animation()
            outcome = trace.outcome
            episodes.append(
                KeptEpisode(trace.seed, outcome.success, outcome.steps, outcome.distance_m, mode, animation)
            )
            report(number, outcome)
        rollout.close()
        kept_series = KeptSeries(
            series_folder(self._run, series.world, conditions.name),
            series.world,
            conditions.name,
            series.bundle.contract.camera.rate_hz,
            tuple(episodes),
        )
        write_series(kept_series, animations)
        return [trace.outcome for trace in traces if trace.outcome is not None], {
            "failures": count_modes(traces, grips)
        }


def wanted(kept: Counter[str | None], mode: str | None) -> bool:
    """Return whether one more episode of this cause, or a success if it is None, becomes an animation."""
    if mode is None:
        return kept[None] < SUCCESSES
    return kept[mode] < PER_MODE and kept.total() - kept[None] < FAILURES


def series_folder(run: Path, world: str, profile: str) -> Path:
    """Return the folder of the episodes under one profile or in one room."""
    return run / FOLDER / re.sub(r"[^\w.-]", "_", f"{world}_{profile}")


def write_series(series: KeptSeries, animations: dict[str, bytes]) -> None:
    """Write the episodes and their animations; an older series of the same profile is replaced.

    Raises ConfigurationError if they cannot be written.
    """
    shutil.rmtree(series.folder, ignore_errors=True)
    for name, data in animations.items():
        write_whole(series.folder / name, data)
    document = {
        "world": series.world,
        "profile": series.profile,
        "rate_hz": series.rate_hz,
        **count(series.episodes).document(),
        "episodes": [asdict(episode) for episode in series.episodes],
    }
    # The animations are there before a file names them.
    write_whole(series.folder / FILE, json.dumps(document, indent=1) + "\n", AGAIN)


def read_album(run: Path) -> list[KeptSeries]:
    """Read the episodes of all profiles and rooms: first those of PyBullet, each in the order of writing.

    Raises
    ------
    ConfigurationError
        If a file is damaged.
    """
    files = sorted((run / FOLDER).glob(f"*/{FILE}"), key=lambda file: file.stat().st_mtime)
    return sorted((_read_series(file) for file in files), key=lambda series: series.world != "pybullet")


def _read_series(file: Path) -> KeptSeries:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        episodes = tuple(KeptEpisode(**row) for row in document.pop("episodes"))
        return KeptSeries(file.parent, document["world"], document["profile"], float(document["rate_hz"]), episodes)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(
            f"{file}: cannot be read ({type(error).__name__}: {error}); remove its folder, or play the episodes again "
            "with `rlfp evaluate BUNDLE --report RUN`"
        ) from None
