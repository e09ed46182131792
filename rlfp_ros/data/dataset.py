"""A dataset: a folder with `dataset.yaml` and one file of arrays per episode, written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import Field

from rlfp_ros import schema
from rlfp_ros.contract import CameraContract, Contract, sha256
from rlfp_ros.control.arm import Arm
from rlfp_ros.files import check_writable_folder, explained, full_disk_explained, write_whole
from rlfp_ros.recording.labels import BagLabel
from rlfp_ros.schema import ConfigurationError, Schema
from rlfp_ros.version import VERSION

DATASET_FILE = "dataset.yaml"


class DecidedBy(IntEnum):
    """Who decided on an action."""

    POLICY = 0
    PERSON = 1  # on the operator's page
    NEITHER = 2  # a person had taken over, and the arm waited


@dataclass(frozen=True)
class EpisodeArrays:
    """N images of one episode, and what goes with each of them.

    Attributes
    ----------
    stamps_ns
        int64 [N], of the images' exposures.
    images
        uint8 [N, h, w, 3] rgb, after the bundle's preprocessing: what the encoder takes.
    positions, velocities
        [N, J] rad and rad/s: the newest joint state that is not newer than the image.
    gripper_widths
        [N] m.
    proprioception
        float32 [N, P], as the policy observes the joints.
    asked, applied
        float32 [N, A] in action units: the policy's action, and what the safety controller admitted of it. NaN if the
        bag does not hold it. If a person decided, `applied` is the person's motion as an action, which may exceed 1.
    commands
        [N, J] rad, the first point of the newest trajectory that was sent to the arm before the image. NaN if none was.
    decided_by
        uint8 [N], of `DecidedBy`: who decided on the admitted action. All `POLICY` if it is not given.
    """

    stamps_ns: np.ndarray
    images: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    gripper_widths: np.ndarray
    proprioception: np.ndarray
    asked: np.ndarray
    applied: np.ndarray
    commands: np.ndarray
    decided_by: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))

    def __post_init__(self) -> None:
        if len(self.decided_by) == 0:
            object.__setattr__(self, "decided_by", np.full(len(self.stamps_ns), DecidedBy.POLICY, np.uint8))


Outcome = Literal["won", "lost", "unknown"]
MAX_FRAMES = 1_000_000_000  # of an episode
ImageNumber = Annotated[int, Field(ge=0, le=MAX_FRAMES)]


class EpisodeEntry(Schema):
    """What `dataset.yaml` says of one episode."""

    file: str
    sha256: str
    bag: str  # name of the bag's folder
    frames: int = Field(ge=1, le=MAX_FRAMES)
    duration_s: float = Field(ge=0, le=1e8)
    rate_hz: float = Field(gt=0, le=1e6)  # from the median interval of the images
    longest_gap_s: float = Field(ge=0, le=1e8)  # between two images
    answered: int = Field(ge=0, le=MAX_FRAMES)  # images for which the bag holds the policy's action
    admitted: int = Field(ge=0, le=MAX_FRAMES)  # images for which it holds what the safety controller admitted
    by_person: int = Field(default=0, ge=0, le=MAX_FRAMES)  # images on which a person decided
    outcome: Outcome
    label: BagLabel | None = None  # of the bag, by a person
    # Whether the recorded episode continues in the next file: at once, because this file was full, or after a gap.
    continues: Literal["", "at once", "after a gap"] = ""
    # Numbers of images that were lost; the one before stands for each.
    repeated: tuple[ImageNumber, ...] = ()

    @staticmethod
    def of(arrays: EpisodeArrays, intervals_s: np.ndarray, **others: Any) -> EpisodeEntry:
        """Return the entry of an episode.

        Parameters
        ----------
        arrays
            The episode.
        intervals_s
            Between its images, and from the image before them if they continue an episode.
        others
            The fields that do not follow from these.
        """
        stamps = arrays.stamps_ns
        return EpisodeEntry(
            frames=len(stamps),
            duration_s=round(float(stamps[-1] - stamps[0]) * 1e-9, 3),
            rate_hz=round(1 / float(np.median(intervals_s)), 2),
            longest_gap_s=round(float(intervals_s.max()), 3),
            answered=int(np.isfinite(arrays.asked).any(axis=1).sum()),
            admitted=int(np.isfinite(arrays.applied).any(axis=1).sum()),
            by_person=int((arrays.decided_by == DecidedBy.PERSON).sum()),
            **others,
        )


class DatasetDocument(Schema):
    """`dataset.yaml`."""

    format: Literal[1] = 1
    bundle: str  # name of the bundle that ran
    encoder_sha256: str  # of its encoder.onnx
    task: str
    arm: str
    joint_names: tuple[str, ...]
    camera: CameraContract  # of the images
    action_components: tuple[str, ...]
    episodes: tuple[EpisodeEntry, ...]
    remarks: tuple[str, ...] = ()  # what was split or left out, and why
    written_with: str = ""

    @staticmethod
    def of(contract: Contract, arm: Arm, episodes: Sequence[EpisodeEntry], remarks: Sequence[str]) -> DatasetDocument:
        """Return the document of episodes of an arm, seen as the bundle of `contract` sees it."""
        return DatasetDocument(
            bundle=contract.name,
            encoder_sha256=contract.files["encoder.onnx"],
            task=contract.task,
            arm=arm.name,
            joint_names=arm.joint_names,
            camera=contract.camera,
            action_components=contract.action.components,
            episodes=tuple(episodes),
            remarks=tuple(remarks),
        )


@dataclass(frozen=True)
class Dataset:
    """A dataset whose files were checked."""

    directory: Path
    document: DatasetDocument

    def episode(self, entry: EpisodeEntry) -> EpisodeArrays:
        """Read the arrays of one episode. Raises ConfigurationError if one is missing."""
        path = self.directory / entry.file
        try:
            with np.load(path) as arrays:
                known = [field.name for field in fields(EpisodeArrays)]
                if "decided_by" not in arrays:  # of release 0.2
                    known.remove("decided_by")
                return EpisodeArrays(*(arrays[name] for name in known))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ConfigurationError(f"{path}: is not an episode of a dataset ({error}); build it again") from None

    def episodes(self) -> Iterator[EpisodeArrays]:
        """Read the episodes one after the other."""
        for entry in self.document.episodes:
            yield self.episode(entry)


def load_dataset(directory: Path) -> Dataset:
    """Load a dataset that `rlfp dataset` wrote.

    Raises
    ------
    ConfigurationError
        If the folder is not a dataset, or a file is missing or was changed.
    """
    path = directory / DATASET_FILE
    if not path.is_file():
        raise ConfigurationError(
            f"{directory}: is not a dataset, it has no {DATASET_FILE}; make one with "
            f"`rlfp dataset BAG --out {directory}`"
        )
    document = schema.load(path, DatasetDocument)
    for entry in document.episodes:
        file = directory / entry.file
        if Path(entry.file).name != entry.file or not file.is_file():
            raise ConfigurationError(f"{file}: no such file, but {DATASET_FILE} lists it; copy the whole folder again")
        if sha256(file) != entry.sha256:
            raise ConfigurationError(f"{file}: differs from what {DATASET_FILE} lists; build the dataset again")
    return Dataset(directory, document)


def check_new(directory: Path, what: str) -> None:
    """Check that a folder can be made. Raises ConfigurationError if it exists: nothing is ever overwritten."""
    if directory.exists() or directory.is_symlink():
        raise ConfigurationError(f"{directory}: exists already; choose another folder for the {what} with --out")
    check_writable_folder(directory)


def write_dataset(directory: Path, fill: Callable[[Path], DatasetDocument]) -> Dataset:
    """Write a dataset completely or not at all.

    Parameters
    ----------
    directory
        The dataset's folder, which must not exist.
    fill
        Writes the episodes into the folder that it is given and returns the document that lists them.

    Raises
    ------
    ConfigurationError
        If the folder exists or cannot be written, or whatever `fill` raises. No folder is left then.
    """
    with whole_folder(directory, "dataset") as scratch:
        document = fill(scratch).model_copy(update={"written_with": VERSION})
        text = yaml.safe_dump(document.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=120)
        write_whole(scratch / DATASET_FILE, text)
    return load_dataset(directory)


@contextlib.contextmanager
def whole_folder(directory: Path, what: str) -> Iterator[Path]:
    """Make a folder completely or not at all: the block fills a scratch folder, which becomes `directory` at its end.

    Parameters
    ----------
    directory
        The folder, which must not exist.
    what
        What it holds, for the error.

    Raises
    ------
    ConfigurationError
        If the folder exists or cannot be written. No folder is left then.
    """
    check_new(directory, what)
    with explained(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        with full_disk_explained(directory):
            yield scratch
        scratch.chmod(0o755)
        check_new(directory, what)
        with explained(directory):
            os.rename(scratch, directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_episode(path: Path, arrays: EpisodeArrays) -> str:
    """Write one episode's arrays and return the file's sha256."""
    buffer = io.BytesIO()
    named = {field.name: getattr(arrays, field.name) for field in fields(arrays)}
    np.savez_compressed(buffer, **named)
    write_whole(path, buffer.getvalue())
    return sha256(path)
