"""Tests of the comparison with Stable-Baselines3: the real script with tiny settings, and its table."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

from benchmarks import algorithms


@pytest.mark.parametrize("name", ["sac", "ppo", "dqn"])
def test_both_sources_play_the_same_steps_of_the_same_task(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(algorithms, "TEST_EPISODES", 2)
    steps = 1024 if name == "ppo" else 208  # the others learn from step 201 on
    for source in algorithms.SOURCES:
        algorithms.run_cell(algorithms.Cell("point", name, source, 0), steps, tmp_path)
    ours, theirs = (
        json.loads((tmp_path / f"point-{name}-{source}-0.json").read_text()) for source in algorithms.SOURCES
    )
    assert [row[0] for row in ours["curve"]] == [row[0] for row in theirs["curve"]]  # episodes of 16 steps
    assert len(ours["curve"]) == steps // 16
    for result in (ours, theirs):
        assert -40 < result["test_return"] < -1  # unscaled: steps times distances in a square of side 2


def test_finished_cells_are_not_run_again_and_missing_ones_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {
        "steps": 9,
        "training_return": 1.0,
        "test_return": 2.0,
        "test_success": 0.5,
        "cpu_ms_per_step": 3.0,
        "wall_ms_per_step": 4.0,
    }
    for seed, value in enumerate((1.0, 2.0, 3.0)):
        (tmp_path / f"point-ppo-rlfp_ros-{seed}.json").write_text(json.dumps(row | {"training_return": value}))
    (tmp_path / "point-ppo-stable_baselines3-0.json").write_text(json.dumps(row | {"cpu_ms_per_step": 6.0}))
    asked: list[str] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: asked.append(command[3]))
    page = tmp_path / "page.md"
    first, last = (mark.format("point") for mark in algorithms.MARKS)
    page.write_text(f"before\n{first}\nold\n{last}\nafter\n")
    words = ["--environment", "point", "--algorithms", "ppo", "a3c", "--folder", str(tmp_path), "--document", str(page)]
    assert algorithms.main(words) == 0
    assert sorted(asked) == [f"point-a3c-rlfp_ros-{seed}" for seed in range(3)] + [
        "point-ppo-stable_baselines3-1",
        "point-ppo-stable_baselines3-2",
    ]
    text = page.read_text()
    assert text.startswith(f"before\n{first}\n\n| algorithm")
    assert text.endswith(f"{last}\nafter\n")
    assert "old" not in text
    assert "| ppo | ours | 9 | 3 | 2.0 ± 2.5 |" in text  # Student's t: 4.303 * 1 / sqrt(3)
    assert "| ppo | Stable-Baselines3 | 9 | 1 of 3 | 1.0 |" in text
    assert "| a3c | ours | 8000 | 0 of 3 | missing |" in text
    assert "- ppo: return while training, ours minus theirs: 0.0; CPU time per step" in text
    assert "included: 0.50 of theirs" in text
