"""A bundle from raw pixels: perception publishes a latent and the domain shift, and no object pose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixture_bundle import POINTS, make_bundle
from same_episodes import assert_parity

from rlfp_ros import cli
from rlfp_ros.contract import Bundle
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.residual_controller import Reason, ResidualController, State
from rlfp_ros.evaluation.failures import TracedRollout
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.deployment import SIMULATION_SETTINGS
from rlfp_ros.simulation.randomization import load_profile

PANDA = load_arm("panda")
TICK_NS, FRAME_TICKS = 4_166_667, 8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles")
    return make_bundle(folder, name="pixels", from_pixels=True, past_actions=2, decides_every=2)


def test_perception_gives_a_latent_and_the_domain_shift(bundle: Bundle) -> None:
    assert not bundle.contract.encoder.finds_object
    assert not bundle.contract.encoder.finds_points
    percept = Perception(bundle)(np.full((48, 64, 3), 128, np.uint8))
    assert percept.features.shape == (3 * POINTS,)
    assert percept.object_pose is None
    assert percept.pose_cov is None
    assert 0 <= percept.domain_shift <= 1
    with pytest.raises(ValueError, match="does not find the object"):
        percept.in_base(np.eye(4))


def test_inspect_says_what_perception_gives(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(bundle.directory)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "perception gives a latent vector, the domain shift" in said
    assert "2 past actions" in said
    assert "at 15 Hz; publishes the action again at 30 Hz" in said


def test_a_base_controller_that_follows_the_object_is_refused(tmp_path: Path) -> None:
    servo = make_bundle(tmp_path, name="servo", from_pixels=True, base_controller="servo")
    for use in (lambda: Policy(servo, PANDA), lambda: ResidualController(PANDA, servo.contract)):
        with pytest.raises(ConfigurationError, match="'servo', which follows the object") as error:
            use()
        assert "\n" not in str(error.value)
    Policy(make_bundle(tmp_path, name="sees", base_controller="servo"), PANDA)


# --- safety -----------------------------------------------------------------------------------------------------------


def controller_after(
    bundle: Bundle, shifts: list[float | None], frozen_from: int = 10**6
) -> Iterator[ResidualController]:
    """Run the controller with a domain shift for each image; None: the image does not come."""
    settings = SIMULATION_SETTINGS.model_copy(update={"gain_ramp_s": 0.1, "require_percepts": True})
    controller = ResidualController(PANDA, bundle.contract, settings)
    controller.on_episode_reset(0)
    joints = JointState(0, np.array(PANDA.home), np.zeros(7), np.zeros(7), 0.04)
    for tick in range(FRAME_TICKS * len(shifts)):
        now = (tick + 1) * TICK_NS
        shift = shifts[tick // FRAME_TICKS]
        if tick % FRAME_TICKS == 0 and shift is not None:
            image = min(tick // FRAME_TICKS, frozen_from) * FRAME_TICKS * TICK_NS + 1
            controller.on_scene(shift, image, now)
        controller.on_joint_state(replace(joints, stamp_ns=now), now)
        controller.tick(now, now)
        yield controller


def last(states: Iterator[ResidualController]) -> ResidualController:
    *_, controller = states
    return controller


def test_a_healthy_camera_keeps_the_arm_active(bundle: Bundle) -> None:
    controller = last(controller_after(bundle, [0.1] * 60))
    assert controller.state is State.ACTIVE
    assert not {Reason.PERCEPT_STALE, Reason.PERCEPT_OLD, Reason.DOMAIN_SHIFT} & set(controller.reasons)


@pytest.mark.parametrize(
    ("shifts", "frozen_from", "reason"),
    [
        ([0.1] * 20 + [None] * 60, 10**6, Reason.PERCEPT_STALE),  # the camera dies
        ([0.1] * 80, 20, Reason.PERCEPT_STALE),  # it repeats its last image
        ([0.1] * 20 + [1.0] * 60, 10**6, Reason.DOMAIN_SHIFT),  # the scene changes
        ([None] * 80, 10**6, Reason.PERCEPT_STALE),  # it never comes
    ],
)
def test_a_perception_fault_holds_the_arm(
    bundle: Bundle, shifts: list[float | None], frozen_from: int, reason: Reason
) -> None:
    controller = last(controller_after(bundle, shifts, frozen_from))
    assert controller.state is State.HOLDING
    assert reason in controller.reasons
    assert controller.gain == 0.0


def test_images_that_come_late_hold_the_arm(bundle: Bundle) -> None:
    """By their stamps: they come in time one after the other, but each is old."""
    settings = SIMULATION_SETTINGS.model_copy(update={"gain_ramp_s": 0.1})
    controller = ResidualController(PANDA, bundle.contract, settings)
    controller.on_episode_reset(0)
    joints = JointState(0, np.array(PANDA.home), np.zeros(7), np.zeros(7), 0.04)
    delay = round(1e9 * settings.percept_max_age_s) + 20 * TICK_NS
    for tick in range(400):
        now = delay + (tick + 1) * TICK_NS
        if tick % FRAME_TICKS == 0:
            controller.on_scene(0.1, now - delay, now)
        controller.on_joint_state(replace(joints, stamp_ns=now), now)
        controller.tick(now, now)
    assert controller.state is State.HOLDING
    assert Reason.PERCEPT_OLD in controller.reasons


# --- played -----------------------------------------------------------------------------------------------------------


def test_failures_are_traced_without_an_object_pose(bundle: Bundle) -> None:
    rollout = Rollout(bundle, load_profile("train"))
    trace = TracedRollout(bundle, rollout).play(1)
    assert trace.images > 10
    assert not trace.object_errors_m
    assert trace.limits_exceeded == 0
    rollout.close()


@pytest.mark.graph
def test_lock_step_through_the_graph_plays_the_same_episodes(bundle: Bundle) -> None:
    assert_parity(bundle, seed=4)


@pytest.mark.graph
def test_the_demo_runs_it_and_gap_finds_nothing_in_its_bag(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlfp_ros.graph import demo
    from rlfp_ros.recording.reader import BagReader

    assert demo.run(episodes=1, seed=3, out=tmp_path / "run", bundle_name=str(bundle.directory)) == 0
    for name in ("episode.gif", "episode.png", "actions.png"):
        assert (tmp_path / "run" / name).stat().st_size > 1000
    (bag,) = (tmp_path / "run" / "bags").iterdir()
    with BagReader(bag) as reader:
        recorded = set(reader.topics)
    assert {"/perception/features", "/perception/percept", "/policy/action_applied"} <= recorded
    assert "/perception/object_pose" not in recorded
    capsys.readouterr()
    assert cli.main(["gap", "--bag", str(bag), "--bundle", str(bundle.directory)]) == 0
    assert "diverges" not in capsys.readouterr().out
