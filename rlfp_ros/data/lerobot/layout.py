"""The layout of a LeRobotDataset v3.0: names of files, features, and `meta/info.json`.

References
----------
LeRobot, "LeRobotDataset v3.0", https://huggingface.co/docs/lerobot/lerobot-dataset-v3. If the text and LeRobot's code
differ, the code decides: tasks are in `meta/tasks.parquet`, and `fps` is a whole number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from rlfp_ros.schema import Schema

VERSION = "v3.0"
INFO_FILE, STATISTICS_FILE, TASKS_FILE = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
EPISODES_FILE = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_FILE = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_FILE = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_PER_CHUNK = 1000
DATA_FILE_MB, VIDEO_FILE_MB = 100, 200  # a larger file is followed by another one
IMAGE_AXES = ("height", "width", "channels")
MAX_FEATURES = 10_000
MAX_EPISODES = 10_000_000
MAX_FRAMES = 10_000_000_000
MAX_VALUES = 1_000_000_000  # along one axis of a feature


@dataclass(frozen=True)
class Feature:
    """One feature of a row.

    Attributes
    ----------
    dtype
        numpy's name of the type, or video.
    shape
        (1,) is stored as a number.
    names
        One for each value, with its unit; None for the columns that every dataset has.
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None

    def document(self) -> dict[str, Any]:
        """Return the entry in `info.json`."""
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "names": None if self.names is None else list(self.names),
        }


# The columns that every dataset has.
DEFAULT_FEATURES = {
    "timestamp": Feature("float32", (1,)),
    "frame_index": Feature("int64", (1,)),
    "episode_index": Feature("int64", (1,)),
    "index": Feature("int64", (1,)),
    "task_index": Feature("int64", (1,)),
}


@dataclass(frozen=True)
class FilePlace:
    """Number of a file, by chunk and in its chunk."""

    chunk: int = 0
    file: int = 0

    def next(self) -> FilePlace:
        """Return the place of the file after this one."""
        return FilePlace(self.chunk, self.file + 1) if self.file + 1 < FILES_PER_CHUNK else FilePlace(self.chunk + 1, 0)

    def path(self, root: Path, template: str, video_key: str = "") -> Path:
        """Return the file's path."""
        return root / template.format(chunk_index=self.chunk, file_index=self.file, video_key=video_key)


class _Lenient(Schema):
    """A document that other programs write: what we do not need may be there."""

    model_config = ConfigDict(extra="ignore")


class FeatureEntry(_Lenient):
    """One feature in `info.json`."""

    dtype: str
    shape: tuple[Annotated[int, Field(ge=0, le=MAX_VALUES)], ...] = Field(max_length=8)
    names: Any = None  # a list, a dictionary with one list, or nothing

    @property
    def value_names(self) -> tuple[str, ...]:
        """Names of the values; empty if the file gives none."""
        names = self.names
        if isinstance(names, dict) and len(names) == 1:  # {"motors": [...]}, as early datasets have it
            (names,) = names.values()
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return ()
        return tuple(names)


class Info(_Lenient):
    """`meta/info.json`."""

    codebase_version: Literal["v3.0"]
    robot_type: str | None = None
    fps: float = Field(gt=0, le=1e6)
    total_episodes: int = Field(ge=0, le=MAX_EPISODES)
    total_frames: int = Field(ge=0, le=MAX_FRAMES)
    data_path: Literal["data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"] = (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    )
    video_path: Literal["videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"] | None = None
    features: dict[str, FeatureEntry] = Field(max_length=MAX_FEATURES)
