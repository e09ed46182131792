"""Tests of contact sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_file import read_image

from rlfp_ros import cli
from rlfp_ros.evaluation import preview

COLUMNS, ROWS = preview.COLUMNS, preview.ROWS


@pytest.fixture(autouse=True)
def early_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "LATER_FRAMES", 3)


def tiles(path: Path) -> np.ndarray:
    """The images on a sheet, [36, TILE, TILE, 3]."""
    sheet, size = read_image(path), preview.TILE + preview.CAPTION
    assert sheet.shape == (ROWS * size, COLUMNS * preview.TILE, 3)
    rows = sheet.reshape(ROWS, size, COLUMNS, preview.TILE, 3)[:, : preview.TILE]
    return rows.transpose(0, 2, 1, 3, 4).reshape(-1, preview.TILE, preview.TILE, 3)


def test_the_command_writes_36_different_episodes_and_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    assert (
        cli.main(["preview", "--task", "push", "--profile", "train", "--sweep", "block_value", "--out", str(out)]) == 0
    )
    swept = tmp_path / "sheet_block_value.png"
    assert capsys.readouterr().out.split() == [str(out), str(swept)]
    episodes = tiles(out)
    assert len({image.tobytes() for image in episodes}) == COLUMNS * ROWS
    first, last = tiles(swept)[[0, -1]].astype(int)
    redness = [(image[..., 2] - image[..., :2].max(axis=-1)).max() for image in (first, last)]
    assert redness[1] > redness[0] + 20  # the brick goes from dark to bright


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sweep", "colour"], "--sweep is 'colour', expected one of: camera_position"),
        (["--profile", "none", "--sweep", "noise"], "profile none randomises: nothing"),
        (["--task", "juggle"], "task is 'juggle'"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["preview", *arguments]) == 2
    assert said in capsys.readouterr().err
