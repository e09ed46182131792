"""`rlfp preview`: contact sheets of a policy's images under a profile."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.perception.images import write_image
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.randomization import PARAMETERS, Profile, Range, load_profile

COLUMNS, ROWS = 6, 6
TILE = 168  # px of an image on the sheet
CAPTION = 18  # px below each image
LATER_FRAMES = 45  # each tile shows a random frame below this, so that arm and objects have moved


def preview(
    task: str,
    profile: str,
    arm: str | Path | Arm = "panda",
    out: Path | None = None,
    sweep: str | None = None,
    seed: int = 0,
) -> list[Path]:
    """Write a sheet of 36 episodes and, with `sweep`, one with that parameter from low to high.

    Parameters
    ----------
    task, profile, arm
        Names, or paths of files for profile and arm, or an arm.
    out
        File of the first sheet; the other one gets the parameter's name too.
    sweep
        A parameter that the profile randomises.
    seed
        Seed of the first episode.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ConfigurationError
        If a task, profile, arm or parameter does not exist.
    """
    loaded = load_profile(profile)
    if sweep is not None:
        _check_sweep(sweep, loaded, profile)
    out = out or Path("runs") / f"preview_{task}_{loaded.name}.png"
    env = ManipulationEnv(task, arm, loaded)
    try:
        written = [_write(out, episode_sheet(env, seed))]
        if sweep is not None:
            written.append(_write(out.with_name(f"{out.stem}_{sweep}{out.suffix}"), sweep_sheet(env, sweep, seed)))
    finally:
        env.close()
    return written


def episode_sheet(env: ManipulationEnv, seed: int = 0) -> np.ndarray:
    """Return 36 episodes, each at a random frame, uint8 [H, W, 3] rgb."""
    moments = np.random.default_rng(seed).integers(0, LATER_FRAMES, COLUMNS * ROWS)
    tiles = []
    for index, moment in enumerate(moments):
        _play(env, seed + index, int(moment))
        tiles.append((env.render(), f"seed {seed + index}  frame {moment}"))
    return _sheet(tiles)


def sweep_sheet(env: ManipulationEnv, parameter: str, seed: int = 0) -> np.ndarray:
    """Return one episode 36 times, one parameter from the low to the high end of its range, uint8 [H, W, 3] rgb.

    A parameter with several draws has all of them at the same value.
    """
    profile, tiles = env.world.profile, []
    given = profile.ranges[parameter]
    counted = PARAMETERS[parameter].unit == "count"
    try:
        for values in np.linspace(given.lows, given.highs, COLUMNS * ROWS):
            value = round(values[0]) if counted else float(values[0])
            ends = tuple(values.tolist()) if given.of_joints else value
            fixed = Range(low=ends, high=ends, unit=given.unit)
            env.world.profile = profile.model_copy(update={"ranges": {**profile.ranges, parameter: fixed}})
            _play(env, seed, LATER_FRAMES // 3)
            tiles.append((env.render(), f"{parameter} {value:.3g} {given.unit}"))
    finally:
        env.world.profile = profile
    return _sheet(tiles)


def _check_sweep(parameter: str, profile: Profile, name: str) -> None:
    if parameter not in PARAMETERS:
        raise ConfigurationError(f"--sweep is {parameter!r}, expected one of: {', '.join(PARAMETERS)}")
    if parameter not in profile.ranges:
        there = ", ".join(profile.ranges) or "nothing"
        raise ConfigurationError(f"--sweep is {parameter!r}, but profile {name} randomises: {there}; choose another")


def _play(env: ManipulationEnv, seed: int, frames: int) -> None:
    """Play the first frames of an episode, by the task's teacher or at random; render only the first and the last."""
    env.world.blind = False
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    direction = rng.uniform(-1, 1, env.action_size)  # one direction per episode, so that the arm goes somewhere
    task = env.world.task
    for frame in range(frames):
        env.world.blind = frame + 1 < frames
        action = task.teacher(env.world, env.behaviour.action) if task.has_teacher else direction
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return


def _sheet(tiles: list[tuple[np.ndarray, str]]) -> np.ndarray:
    sheet = np.zeros((ROWS * (TILE + CAPTION), COLUMNS * TILE, 3), np.uint8)
    for index, (image, text) in enumerate(tiles):
        row, column = divmod(index, COLUMNS)
        y, x = row * (TILE + CAPTION), column * TILE
        sheet[y : y + TILE, x : x + TILE] = cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_NEAREST)
        size = min(0.4, 0.4 * (TILE - 6) / cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0])
        place = (x + 3, y + TILE + CAPTION - 5)
        cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, (230, 230, 230), 1, cv2.LINE_AA)
    return sheet


def _write(path: Path, sheet: np.ndarray) -> Path:
    write_image(path, sheet)
    return path
