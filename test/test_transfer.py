"""Tests of the transfer benchmark: statistics on known numbers, failure modes, ablations, and resuming."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rlfp_ros.contract import load_bundle
from rlfp_ros.evaluation import rollout
from rlfp_ros.evaluation.failures import FailureMode, Trace, TracedRollout, count_modes, measures_distance
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.evaluation.statistics import bootstrap95, mean_maximum_rank_violation, pearson
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.randomization import load_profile, sample
from rlfp_ros.simulation.tasks.task import Task, load_task
from rlfp_ros.simulation.tasks.task_scene import TaskScene
from rlfp_ros.simulation.tasks.task_settings import TaskSettings
from rlfp_ros.simulation.ticked_world import Outcome

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def transfer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("transfer", ROOT / "benchmarks" / "transfer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["transfer"] = module
    spec.loader.exec_module(module)
    return module


# --- statistics ------------------------------------------------------------------------------------------------------


def test_pearson_is_one_for_a_line_and_undefined_without_variation() -> None:
    assert pearson([0.1, 0.5, 0.9], [0.2, 0.4, 0.6]) == pytest.approx(1.0)
    assert pearson([0.1, 0.5, 0.9], [0.6, 0.4, 0.2]) == pytest.approx(-1.0)
    assert math.isnan(pearson([0.5, 0.5], [0.1, 0.9]))


def test_rank_violation_counts_the_worst_wrong_pair_of_each_policy() -> None:
    assert mean_maximum_rank_violation([0.1, 0.5, 0.9], [0.2, 0.6, 0.7]) == 0.0
    # The first two are ranked the wrong way round: each loses 0.4 at worst; the third loses nothing.
    assert mean_maximum_rank_violation([0.5, 0.1, 0.9], [0.2, 0.6, 0.7]) == pytest.approx((0.4 + 0.4 + 0.0) / 3)


def test_bootstrap_interval_holds_the_figure_and_narrows_with_episodes() -> None:
    rng = np.random.default_rng(0)
    rates = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 0.2])

    def interval(episodes: int) -> tuple[float, float]:
        draws = rng.uniform(size=(6, episodes))
        simulated, real = draws < rates[:, None], rng.uniform(size=(6, episodes)) < rates[:, None]
        low, high = bootstrap95(simulated, real, pearson, np.random.default_rng(1), draws=300)
        assert low <= pearson(simulated.mean(axis=1).tolist(), real.mean(axis=1).tolist()) <= high
        return low, high

    wide, narrow = interval(20), interval(400)
    assert narrow[0] > wide[0]
    assert narrow[1] <= 1.0


# --- failures --------------------------------------------------------------------------------------------------------


def trace(**values: Any) -> Trace:
    given: dict[str, Any] = {"outcome": Outcome(False, 90, 0.1), "object_errors_m": [0.005] * 90}
    return Trace(0, **(given | values))


@pytest.mark.parametrize(
    ("made", "grips", "mode"),
    [
        (trace(outcome=Outcome(True, 30, 0.01)), False, None),
        (trace(), False, FailureMode.TIMEOUT),
        (trace(object_errors_m=[0.08] * 90), False, FailureMode.PERCEPTION),
        (trace(distrusted=40, object_errors_m=[0.08] * 90), False, FailureMode.CONTROLLER),
        (trace(nearest_m=0.01), False, FailureMode.TIMEOUT),
        (trace(nearest_m=0.01), True, FailureMode.GRASP),
        (trace(nearest_m=0.01, risen_m=0.05), True, FailureMode.TIMEOUT),
        (trace(images=90, distrusted=40, shifted=30), False, FailureMode.DOMAIN_SHIFT),
        (trace(images=90, distrusted=40, shifted=10), False, FailureMode.CONTROLLER),
        (trace(images=90, distrusted=10, shifted=10), False, FailureMode.TIMEOUT),
        (trace(fallen_m=0.2, object_errors_m=[0.08] * 90), False, FailureMode.LOST),
        (trace(distances_m=[0.3, 0.1], success_distance_m=0.06), False, FailureMode.NEAR_SUCCESS),
        (trace(distances_m=[0.3, 0.1], success_distance_m=0.04), False, FailureMode.TIMEOUT),
        (trace(distances_m=[0.3] * 60 + [0.29] * 30), False, FailureMode.NO_PROGRESS),
        (trace(distances_m=[0.3] * 30 + [0.1] * 60), False, FailureMode.WRONG_PLACE),
        (trace(distances_m=[0.3] * 60 + [0.1 + 0.005 * left for left in range(30, 0, -1)]), False, FailureMode.TIMEOUT),
    ],
)
def test_failed_episode_has_one_mode(made: Trace, grips: bool, mode: FailureMode | None) -> None:
    assert made.mode_of(grips) is mode
    assert sum(count_modes([made], grips).values()) == (mode is not None)


class OnlySuccess(Task):
    """A task that does not measure how far success is."""

    def reward(self, scene: TaskScene, success: bool) -> float:
        return 0.0

    def success(self, scene: TaskScene) -> bool:
        return False


def test_a_distance_that_is_not_from_success_is_not_judged() -> None:
    assert measures_distance(load_task("push"))
    assert not measures_distance(OnlySuccess(TaskSettings(task="only_success")))


def short_task(name: str) -> Any:
    task = load_task(name)
    task.settings = task.settings.model_copy(update={"time_limit": 0.4})
    return task


def test_watched_episode_is_the_one_that_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "load_task", short_task)
    bundle = load_bundle("reach_panda")
    plain, watched = Rollout(bundle, load_profile("none")), Rollout(bundle, load_profile("none"))
    episode, seen = plain.play(5), TracedRollout(bundle, watched).play(5)
    assert seen.outcome == episode.outcome
    assert len(seen.object_errors_m) == len(episode.residuals)
    assert float(np.median(seen.object_errors_m)) < 0.05, "the shipped encoder sees the object without randomisation"
    assert seen.limits_exceeded == 0
    for made in (plain, watched):
        made.close()


def test_command_beyond_a_limit_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "load_task", short_task)
    bundle = load_bundle("reach_panda")
    played = Rollout(bundle, load_profile("none"))
    arm = played.world.arm
    slow = arm.limits.model_copy(update={"velocity": tuple(1e-4 * np.array(arm.limits.velocity))})
    with monkeypatch.context() as patch:  # the controller keeps the arm's own limits
        patch.setattr(played.world, "arm", arm.model_copy(update={"limits": slow}))
        traced = TracedRollout(bundle, played)
    assert traced.play(5).limits_exceeded > 10
    played.close()


# --- the script ------------------------------------------------------------------------------------------------------


def test_ablation_leaves_its_parameters_out_and_nothing_else(transfer: ModuleType, tmp_path: Path) -> None:
    whole = load_profile("train")
    assert len({ablation.name for ablation in transfer.ABLATIONS}) >= 6
    for ablation in transfer.ABLATIONS:
        path = tmp_path / f"{ablation.name}.yaml"
        path.write_text(json.dumps(transfer.flat_profile(transfer.ablated_profile(ablation))))
        profile = load_profile(path)
        changed = {name for name in whole.ranges if profile.ranges.get(name) != whole.ranges[name]}
        expected = set(ablation.without) & set(whole.ranges)
        assert changed == (set(transfer.DELAYS) if ablation.no_delays else expected), ablation.name
    without_delays = transfer.ablated_profile(next(a for a in transfer.ABLATIONS if a.no_delays))
    assert sample(without_delays, 3)["camera_latency"] == 0.0


def test_script_plays_once_resumes_and_writes_its_tables(
    transfer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rollout, "load_task", short_task)
    page = tmp_path / "page.md"
    page.write_text("\n".join(["before", transfer.MARKS[0], "old", transfer.MARKS[1], "after", ""]))
    arguments = ["reach_panda", "--episodes", "2", "--places", "train", "twin_near", "--folder", str(tmp_path)]
    assert transfer.main([*arguments, "--document", str(page)]) == 0
    document = json.loads((tmp_path / "transfer.json").read_text())
    assert [(row["world"], row["profile"]) for row in document["rows"]] == [
        ("pybullet", "train"),
        ("mujoco", "twin_near"),
    ]
    assert all(len(row["won"]) == 2 and row["limits_exceeded"] == 0 for row in document["rows"])
    assert sum(document["rows"][0]["failures"].values()) == 2 - document["rows"][0]["successes"]
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| reach_panda | mujoco | twin_near |" in text
    assert "old" not in text
    failed = any(row["failure_pictures"] for row in document["rows"])
    assert (tmp_path / "page_failures.png").exists() == failed
    monkeypatch.setattr(transfer, "play_row", lambda *_: pytest.fail("a row that is there was played again"))
    assert transfer.main(arguments) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        transfer.main([*arguments, "--jobs", "0"])
    for text in ('{"rows": [', '{"rows": [{"identity": "old"}]}', "[]"):
        (tmp_path / "transfer.json").write_text(text)
        with pytest.raises(ConfigurationError, match=r"transfer\.json: not a result file of this version"):
            transfer.main(arguments)
        assert (tmp_path / "transfer.json").read_text() == text


def test_correlation_is_over_policies_that_have_both_scores(transfer: ModuleType) -> None:
    rows = []
    for number, rate in enumerate((0.1, 0.5, 0.9)):
        for world, profile in (("pybullet", "train"), ("mujoco", "twin_near"), ("mujoco", "twin_dim")):
            won = "".join("1" if place < 20 * rate else "0" for place in range(20))
            rows.append({"of": "a", "identity": str(number), "world": world, "profile": profile, "won": won})
            rows.append({"of": "b", "identity": f"b{number % 2}", "world": world, "profile": profile, "won": won})
    _, header, made = transfer.correlation_rows(rows)
    rooms = [row[header.index("room")] for row in made]
    assert rooms == ["twin_near", "twin_dim", transfer.ALL_ROOMS]
    for row in made:
        assert row[0] == "a"  # b has two policies only
        assert row[3:5] == ("3", "1.000")
        assert row[6] == "0.000"


def test_the_table_of_policies_and_places_names_missing_cells(transfer: ModuleType) -> None:
    row = {"policy": "a", "profile": "train", "success_rate": 0.5, "wilson95": [0.2, 0.8]}
    _, header, made = transfer.matrix_rows([row, {**row, "policy": "b", "profile": "twin_dim"}])
    assert header == ("policy", "train", "twin_dim")
    assert made == [("a", "0.50 (0.20 to 0.80)", "missing"), ("b", "missing", "0.50 (0.20 to 0.80)")]


def test_times_are_compared_over_episodes_that_both_won(transfer: ModuleType) -> None:
    played = {"task": "reach", "world": "pybullet", "profile": "train", "episodes": 3, "seed": 0, "rate_hz": 30.0}
    one = {**played, "policy": "one", "won": "110", "steps": "60 30 90"}
    other = {**played, "policy": "other", "won": "101", "steps": "45 90 30"}
    elsewhere = {**other, "profile": "twin_dim"}
    earlier = {name: value for name, value in other.items() if name not in ("steps", "rate_hz")}
    _, header, made = transfer.time_rows([one, other, elsewhere, earlier])
    assert dict(zip(header, *made, strict=True)) == {
        "policy": "one",
        "other policy": "other",
        "profile or room": "train",
        "won by both": "1",
        "s": "2.00",
        "s of the other": "1.50",
        "ratio": "0.75",
    }


def test_ablations_are_summarised_over_trainings_and_missing_ones_are_named(transfer: ModuleType) -> None:
    """Three trainings: the mean of the middle ones, which is all three, and how far they differ. None: missing."""
    rows: list[dict[str, Any]] = [
        {"of": "a", "what": "nothing is left out", "identity": f"{seed}", "profile": "train", "success_rate": rate}
        for seed, rate in enumerate((0.8, 0.9, 1.0))
    ]
    shipped = {"of": "a", "what": "as it ships", "identity": "s", "profile": "twin_near", "success_rate": 0.1}
    base = {"of": "a", "what": "the base controller alone", "identity": "b", "profile": "train", "success_rate": 0.0}
    _, header, made = transfer.ablation_rows([*rows, shipped, base], 3)
    assert header == ("bundle", "policy", "trainings", "train")
    table = {row[1]: row[2:] for row in made}
    assert set(table) == {ablation.what for ablation in transfer.ABLATIONS}
    assert table["nothing is left out"] == ("3 of 3", "0.900 (0.800 to 1.000)")
    assert table["the base controller alone"] == ("1 of 1", "0.000")
    assert table["without delays"] == ("0 of 3", "missing")
    assert transfer.ablation_rows([shipped], 3)[2] == []


def test_no_training_is_started_after_the_time(transfer: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    """What needs no training still comes, and what was trained before."""
    monkeypatch.setattr(transfer, "train_policy", lambda *_: pytest.fail("trained"))
    trained = tmp_path / "models" / "reach_panda_no_noise_0.5_1"
    shutil.copytree(ROOT / "models" / "reach_panda", trained)
    options = argparse.Namespace(
        bundles=["reach_panda"], ablations=True, seeds=[0, 1], minutes=0, only_table=False, folder=tmp_path, work=0.5
    )
    found = [(policy.what, policy.training_seed, policy.residual_gain) for policy in transfer.policies_of(options, [])]
    base = ("the base controller alone", None, 0.0)
    assert found == [("as it ships", None, 1.0), base, ("without noise and blur", 1, 1.0)]
    played = [{"policy": "reach_panda_whole_0.5_0", "identity": "gone"}]
    gone = [policy for policy in transfer.policies_of(options, played) if policy.bundle is None]
    assert [(policy.what, policy.identity) for policy in gone] == [("nothing is left out", "gone")]


@pytest.mark.parametrize(
    ("bundle", "file"),
    [(name, "transfer") for name in ("reach_panda", "lift_panda", "push_panda", "reach_so101")]
    + [(name, "transfer_reinforcement") for name in ("reach_panda_rl", "lift_panda_rl", "push_panda_rl")],
)
def test_kept_measurements_are_those_of_the_bundles_that_ship(transfer: ModuleType, bundle: str, file: str) -> None:
    rows = json.loads((ROOT / "docs" / "measured" / f"{file}.json").read_text())["rows"]
    assert {row["identity"] for row in rows if row["policy"] == bundle} == {transfer.identity_of(bundle)}
