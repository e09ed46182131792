"""Writes a LeRobotDataset v3.0, episode by episode, with pyarrow and av alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlfp_ros.data.lerobot import layout
from rlfp_ros.data.lerobot.layout import DEFAULT_FEATURES, IMAGE_AXES, Feature, FilePlace
from rlfp_ros.data.lerobot.statistics import ImageStatistics, Statistics, as_document, statistics_of
from rlfp_ros.data.lerobot.video import VideoWriter, video_document
from rlfp_ros.files import write_whole

Columns = Mapping[str, np.ndarray]  # [N] or [N, n] by feature
MEGABYTE = 2**20


@dataclass
class _Video:
    """The file that is being written for one video feature."""

    place: FilePlace
    writer: VideoWriter | None = None
    first: int = 0  # number of the open episode's first image in the file


class LerobotWriter:
    """Writes a dataset: `add` parts of an episode, `end_episode`, and `close` after the last one.

    Parameters
    ----------
    directory
        An empty folder.
    fps
        Rows per second.
    features
        What `add` is given as columns, without the columns that every dataset has.
    videos
        Width and height of the images, px, by feature.
    robot_type
        Name of the robot.
    episode_columns
        Names of the texts that `end_episode` is given.
    video_file_mb
        A larger video file is followed by another one.
    """

    def __init__(
        self,
        directory: Path,
        fps: int,
        features: Mapping[str, Feature],
        videos: Mapping[str, tuple[int, int]],
        robot_type: str,
        episode_columns: Sequence[str] = (),
        video_file_mb: float = layout.VIDEO_FILE_MB,
    ) -> None:
        self._directory, self._fps, self._robot_type = directory, fps, robot_type
        self._features = dict(features) | DEFAULT_FEATURES
        self._sizes = dict(videos)
        self._episode_columns = tuple(episode_columns)
        self._video_file_bytes = video_file_mb * MEGABYTE
        self._videos = {key: _Video(FilePlace()) for key in videos}
        self._parts: list[dict[str, np.ndarray]] = []  # of the open episode
        self._open_images = {key: ImageStatistics() for key in videos}
        self._images = {key: ImageStatistics() for key in videos}
        self._kept: dict[str, list[np.ndarray]] = {key: [] for key in self._features}  # for the statistics of all rows
        self._schema = pa.schema([pa.field(key, _arrow_type(feature)) for key, feature in self._features.items()])
        self._data: pq.ParquetWriter | None = None
        self._data_place, self._data_bytes = FilePlace(), 0
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._rows = 0

    @property
    def rows(self) -> int:
        """Number of rows in the episodes that have ended."""
        return self._rows

    def add(self, columns: Columns, images: Mapping[str, Iterable[np.ndarray]]) -> None:
        """Append rows to the open episode.

        Parameters
        ----------
        columns
            N values of each feature.
        images
            N images, uint8 [H, W, 3] rgb, of each video feature.
        """
        self._parts.append({key: np.asarray(values) for key, values in columns.items()})
        for key, each in images.items():
            video = self._videos[key]
            if video.writer is None:
                path = video.place.path(self._directory, layout.VIDEO_FILE, key)
                video.writer = VideoWriter(path, *self._sizes[key], self._fps)
            for image in each:
                self._open_images[key].add(image)
                video.writer.add(image)

    def end_episode(self, task: str, texts: Mapping[str, str]) -> None:
        """End the open episode.

        Parameters
        ----------
        task
            The task in words.
        texts
            Values of the episode's own columns.
        """
        columns = {key: np.concatenate([part[key] for part in self._parts]) for key in self._parts[0]}
        count, number = len(next(iter(columns.values()))), len(self._episodes)
        frames = np.arange(count)
        columns |= {
            "timestamp": (frames / self._fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(count, number),
            "index": self._rows + frames,
            "task_index": np.full(count, self._tasks.setdefault(task, len(self._tasks))),
        }
        statistics = {key: statistics_of(columns[key]) for key in self._features}
        for key, values in columns.items():
            self._kept[key].append(values)
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [task],
            "length": count,
            **self._write_data(columns),
            "dataset_from_index": self._rows,
            "dataset_to_index": self._rows + count,
        }
        for key in self._videos:
            row |= self._end_video(key, count)
            statistics[key] = self._open_images[key].statistics()
            self._images[key].merge(self._open_images[key])
            self._open_images[key] = ImageStatistics()
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        row |= {name: texts[name] for name in self._episode_columns}
        row |= {f"stats/{key}/{name}": value for key, each in statistics.items() for name, value in each.items()}
        self._episodes.append(row)
        self._rows += count
        self._parts = []

    def close(self) -> None:
        """Close the files and write everything in `meta/`."""
        if self._data is not None:
            self._data.close()
        for video in self._videos.values():
            if video.writer is not None:
                video.writer.close()
        self._write_tasks()
        self._write_episodes()
        statistics: dict[str, Statistics] = {
            key: statistics_of(np.concatenate(parts)) for key, parts in self._kept.items()
        }
        statistics |= {key: each.statistics() for key, each in self._images.items()}
        self._write_json(layout.STATISTICS_FILE, as_document(statistics))
        self._write_json(layout.INFO_FILE, self._info())

    def _write_data(self, columns: Columns) -> dict[str, int]:
        """Write an episode's rows as one row group, and return which file they are in."""
        if self._data is not None and self._data_bytes > layout.DATA_FILE_MB * MEGABYTE:
            self._data.close()
            self._data, self._data_place, self._data_bytes = None, self._data_place.next(), 0
        if self._data is None:
            path = self._data_place.path(self._directory, layout.DATA_FILE)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data = pq.ParquetWriter(path, self._schema, compression="snappy")
        arrays = [_arrow_array(columns[key], feature) for key, feature in self._features.items()]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._data.write_table(table, row_group_size=max(1, len(table)))
        self._data_bytes += table.nbytes
        return {"data/chunk_index": self._data_place.chunk, "data/file_index": self._data_place.file}

    def _end_video(self, key: str, count: int) -> dict[str, Any]:
        """Return which part of a video file the open episode is, and end the file if it is large."""
        video = self._videos[key]
        writer = video.writer
        assert writer is not None
        if writer.frames != video.first + count:
            raise ValueError(f"{key} has {writer.frames - video.first} images, expected {count}, one for each row")
        row = {
            f"videos/{key}/chunk_index": video.place.chunk,
            f"videos/{key}/file_index": video.place.file,
            # Whole images divided by the rate: adding up durations would drift.
            f"videos/{key}/from_timestamp": video.first / self._fps,
            f"videos/{key}/to_timestamp": writer.frames / self._fps,
        }
        video.first = writer.frames
        if writer.size > self._video_file_bytes:
            writer.close()
            self._videos[key] = _Video(video.place.next())
        return row

    def _write_tasks(self) -> None:
        """Write the tasks with the index of a pandas table, by which LeRobot finds a task's text."""
        columns = [("task_index", "int64", "int64"), ("task", "unicode", "object")]
        index = {
            "index_columns": ["task"],
            "column_indexes": [],
            "columns": [
                {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
                for name, kind, numpy_kind in columns
            ],
            "pandas_version": "2.2.0",
        }
        table = pa.table(
            {"task_index": pa.array(list(self._tasks.values()), pa.int64()), "task": pa.array(list(self._tasks))}
        )
        path = self._directory / layout.TASKS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata({b"pandas": json.dumps(index).encode()}), path)

    def _write_episodes(self) -> None:
        columns = {name: [_plain(row[name]) for row in self._episodes] for name in self._episodes[0]}
        path = FilePlace().path(self._directory, layout.EPISODES_FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)

    def _info(self) -> dict[str, Any]:
        features: dict[str, Any] = {}
        for key, (width, height) in self._sizes.items():
            entry = Feature("video", (height, width, 3), IMAGE_AXES).document()
            features[key] = entry | {"info": video_document(width, height, self._fps)}
        features |= {key: feature.document() for key, feature in self._features.items()}
        return {
            "codebase_version": layout.VERSION,
            "robot_type": self._robot_type,
            "total_episodes": len(self._episodes),
            "total_frames": self._rows,
            "total_tasks": len(self._tasks),
            "chunks_size": layout.FILES_PER_CHUNK,
            "data_files_size_in_mb": layout.DATA_FILE_MB,
            "video_files_size_in_mb": layout.VIDEO_FILE_MB,
            "fps": self._fps,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": layout.DATA_FILE,
            "video_path": layout.VIDEO_FILE if self._sizes else None,
            "features": features,
        }

    def _write_json(self, name: str, document: Any) -> None:
        write_whole(self._directory / name, json.dumps(document, indent=4) + "\n")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _arrow_type(feature: Feature) -> Any:
    base = pa.from_numpy_dtype(np.dtype(feature.dtype))
    return base if feature.shape == (1,) else pa.list_(base, feature.shape[0])


def _arrow_array(values: np.ndarray, feature: Feature) -> Any:
    flat = pa.array(np.ascontiguousarray(values, dtype=feature.dtype).ravel())
    return flat if feature.shape == (1,) else pa.FixedSizeListArray.from_arrays(flat, feature.shape[0])
