"""Tests of the representation benchmark's table: it contains every measurement and shows missing ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks import representations
from rlfp_ros.evaluation.results import put_between
from rlfp_ros.schema import ConfigurationError


def write(folder: Path, name: str, seed: int, **figures: object) -> None:
    cell = representations.Cell(name, seed)
    measured = {"cell": name, "seed": seed, "minutes": 1.5, "linear_mm": 30.0, "linear_validation_mm": 40.0}
    cell.file(folder).write_text(json.dumps(measured | figures))


def test_missing_cells_are_shown_as_missing(tmp_path: Path) -> None:
    for seed, error in enumerate((10.0, 20.0, 60.0)):
        write(tmp_path, "cnn/vae", seed, mlp_mm=error, mlp_validation_mm=error + 5)
    success = {"train": 0.5, "validation": 0.25}
    write(tmp_path, "cnn/curl", 1, mlp_mm=12.0, mlp_validation_mm=14.0, success=success)
    rows = {
        tuple(row.split(" | ")[:2]): row.split(" | ") for row in representations.table(tmp_path, [0, 1, 2]).split("\n")
    }
    vae, curl, depth = (rows["| cnn", name] for name in ("vae", "curl", "depth"))
    assert vae[2] == "3 of 3"
    assert vae[4].startswith("30.0 (10.0 to ")
    assert vae[6] == "5.0 (5.0 to 5.0)"
    assert vae[7] == "missing"
    assert curl[2:8] == ["1 of 3", "30.0", "12.0", "14.0", "2.0", "0.50"]
    assert depth[2] == "0 of 3"
    assert set(depth[3:]) <= {"missing", "missing |"}


def test_the_table_goes_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{representations.MARKS[0]}\nold\n{representations.MARKS[1]}\nafter\n")
    put_between(page, *representations.MARKS, "new")
    assert page.read_text() == f"before\n{representations.MARKS[0]}\nnew\n{representations.MARKS[1]}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ConfigurationError, match="add both lines"):
        put_between(page, *representations.MARKS, "new")
    assert page.read_text() == "no marks"


@pytest.mark.parametrize("name", ["cnn/supervised", "spatial/nothing"])
def test_a_cell_learns_is_probed_and_plays(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = representations.TRAINING.changed("tiny", frames=120, updates=20, batch=24, first_frames=120)
    monkeypatch.setattr(representations, "IMAGES", {"train": (120, 41_000_000), "validation": (30, 43_000_000)})
    for setting, value in (
        ("TRAINING", tiny),
        ("PROBED", 60),
        ("PROBE_STEPS", 5),
        ("IMITATION_STEPS", 5),
        ("EPISODES", 1),
    ):
        monkeypatch.setattr(representations, setting, value)
    assert representations.main(["--only", name, "--seeds", "0", "--success", "--folder", str(tmp_path)]) == 0
    (found,) = representations.results(tmp_path, [0])[name]
    assert 0 < found["mlp_mm"] < 1000
    assert set(found["success"]) == {"train", "validation"}
