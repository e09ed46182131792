"""The gap doctor on bundles that observe past actions and hold their action: planted mistakes are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_bundle import make_bundle
from written_bag import write_bag

from rlfp_ros.commissioning.gap import compare
from rlfp_ros.commissioning.recorded_run import read_run
from rlfp_ros.contract import Bundle
from rlfp_ros.control.actions import action_of
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.observation import Observer
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.episode import Episode, Phase
from rlfp_ros.nodes import messages as m
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.simulation.deployment import SIMULATION_SETTINGS, Deployment, Moment
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.worlds import make_world

ARM = load_arm("panda")
IMAGES = 40  # in an episode
START = 1_800_000_000_000_000_000  # ns, a wall clock
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles"), name="past", past_actions=3, decides_every=2)


def record(folder: Path, bundle: Bundle, begins_at: int = 0, without: tuple[m.Topic, ...] = ()) -> Path:
    """Deploy the bundle for two short episodes, and record what the nodes publish from image `begins_at` on."""
    contract = bundle.contract
    world = make_world(ARM, load_task("reach"), load_profile("train"), contract.camera)
    world.origin_ns = START
    deployment, perception, policy = (
        Deployment(world, contract, SIMULATION_SETTINGS),
        Perception(bundle),
        Policy(bundle, ARM),
    )
    rows: list[tuple[m.Topic, Any, int]] = []
    asked: dict[int, Residual] = {}

    def applied(admitted: Residual) -> None:
        commanded = asked[admitted.stamp_ns]
        tell(policy, admitted, commanded)
        now = world.stamp_ns + 2_000_000
        message = m.action_message(admitted.stamp_ns, action_of(admitted, contract.action), contract.action.components)
        rows.append((m.ACTION_APPLIED, message, now))

    deployment.on_applied.append(applied)
    for number, seed in enumerate((1, 2)):
        episode = Episode(id=number, phase=Phase.RESET, stamp=world.stamp_ns)
        rows.append((m.EPISODE, m.episode_message(episode), world.stamp_ns))
        deployment.reset(seed)
        policy.reset()
        waiting, moment, answered = [], Moment.CAPTURED, 0
        while answered < IMAGES:
            if moment is Moment.CAPTURED:
                stamp, joints = world.image_stamp_ns, deployment.frame_joint_state
                rows.append((m.JOINT_STATES, m.joint_state_message(joints, ARM), world.stamp_ns))
                waiting.append((stamp, world.image.copy(), joints))
            elif moment is Moment.DELIVERED:
                stamp, image, joints = waiting.pop(0)
                features = perception(image).features
                now = world.stamp_ns
                K = contract.camera.intrinsics.matrix()
                rows.append((m.CAMERA_INFO, m.camera_info_message(stamp, "optical", 64, 48, K), now))
                rows.append((m.IMAGE, m.image_message(stamp, image, "optical"), now))
                rows.append((m.FEATURES, m.features_message(stamp, features, "optical"), now))
                residual = policy.act(features, joints, stamp)
                asked[stamp] = residual
                rows.append((m.RESIDUAL, m.residual_message(residual, ARM.base_frame), now + 1_000_000))
                deployment.answer(residual)
                answered += 1
            moment = deployment.next_moment()
    world.close()
    images = [row[2] for row in rows if row[0] is m.IMAGE]
    kept = [row for row in rows if row[2] >= images[begins_at] and row[0] not in without] if begins_at else rows
    kept = [row for row in kept if row[0] not in without]
    return write_bag(folder, sorted(kept, key=lambda row: row[2]), numbered=not begins_at)


def tell(policy: Policy, admitted: Residual, commanded: Residual) -> None:
    """What a deployment does with an admitted action; a test plants its mistake by replacing this."""
    policy.saw_applied(admitted.stamp_ns, action_of(admitted, policy.contract.action))


def verdicts(bundle: Bundle, folder: Path) -> dict[str, tuple[str, str]]:
    stages = compare(bundle, ARM, read_run(folder, ARM, bundle.contract))
    return {stage.name: (stage.verdict, stage.detail) for stage in stages}


@pytest.mark.parametrize("begins_at", [0, 9, 10])
def test_a_healthy_run_diverges_nowhere(bundle: Bundle, tmp_path: Path, begins_at: int) -> None:
    found = verdicts(bundle, record(tmp_path / "bag", bundle, begins_at))
    assert [name for name, (verdict, _) in found.items() if verdict == "diverges"] == []
    assert found["past actions"] == ("same", "as in training")
    assert found["decision rate"] == ("same", "as in training")
    assert begins_at or found["stack order"][0] == "same"


def one_late(told: Callable[..., None]) -> Callable[..., None]:
    last: list[tuple[Residual, Residual]] = []

    def later(policy: Policy, admitted: Residual, commanded: Residual) -> None:
        if last and last[-1][0].stamp_ns < admitted.stamp_ns:
            told(policy, *last[-1])
        last.append((admitted, commanded))

    return later


def plant_one_late(patch: Patch) -> None:
    patch.setattr("test_gap_past_actions.tell", one_late(tell))


def plant_commanded(patch: Patch) -> None:
    patch.setattr(
        "test_gap_past_actions.tell",
        lambda policy, admitted, commanded: policy.saw_applied(
            admitted.stamp_ns, action_of(commanded, policy.contract.action)
        ),
    )


def plant_nothing_received(patch: Patch) -> None:
    patch.setattr("test_gap_past_actions.tell", lambda *_: None)


def plant_si_units(patch: Patch) -> None:
    patch.setattr(
        "test_gap_past_actions.tell",
        lambda policy, admitted, commanded: policy.saw_applied(
            admitted.stamp_ns, action_of(admitted, policy.contract.action) * np.array(policy.contract.action.scale)
        ),
    )


def plant_newest_first(patch: Patch) -> None:
    right = Observer.past_actions
    patch.setattr(Observer, "past_actions", lambda self: right(self)[::-1])


def plant_not_cleared(patch: Patch) -> None:
    right = Observer.reset

    def forgetful(self: Observer) -> None:
        kept = self.applied
        right(self)
        self.applied = kept

    patch.setattr(Observer, "reset", forgetful)


def plant_every_image(patch: Patch) -> None:
    patch.setattr("rlfp_ros.control.policy.decides", lambda *_: True)


@pytest.mark.parametrize(
    ("plant", "stage", "words"),
    [
        (plant_one_late, "past actions", "the newest one is missing"),
        (plant_commanded, "past actions", "the commanded actions"),
        (plant_nothing_received, "past actions", "none was received"),
        (plant_si_units, "past actions", "in m/s and m, expected in action units"),
        (plant_newest_first, "past actions", "the newest one comes first"),
        (plant_not_cleared, "past actions", "not cleared at the start of an episode"),
        (plant_every_image, "decision rate", "the policy decided on every image"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_mistake_is_named(
    bundle: Bundle, tmp_path: Path, plant: Callable[[Patch], None], stage: str, words: str
) -> None:
    with Patch.context() as patch:
        # The rehearsal of the golden frames would find most of these before anything moves; here it is too late.
        patch.setattr(Policy, "rehearse", lambda self, *_: self.reset())
        plant(patch)
        folder = record(tmp_path / "bag", bundle)
    found = {name: detail for name, (verdict, detail) in verdicts(bundle, folder).items() if verdict == "diverges"}
    assert list(found) == [stage], found
    assert words in found[stage]


def test_a_bag_without_admitted_actions_is_not_judged(bundle: Bundle, tmp_path: Path) -> None:
    found = verdicts(bundle, record(tmp_path / "bag", bundle, without=(m.ACTION_APPLIED,)))
    assert found["past actions"][0] == "not judged"
    assert "the bag holds no policy/action_applied" in found["past actions"][1]
    assert "diverges" not in [verdict for verdict, _ in found.values()]
