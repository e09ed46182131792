"""Tests that time stamps lead to the right images: in a long video, and in several files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numbered_video import FPS, IMAGES, number_in, write_numbered

from rlfp_ros.data.lerobot.layout import VIDEO_FILE, FilePlace
from rlfp_ros.data.lerobot.video import read_frames


def test_each_episode_of_several_video_files_begins_with_its_own_image(tmp_path: Path) -> None:
    lengths = [31, 50, 17, 120, 99, 1, 64]
    dataset = write_numbered(tmp_path, lengths, video_file_mb=0.002)
    places = [episode.columns[f"videos/{IMAGES}/file_index"] for episode in dataset.episodes]
    assert len(set(places)) > 2
    assert sorted(places) == places
    first = 0
    for episode, length in zip(dataset.episodes, lengths, strict=True):
        assert [number_in(image) for image in dataset.images(episode, IMAGES)] == list(range(first, first + length))
        np.testing.assert_array_equal(dataset.numbers(episode, "action"), np.arange(first, first + length))
        first += length


def test_any_image_of_a_video_is_found_by_its_time(tmp_path: Path) -> None:
    write_numbered(tmp_path, [600])
    path = FilePlace().path(tmp_path, VIDEO_FILE, IMAGES)
    for number in (0, 1, 2, 59, 299, 300, 598):
        assert [number_in(image) for image in read_frames(path, number, 2, FPS)] == [number, number + 1]
