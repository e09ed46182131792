"""Opens exports of `./rlfp export-lerobot` with LeRobot's own reader; runs in an environment of its own.

    python .ci/lerobot_reader.py EXPORT IMAGES.npz [OTHER_EXPORT MERGED]

IMAGES.npz is what examples/bag_to_numpy.py wrote of the exported bag: `stamps_ns` and `images`, of the size that the
policy saw. Every frame that LeRobot decodes is compared with that of the bag. With another export, LeRobot merges both
into the folder MERGED, which is then read.

PyPI's torchvision is built for CUDA. Beside PyTorch's build for processors its compiled operators are missing, and
newer ones have no `VideoReader`. `_without_compiled_torchvision` defines what LeRobot's import and decoder need.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import av
import numpy as np
import torch

LEAST_PSNR = 30.0  # dB, of each frame


def main(arguments: list[str]) -> int:
    """Check one export, and the merge of two."""
    export, images = Path(arguments[0]), Path(arguments[1])
    _without_compiled_torchvision()
    import lerobot
    from lerobot.datasets.aggregate import aggregate_datasets
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("local/export", root=export, video_backend="pyav")
    worst, lowest, repeated = _compare(dataset, images)
    print(
        f"LeRobot {lerobot.__version__}: {dataset.num_episodes} episodes, {len(dataset)} rows, {repeated} repeated "
        f"images; PSNR of the frames at least {lowest:.1f} dB, time stamps off by at most {worst:.1e} s"
    )
    assert lowest >= LEAST_PSNR, f"a frame has {lowest:.1f} dB, expected {LEAST_PSNR}"
    _check_chunks(export, LeRobotDataset)
    if len(arguments) == 4:
        other, merged = Path(arguments[2]), Path(arguments[3])
        aggregate_datasets(["local/export", "local/other"], "local/merged", roots=[export, other], aggr_root=merged)
        both = LeRobotDataset("local/merged", root=merged, video_backend="pyav")
        second = LeRobotDataset("local/other", root=other, video_backend="pyav")
        assert len(both) == len(dataset) + len(second)
        for place in (0, len(dataset) - 1):
            assert torch.equal(both[place]["action"], dataset[place]["action"])
        image = "observation.images.policy"
        for place in range(len(second)):
            ours, theirs = second[place], both[len(dataset) + place]
            assert torch.equal(ours["observation.state"], theirs["observation.state"])
            assert ours["task"] == theirs["task"]
            assert float((ours[image] - theirs[image]).abs().max()) == 0.0
        assert "rlfp/outcome" in both.meta.episodes.column_names
        print(f"merged two exports: {both.num_episodes} episodes, {len(both)} rows")
    return 0


def _compare(dataset, images: Path) -> tuple[float, float, int]:
    """Compare every row with the bag; return the largest error of a stamp, the lowest PSNR, and the repeated images."""
    with np.load(images) as bag:
        recorded = dict(zip(bag["stamps_ns"].tolist(), bag["images"], strict=True))
    starts = [int(text) for text in dataset.meta.episodes["rlfp/start_ns"]]
    stamps = np.array(sorted(recorded))
    worst, lowest, repeated, rows = 0.0, np.inf, 0, 0
    shown = None
    for row in _rows(dataset):
        rows += 1
        number, frame = int(row["episode_index"]), int(row["frame_index"])
        worst = max(worst, abs(float(row["timestamp"]) - frame / dataset.fps))
        if bool(row["recorded.is_new"]):
            wanted = starts[number] + 1e9 * float(row["recorded.time"])
            shown = recorded[int(stamps[np.abs(stamps - wanted).argmin()])]
            assert abs(stamps - wanted).min() < 1e3, "a row's image is not in the bag"
        else:
            repeated += 1
        decoded = row["observation.images.policy"].numpy().transpose(1, 2, 0)
        error = float(np.mean((decoded - shown / 255.0) ** 2))
        lowest = min(lowest, -10 * np.log10(max(error, 1e-12)))
        assert isinstance(row["task"], str)
        assert row["task"]
    assert rows == dataset.meta.total_frames
    return worst, lowest, repeated


def _rows(dataset) -> Iterator[dict]:
    for place in range(len(dataset)):
        yield dataset[place]


def _check_chunks(export: Path, kind) -> None:
    """Read a batch as a policy that predicts chunks of actions does."""
    fps = kind("local/export", root=export, video_backend="pyav").fps
    deltas = {"action": [number / fps for number in range(16)], "observation.images.policy": [-1 / fps, 0.0]}
    dataset = kind("local/export", root=export, video_backend="pyav", delta_timestamps=deltas)
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)))
    assert batch["action"].shape[:2] == (8, 16)
    assert batch["observation.images.policy"].shape[:3] == (8, 2, 3)
    for key in ("action", "observation.state", "observation.images.policy"):
        statistics = dataset.meta.stats[key]
        assert all(np.isfinite(value).all() for value in statistics.values()), key


def _without_compiled_torchvision() -> None:
    """Define what torchvision's missing compiled part would, if it is missing."""
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _without_compiled_torchvision.operators = operators  # they live as long as the library
        import torchvision
    if hasattr(torchvision.io, "VideoReader"):
        return

    class VideoReader:
        def __init__(self, path: str, stream: str) -> None:
            self.container = av.open(str(path))
            self._frames = iter(())

        def seek(self, time_s: float, keyframes_only: bool = True) -> None:
            stream = self.container.streams.video[0]
            self.container.seek(max(0, int(time_s / stream.time_base)), stream=stream)
            self._frames = self.container.decode(stream)

        def __iter__(self):
            for frame in self._frames:
                data = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
                yield {"data": data, "pts": float(frame.time)}

    torchvision.io.VideoReader = VideoReader
    if not hasattr(torchvision, "set_video_backend"):
        torchvision.set_video_backend = lambda name: None
    assert isinstance(torchvision, types.ModuleType)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
