"""Reads a LeRobotDataset v3.0 that any program wrote, with pyarrow and av alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from rlfp_ros import schema
from rlfp_ros.data.lerobot import layout
from rlfp_ros.data.lerobot.layout import FeatureEntry, FilePlace, Info
from rlfp_ros.data.lerobot.video import read_frames
from rlfp_ros.schema import ConfigurationError

NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "bool")
VISUAL = ("video", "image")
TIME_TOLERANCE_S = 1e-3  # between a row's time stamp and its number divided by the rate
AGAIN = "copy the whole dataset again"


@dataclass(frozen=True)
class LerobotEpisode:
    """One episode: which rows and which part of the videos belong to it, and the columns of its row in `meta/`."""

    number: int
    length: int
    columns: dict[str, Any]


class LerobotDataset:
    """A dataset whose `meta/` was read and checked.

    Parameters
    ----------
    directory
        The dataset's folder, with `meta/info.json`.

    Attributes
    ----------
    info : Info
        Rate and features.
    episodes : tuple of LerobotEpisode
        In order.

    Raises
    ------
    ConfigurationError
        If the folder does not hold a LeRobotDataset v3.0, or a file of `meta/` is missing or wrong.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.info = _info(directory)
        self.episodes = tuple(self._episodes())
        self._table: tuple[Path, Any] | None = None  # the data file that was read last

    def feature(self, name: str) -> FeatureEntry:
        """Return a feature's entry. Raises ConfigurationError, which lists the features, if there is none."""
        found = self.info.features.get(name)
        if found is None:
            known = ", ".join(key for key in self.info.features if key not in layout.DEFAULT_FEATURES)
            raise ConfigurationError(f"{self.directory}: has no feature {name!r}, expected one of: {known}")
        return found

    def visual_features(self) -> tuple[str, ...]:
        """Return the names of the features that are images."""
        return tuple(name for name, entry in self.info.features.items() if entry.dtype in VISUAL)

    def numbers(self, episode: LerobotEpisode, feature: str) -> np.ndarray:
        """Read a feature's values [N, ...] in an episode.

        Raises
        ------
        ConfigurationError
            If the feature is not there or not of numbers, or the rows are not those of the episode.
        """
        entry = self.feature(feature)
        if entry.dtype not in NUMBERS:
            raise ConfigurationError(f"{self.directory}: feature {feature} is of type {entry.dtype}, expected numbers")
        column = self._column(self._rows(episode), feature).combine_chunks()
        width = int(np.prod(entry.shape))
        while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
            column = column.flatten()
        if pa.types.is_null(column.type) or not pa.types.is_primitive(column.type):
            raise ConfigurationError(
                f"{self.directory}: feature {feature} is stored as {column.type}, expected {entry.dtype}; {AGAIN}"
            )
        values = column.to_numpy(zero_copy_only=False)
        if values.shape != (episode.length * width,) or column.null_count:
            raise ConfigurationError(
                f"{self.directory}: feature {feature} has {len(values)} values in episode {episode.number}, expected "
                f"{episode.length} x {width}; {AGAIN}"
            )
        return values if entry.shape == (1,) else values.reshape(episode.length, *entry.shape)

    def images(self, episode: LerobotEpisode, feature: str) -> Iterator[np.ndarray]:
        """Yield the images of an episode, uint8 [H, W, 3] rgb.

        Raises
        ------
        ConfigurationError
            If the feature is not there or not of images, or an image cannot be decoded.
        """
        entry = self.feature(feature)
        if entry.dtype == "video":
            yield from self._video(episode, feature)
        elif entry.dtype == "image":
            for cell in self._column(self._rows(episode), feature).to_pylist():
                yield _decoded(cell, f"{self.directory}: feature {feature} in episode {episode.number}")
        else:
            raise ConfigurationError(f"{self.directory}: feature {feature} is of type {entry.dtype}, expected images")

    def _video(self, episode: LerobotEpisode, feature: str) -> Iterator[np.ndarray]:
        source = f"{self.directory}: episode {episode.number}"
        place = self._place(episode, f"videos/{feature}")
        begins_s = _number(episode.columns, f"videos/{feature}/from_timestamp", source)
        path = place.path(self.directory, layout.VIDEO_FILE, feature)
        if not path.is_file():
            raise ConfigurationError(f"{path}: no such file, but {source} is in it; {AGAIN}")
        yield from read_frames(path, round(begins_s * self.info.fps), episode.length, self.info.fps)

    def _rows(self, episode: LerobotEpisode) -> Any:
        """Return the table of an episode's rows, whose time stamps were checked."""
        path = self._place(episode, "data").path(self.directory, layout.DATA_FILE)
        if self._table is None or self._table[0] != path:
            self._table = (path, _table(path))
        table = self._table[1]
        numbers, stamps = (self._column(table, name) for name in ("episode_index", "timestamp"))
        if not pa.types.is_integer(numbers.type) or not pa.types.is_floating(stamps.type):
            raise ConfigurationError(
                f"{path}: episode_index is {numbers.type} and timestamp is {stamps.type}, expected int64 and "
                f"float; {AGAIN}"
            )
        mine = table.filter(pa.compute.equal(numbers, episode.number))
        if len(mine) != episode.length:
            raise ConfigurationError(
                f"{path}: has {len(mine)} rows of episode {episode.number}, expected {episode.length}; {AGAIN}"
            )
        stamps = np.nan_to_num(mine.column("timestamp").to_numpy(), nan=np.inf)
        late = np.abs(stamps - np.arange(len(stamps)) / self.info.fps)
        if late.max(initial=0.0) > TIME_TOLERANCE_S + 1e-6 * len(stamps):
            row = int(np.argmax(late > TIME_TOLERANCE_S))
            raise ConfigurationError(
                f"{path}: row {row} of episode {episode.number} is of {stamps[row]:.3f} s, expected "
                f"{row / self.info.fps:.3f} s at {self.info.fps:g} Hz; a dataset with gaps cannot be used"
            )
        return mine

    def _column(self, table: Any, name: str) -> Any:
        if name not in table.column_names:
            raise ConfigurationError(f"{self.directory}: a data file has no column {name}; {AGAIN}")
        return table.column(name)

    def _place(self, episode: LerobotEpisode, of: str) -> FilePlace:
        source = f"{self.directory}: episode {episode.number}"
        chunk, file = (_number(episode.columns, f"{of}/{name}", source) for name in ("chunk_index", "file_index"))
        return FilePlace(int(chunk), int(file))

    def _episodes(self) -> Iterator[LerobotEpisode]:
        files = sorted((self.directory / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
        if not files:
            raise ConfigurationError(f"{self.directory}: has no files in meta/episodes; {AGAIN}")
        count = 0
        for path in files:
            table = _table(path)
            kept = [name for name in table.column_names if not name.startswith("stats/")]
            for row in table.select(kept).to_pylist():
                number, length = (int(_number(row, name, str(path))) for name in ("episode_index", "length"))
                if number != count or length < 1:
                    raise ConfigurationError(
                        f"{path}: lists episode {number} with {length} rows, expected episode {count}; {AGAIN}"
                    )
                count += 1
                yield LerobotEpisode(number, length, row)
        if count != self.info.total_episodes:
            raise ConfigurationError(
                f"{self.directory}: meta/episodes lists {count} episodes, but {layout.INFO_FILE} says "
                f"{self.info.total_episodes}; {AGAIN}"
            )


def _info(directory: Path) -> Info:
    path = directory / layout.INFO_FILE
    if not path.is_file():
        raise ConfigurationError(f"{directory}: is not a LeRobot dataset, it has no {layout.INFO_FILE}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: is not JSON ({error}); {AGAIN}") from None
    version = document.get("codebase_version") if isinstance(document, dict) else None
    if isinstance(version, str) and version != layout.VERSION:
        raise ConfigurationError(
            f"{path}: codebase_version is {schema.shown(version)}, expected {layout.VERSION}; convert it with "
            "LeRobot's convert_dataset_v21_to_v30"
        )
    return schema.validate(document, Info, str(path))


def _table(path: Path) -> Any:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigurationError(f"{path}: cannot be read as Parquet ({reason}); {AGAIN}") from None


def _number(columns: dict[str, Any], name: str, source: str) -> float:
    value = columns.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= layout.MAX_FRAMES:
        raise ConfigurationError(f"{source}: {name} is {schema.shown(value)}, expected a number from 0; {AGAIN}")
    return value


def _decoded(cell: Any, source: str) -> np.ndarray:
    """Decode the struct that stands for one image."""
    data = cell.get("bytes") if isinstance(cell, dict) else None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if isinstance(data, bytes) and data else None
    if image is None:
        raise ConfigurationError(f"{source} has an image that cannot be decoded; {AGAIN}")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
