"""A 40-minute video: no time stamp drifts. Runs in .ci/long; see test_lerobot_video.py for the short tests."""

from __future__ import annotations

import time
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_video import FPS, IMAGES, number_in, write_numbered

from rlfp_ros.data.lerobot.layout import VIDEO_FILE, FilePlace
from rlfp_ros.data.lerobot.video import read_frames


@pytest.mark.timeout(1200)
def test_time_stamps_of_a_video_of_40_minutes_do_not_drift(tmp_path: Path) -> None:
    lengths = np.random.default_rng(1).integers(200, 1000, 1000).tolist()
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), 40 * 60 * FPS)) + 1]
    began = time.monotonic()
    dataset = write_numbered(tmp_path, lengths)
    print(f"\nwrote {sum(lengths)} images in {time.monotonic() - began:.1f} s")
    path = FilePlace().path(tmp_path, VIDEO_FILE, IMAGES)
    with av.open(str(path)) as container:
        stamps = np.array([float(frame.time or 0.0) for frame in container.decode(container.streams.video[0])])
    assert len(stamps) == sum(lengths) >= 40 * 60 * FPS
    # LeRobot refuses a frame that is farther than 1e-4 s from its time stamp.
    assert np.abs(stamps - np.arange(len(stamps)) / FPS).max() < 1e-6
    first = 0
    for episode, length in zip(dataset.episodes, lengths, strict=True):
        begins_s = float(episode.columns[f"videos/{IMAGES}/from_timestamp"])
        assert abs(begins_s - first / FPS) < 1e-9
        for place in (0, length // 2, length - 1):
            (image,) = read_frames(path, first + place, 1, FPS)
            assert number_in(image) == first + place
        first += length
