"""The long check of the default recipe: it trains `push` although the task's teacher raises.

`.ci/long reward` runs it. pytest collects it only if it is named.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlfp_ros.contract import load_bundle
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.seeds import EVALUATION
from rlfp_ros.simulation.randomization import load_profile

ROOT = Path(__file__).resolve().parents[1]
RAISING = """
from rlfp_ros.simulation.tasks.push import Push

def teacher(*arguments):
    raise RuntimeError("the teacher was asked")

Push.teacher = teacher
"""
EPISODES = 100


@pytest.mark.timeout(4 * 3600)
def test_push_is_learned_without_its_teacher(tmp_path: Path) -> None:
    plugin = tmp_path / "raising.py"
    plugin.write_text(RAISING)
    words = ["--plugin", str(plugin), "train", "push", "--work", "0.3", "--evaluation-episodes", "0"]
    folders = ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "bundle")]
    subprocess.run([sys.executable, "-P", "-m", "rlfp_ros.cli", *words, *folders], cwd=ROOT, check=True)
    rollout = Rollout(load_bundle(tmp_path / "bundle"), load_profile("train"))
    seeds = EVALUATION.episodes(0, EPISODES)
    won = sum(rollout.play(seed).outcome.success for seed in seeds)
    rollout.close()
    assert won >= EPISODES / 2
