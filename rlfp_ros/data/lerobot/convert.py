"""`rlfp dataset --from-lerobot`: a LeRobotDataset v3.0 of any program as a dataset of the episodes that it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlfp_ros.contract import Bundle
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.observation import ObservationContract, Observer
from rlfp_ros.data.admission import RATE_TOLERANCE
from rlfp_ros.data.build import FEWEST_FRAMES, MOST_FRAMES
from rlfp_ros.data.dataset import (
    Dataset,
    DatasetDocument,
    DecidedBy,
    EpisodeArrays,
    EpisodeEntry,
    Outcome,
    write_dataset,
    write_episode,
)
from rlfp_ros.data.lerobot import rows
from rlfp_ros.data.lerobot.mapping import LerobotMapping, MappedValues, load_mapping, own_mapping
from rlfp_ros.data.lerobot.reader import LerobotDataset, LerobotEpisode
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.perception.preprocess import Preprocessor
from rlfp_ros.recording.labels import BagLabel, label_in
from rlfp_ros.schema import ConfigurationError

LIMIT_MARGIN_RAD = 0.05
LATEST_NS = 2**62  # of a stamp


def convert_lerobot(source: Path, bundle: Bundle, arm: Arm, out: Path, mapping_file: Path | None = None) -> Dataset:
    """Write the episodes of a LeRobotDataset as a dataset, completely or not at all.

    Parameters
    ----------
    source
        The LeRobotDataset's folder.
    bundle
        The bundle whose view of the images the dataset gets.
    arm
        The arm in the images.
    out
        The dataset's folder, which must not exist.
    mapping_file
        Which of its values are the arm's joints; None for a dataset that `export-lerobot` wrote.

    Raises
    ------
    ConfigurationError
        If the dataset cannot be read, its joints, rate or images do not fit, or `out` exists or cannot be written.
    """
    dataset = LerobotDataset(source)
    mapping = own_mapping(dataset, arm) if mapping_file is None else load_mapping(mapping_file, arm)
    fps, trained = dataset.info.fps, bundle.contract.camera.rate_hz
    if abs(fps - trained) > RATE_TOLERANCE * trained:
        raise ConfigurationError(
            f"{source}: has {fps:g} images per second, expected {trained:g}, the rate of bundle "
            f"{bundle.contract.name}, to within {RATE_TOLERANCE:.0%}; record at this rate, or train for {fps:g} Hz"
        )

    def fill(folder: Path) -> DatasetDocument:
        conversion = _Conversion(dataset, mapping, bundle, arm, folder)
        for episode in dataset.episodes:
            conversion.add(episode)
        return conversion.document()

    return write_dataset(out, fill)


@dataclass(frozen=True)
class _Origin:
    """What our own export says of an episode; the defaults for one of another program."""

    start_ns: int = 0
    outcome: Outcome = "unknown"
    label: BagLabel | None = None
    bag: str = ""


class _Conversion:
    """Collects the episodes of one LeRobotDataset."""

    def __init__(
        self, dataset: LerobotDataset, mapping: LerobotMapping, bundle: Bundle, arm: Arm, folder: Path
    ) -> None:
        self._dataset, self._bundle, self._arm, self._folder = dataset, bundle, arm, folder
        self._contract = bundle.contract
        self._image = self._image_feature(mapping.image)
        self._intrinsics = mapping.camera
        self._state_name, self._command_name = mapping.state, mapping.command
        self._state = MappedValues(dataset, mapping.state, mapping, arm)
        self._command: MappedValues | None = None
        if mapping.command:
            self._command = MappedValues(dataset, mapping.command, mapping, arm, with_gripper=False)
        self._preprocess = Preprocessor(bundle.contract)
        self._observer = Observer(arm, ObservationContract(bundle.contract.proprioception))
        self._entries: list[EpisodeEntry] = []
        self._remarks: list[str] = []
        if not self._has(rows.VELOCITY, rows.velocity_names(arm)):
            self._remark("has no joint velocities; they are differences of the positions")
        if mapping.gripper is None and arm.gripper is not None:
            self._remark("has no width of the gripper; it is 0")
        self._check_positions()

    def add(self, episode: LerobotEpisode) -> None:
        """Write an episode, in several files if it is long."""
        if episode.length < FEWEST_FRAMES:
            self._remark(f"refused episode {episode.number} of {episode.length} images, expected {FEWEST_FRAMES}")
            return
        origin = self._origin(episode)
        columns, repeated = self._columns(episode, origin.start_ns)
        images = self._dataset.images(episode, self._image)
        source = f"{self._dataset.directory}: episode {episode.number}"
        for first in range(0, episode.length, MOST_FRAMES):
            part = slice(first, min(first + MOST_FRAMES, episode.length))
            seen = np.stack([self._seen(next(images), source) for _ in range(part.start, part.stop)])
            arrays = EpisodeArrays(images=seen, **{name: values[part] for name, values in columns.items()})
            self._write(arrays, origin, episode, repeated[part], part.stop < episode.length)

    def document(self) -> DatasetDocument:
        """Return what is to be written to `dataset.yaml`. Raises ConfigurationError if there is no episode."""
        if not self._entries:
            raise ConfigurationError(
                f"{self._dataset.directory}: no episode could be used: {'; '.join(self._remarks[:2]) or 'it has none'}"
            )
        return DatasetDocument.of(self._contract, self._arm, self._entries, self._remarks)

    def _remark(self, text: str) -> None:
        self._remarks.append(f"{self._dataset.directory.name}: {text}")

    def _image_feature(self, name: str) -> str:
        known = self._dataset.visual_features()
        if not name and len(known) == 1:
            return known[0]
        if name not in known:
            found = f"has no images {name!r}" if name else f"has {len(known)} features with images"
            raise ConfigurationError(
                f"{self._dataset.directory}: {found}; give the mapping's `image` one of: {', '.join(known) or 'none'}"
            )
        return name

    def _has(self, feature: str, names: tuple[str, ...]) -> bool:
        entry = self._dataset.info.features.get(feature)
        return entry is not None and entry.value_names == names

    def _check_positions(self) -> None:
        """Check the first episode's joints against the arm's limits, which shows a wrong unit."""
        if not self._dataset.episodes:
            return
        episode = self._dataset.episodes[0]
        positions = self._state.joints(self._matrix(episode, self._state_name))
        lower, upper = np.array(self._arm.limits.lower), np.array(self._arm.limits.upper)
        outside = (positions < lower - LIMIT_MARGIN_RAD) | (positions > upper + LIMIT_MARGIN_RAD)
        if outside.any(axis=1).mean() <= 0.5:
            return
        worst = int(np.argmax(outside.mean(axis=0)))
        found = f"{self._arm.joint_names[worst]} is {np.median(positions[:, worst]):.3g}"
        raise ConfigurationError(
            f"{self._dataset.directory}: {found}, expected {lower[worst]:.3g} to {upper[worst]:.3g} rad; correct the "
            "mapping's joints, unit, scale or offset"
        )

    def _matrix(self, episode: LerobotEpisode, feature: str) -> np.ndarray:
        values = self._dataset.numbers(episode, feature).astype(np.float64)
        if not np.isfinite(values).all():
            raise ConfigurationError(
                f"{self._dataset.directory}: feature {feature} has values in episode {episode.number} that are not "
                "finite; remove the episode"
            )
        return values.reshape(episode.length, -1)

    def _columns(self, episode: LerobotEpisode, start_ns: int) -> tuple[dict[str, Any], np.ndarray]:
        """Return the arrays of an episode but its images, and which of its images are repeated."""
        state = self._matrix(episode, self._state_name)
        positions, widths = self._state.joints(state), self._state.gripper_widths(state)
        frames = np.arange(episode.length)
        stamps = start_ns + np.round(frames * 1e9 / self._dataset.info.fps).astype(np.int64)
        if start_ns and self._has(rows.TIME, ("time_s",)):
            stamps = start_ns + np.round(1e9 * self._matrix(episode, rows.TIME)[:, 0]).astype(np.int64)
        if self._has(rows.VELOCITY, rows.velocity_names(self._arm)):
            velocities = self._matrix(episode, rows.VELOCITY)
        else:
            velocities = np.gradient(positions, axis=0) * self._dataset.info.fps
        commands = np.full_like(positions, np.nan)
        if self._command is not None:  # an action is the command at the next image
            commands[1:] = self._command.joints(self._matrix(episode, self._command_name))[:-1]
        states = [
            JointState(int(stamp), position, velocity, np.zeros_like(position), float(width))
            for stamp, position, velocity, width in zip(stamps, positions, velocities, widths, strict=True)
        ]
        repeated = np.zeros(episode.length, bool)
        if self._has(rows.IS_NEW, (rows.IS_NEW,)):
            repeated = ~self._dataset.numbers(episode, rows.IS_NEW).astype(bool)
        columns = {
            "stamps_ns": stamps,
            "positions": positions,
            "velocities": velocities,
            "gripper_widths": widths,
            "proprioception": np.stack([self._observer.proprioception(each) for each in states]),
            "asked": self._actions(episode, rows.ASKED),
            "applied": self._actions(episode, rows.APPLIED),
            "commands": commands,
        }
        if self._has(rows.DECIDED_BY, rows.DECIDERS):
            deciders = self._dataset.numbers(episode, rows.DECIDED_BY)
            known = np.isin(deciders, [each.value for each in DecidedBy])
            columns["decided_by"] = np.where(known, deciders, DecidedBy.POLICY).astype(np.uint8)
        return columns, repeated

    def _actions(self, episode: LerobotEpisode, feature: str) -> np.ndarray:
        """Return the policy's actions [N, A] in action units; NaN if the dataset has none of this bundle's kind."""
        names = rows.residual_names(self._contract)
        if not (self._has(feature, names) and self._has(feature + rows.KNOWN, names)):
            return np.full((episode.length, len(names)), np.nan, np.float32)
        known = self._matrix(episode, feature + rows.KNOWN).astype(bool)
        return rows.actions_from(self._matrix(episode, feature), known, self._contract)

    def _seen(self, image: np.ndarray, source: str) -> np.ndarray:
        """Return an image as the policy sees it."""
        camera = None
        if self._intrinsics is not None:
            height, width = image.shape[:2]
            camera = CameraModel(width, height, self._intrinsics.matrix())
        return np.array(self._preprocess(image, camera, source))

    def _origin(self, episode: LerobotEpisode) -> _Origin:
        columns = episode.columns
        outcome = columns.get(rows.OUTCOME)
        label = {key: columns.get(name) for key, name in rows.LABEL_COLUMNS.items()}
        start = str(columns.get(rows.START) or "")
        return _Origin(
            start_ns=int(start) if start.isdecimal() and len(start) < 20 and int(start) < LATEST_NS else 0,
            outcome=outcome if outcome in ("won", "lost") else self._success(episode),
            label=self._label(label, episode) if label["label"] else None,
            bag=str(columns.get(rows.BAG) or ""),
        )

    def _success(self, episode: LerobotEpisode) -> Outcome:
        """Return `won` if a row says so. LeRobot writes false if it does not know."""
        entry = self._dataset.info.features.get(rows.SUCCESS)
        if entry is None or entry.dtype != "bool":
            return "unknown"
        return "won" if self._dataset.numbers(episode, rows.SUCCESS).any() else "unknown"

    def _label(self, found: dict[str, Any], episode: LerobotEpisode) -> BagLabel | None:
        texts = {key: str(value) for key, value in found.items() if value}
        try:
            return label_in(texts, f"{self._dataset.directory}: episode {episode.number}")
        except ConfigurationError as error:
            self._remark(f"has a label that is not one of ours, so it counts as not labelled ({error})")
            return None

    def _write(
        self, arrays: EpisodeArrays, origin: _Origin, episode: LerobotEpisode, repeated: np.ndarray, continues: bool
    ) -> None:
        name = f"episode_{len(self._entries):04}.npz"
        intervals = np.diff(arrays.stamps_ns) * 1e-9 if len(repeated) > 1 else np.array([1 / self._dataset.info.fps])
        if not (intervals > 0).all():
            raise ConfigurationError(
                f"{self._dataset.directory}: {rows.TIME} does not increase in episode {episode.number}; copy the whole "
                "dataset again"
            )
        self._entries.append(
            EpisodeEntry.of(
                arrays,
                intervals,
                file=name,
                sha256=write_episode(self._folder / name, arrays),
                bag=origin.bag or f"{self._dataset.directory.name}, episode {episode.number}",
                outcome=origin.outcome,
                label=origin.label,
                continues="at once" if continues else "",
                repeated=tuple(np.flatnonzero(repeated).tolist()),
            )
        )
