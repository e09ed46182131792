"""Tests of the shipped bundle, in process and through the real graph: success, parity, and the demo's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks import parity
from rlfp_ros.contract import load_bundle
from rlfp_ros.evaluation.episodes import count, play_episodes
from rlfp_ros.evaluation.evaluate import Report, Series, evaluate
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.evaluation.statistics import interquartile_mean, iqm_bootstrap95, wilson95
from rlfp_ros.graph.demo import complaints
from rlfp_ros.graph.rollout import observe_graph
from rlfp_ros.paths import share_directory
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.ticked_world import Outcome
from rlfp_ros.simulation.worlds import SIMULATORS

BUNDLE = "reach_panda"
KEYS = {
    "bundle",
    "task",
    "world",
    "profile",
    "episodes",
    "seed",
    "successes",
    "success_rate",
    "wilson95",
    "mean_steps",
    "wall_s",
    "commit",
    "trained_at_commit",
}


def rollout(profile: str = "train") -> Rollout:
    return Rollout(load_bundle(BUNDLE), load_profile(profile))


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    # Brown, Cai and DasGupta 2001, and the closed form by hand.
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (190, 200, 0.9104, 0.9726)],
)
def test_wilson_intervals_are_the_published_ones(successes: int, episodes: int, low: float, high: float) -> None:
    assert wilson95(successes, episodes) == pytest.approx((low, high), abs=5e-4)


def test_episodes_of_an_environment_are_played_by_their_seeds_and_counted() -> None:
    env = ManipulationEnv("reach", profile="none", observation="state", image_size=16)
    began: list[int] = []

    def teach(observation: dict[str, np.ndarray]) -> np.ndarray:
        return env.world.task.teacher(env.world, env.behaviour.action)

    won = list(play_episodes(env, teach, range(3, 6), begin=lambda: began.append(env.world.sample.seed)))
    lost = list(play_episodes(env, lambda observation: np.zeros(3, np.float32), [3]))
    env.close()
    assert [episode.seed for episode in won] == began == [3, 4, 5]
    assert all(episode.success for episode in won)
    assert lost[0].steps == round(env.world.task.settings.time_limit * 30)
    assert lost[0].episode_return < won[0].episode_return
    score = count([*won, *lost])
    assert (score.episodes, score.successes, score.success_rate) == (4, 3, 0.75)
    assert score.wilson95 == wilson95(3, 4)
    assert score.mean_steps == np.mean([episode.steps for episode in [*won, *lost]])


def test_the_interquartile_mean_leaves_out_the_outer_quarters() -> None:
    assert interquartile_mean([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -50.0]) == pytest.approx(3.5)
    assert interquartile_mean([1.0, 2.0, 6.0]) == pytest.approx(3.0)
    assert interquartile_mean([4.0]) == 4.0


def test_bootstrap_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = iqm_bootstrap95(rng.normal(7.0, 2.0, 30).tolist(), draws=300)
        covered += low <= 7.0 <= high
    assert 0.88 <= covered / 200 <= 0.99
    assert iqm_bootstrap95([1.0, 2.0, 6.0]) == iqm_bootstrap95([1.0, 2.0, 6.0])


def test_the_shipped_policy_reaches_under_heavy_randomisation(tmp_path: Path) -> None:
    """40 episodes: a policy at its documented rate falls below this bound once in a thousand runs."""
    result = evaluate(BUNDLE, profile="train", episodes=40, seed=100, json_path=tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert set(result) == KEYS
    assert result["success_rate"] >= 0.85


def test_without_its_features_the_policy_is_lost() -> None:
    """The figures come from the image: the same policy on black images does not reach."""
    blind = rollout("none")
    seen = blind.perception
    blind.perception = lambda image, *camera, **joints: seen(np.zeros_like(image), *camera, **joints)  # type: ignore[assignment]
    assert sum(blind.play(seed).outcome.success for seed in range(10)) <= 2


def test_the_policy_is_given_no_simulator_state(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = rollout()
    expected = [plain.play(seed) for seed in range(2)]
    scrambled = rollout()
    noise = np.random.default_rng(0)
    monkeypatch.setattr(scrambled.world.task, "privileged_state", lambda world: noise.normal(size=12))
    monkeypatch.setattr(scrambled.world.task, "teacher", lambda world, action: noise.normal(size=3))
    for seed, episode in enumerate(expected):
        again = scrambled.play(seed)
        assert again.outcome == episode.outcome
        for one, other in zip(again.residuals, episode.residuals, strict=True):
            np.testing.assert_array_equal(one.twist, other.twist)


@pytest.mark.graph
def test_lock_step_through_the_graph_plays_the_same_episodes() -> None:
    found = parity.compare(str(BUNDLE), "train", episodes=3, seed=20)
    assert found["outcomes_equal"] == 3
    assert found["largest_difference"] <= parity.TOLERANCE
    # A listener on a busy machine may miss a few. The outcomes, distances to the last bit, stand for the rest.
    assert found["heard"] >= 0.9 * found["residuals"]


@pytest.mark.graph
def test_the_demo_leaves_images_figures_and_a_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rlfp_ros.graph import demo

    assert demo.run(episodes=2, seed=3, json_path=tmp_path / "copy.json", out=tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert "1/2" in out
    assert "2/2" in out
    run = tmp_path / "run"
    for name in ("episode.gif", "episode.png", "actions.png", "result.json", "log.txt"):
        assert (run / name).stat().st_size > 1000 or name in ("result.json", "log.txt")
    result = json.loads((run / "result.json").read_text())
    assert json.loads((tmp_path / "copy.json").read_text()) == result
    assert set(result) == KEYS | {"camera_to_command_ms"}
    assert result["episodes"] == 2
    assert result["camera_to_command_ms"]["n"] > 20
    (bag,) = (run / "bags").iterdir()
    with BagReader(bag) as reader:
        assert {"/camera/image_raw", "/joint_states", "/policy/residual", "/safety/state"} <= set(reader.topics)


def test_an_arm_can_be_given_as_a_name_or_a_file_in_either_world(tmp_path: Path) -> None:
    file = tmp_path / "panda.yaml"
    file.write_text((share_directory() / "config" / "arms" / "panda.yaml").read_text())
    bundle = load_bundle(BUNDLE)
    expected = rollout("none").play(3)
    for arm in ("panda", file):
        again = Rollout(bundle, load_profile("none"), arm=arm)
        assert again.play(3).outcome == expected.outcome
        again.close()
    for world in SIMULATORS:
        assert evaluate(BUNDLE, episodes=1, world=world, arm=file)["episodes"] == 1
    with pytest.raises(ConfigurationError, match=r"arm that the bundle was trained with|was trained for arm 'panda'"):
        evaluate(BUNDLE, episodes=1, arm="so101")


def test_bad_requests_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--episodes is 0"):
        evaluate(BUNDLE, episodes=0)
    with pytest.raises(ConfigurationError, match="--world is 'gazebo'"):
        evaluate(BUNDLE, episodes=1, world="gazebo")
    with pytest.raises(ConfigurationError, match="sim/randomization"):
        evaluate(BUNDLE, episodes=1, profile="mars")


@pytest.mark.parametrize("name", ["/proc/nowhere/result.json", "."])
def test_result_that_cannot_be_written_is_refused_before_the_first_episode(name: str, tmp_path: Path) -> None:
    played: list[Series] = []

    def play(series: Series, _: Report) -> tuple[list[Outcome], dict[str, Any]]:
        played.append(series)
        return [], {}

    with pytest.raises(ConfigurationError, match=r"cannot be written|is a folder"):
        evaluate(BUNDLE, episodes=1, profile="none", json_path=tmp_path / name, play=play)
    assert not played
    assert list(tmp_path.iterdir()) == []


def test_the_demo_shows_the_warnings_of_its_nodes(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text(
        "    1.2 policy              | [INFO] bundle reach_panda\n"
        "    2.8 policy              | [ERROR] frames come every 66.7 ms\n"
        "    7.8 policy              | [ERROR] frames come every 66.7 ms\n"
        "    9.0 recorder            | recorder: 8002 messages\n"
        "| [ERROR] without a node\n"
    )
    assert complaints(log) == {"policy: frames come every 66.7 ms": 2}


@pytest.mark.graph
def test_a_simulator_that_is_stopped_is_named_as_the_reason_with_the_log(tiny_bundle: Path, tmp_path: Path) -> None:
    def stop_simulator(episode: Any) -> None:
        for child in psutil.Process().children(recursive=True):
            if "rlfp_ros.nodes.simulator" in child.cmdline():
                child.terminate()

    arguments = {"bundle": str(tiny_bundle), "profile": "none", "episodes": 5, "lock_step": True, "transport": "local"}
    log = tmp_path / "log.txt"
    with pytest.raises(ConfigurationError, match=r"of 5 episodes heard: its simulator was stopped") as refused:
        observe_graph(arguments, stop_simulator, log_file=log)
    assert str(log) in str(refused.value)
