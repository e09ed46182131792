"""Tests that golden data covers every input, so that an input that is lost in deployment is found."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fixture_bundle import make_bundle

from rlfp_ros.contract import Bundle, load_bundle
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.policy import Policy
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.schema import ConfigurationError

ROOT = Path(__file__).resolve().parents[1]
PUSH = ROOT / "models" / "push_panda"


class LosingSession:
    """An ONNX Runtime session in front of which one input turns to zeros."""

    def __init__(self, session: Any, lost: str) -> None:
        self._session, self._lost = session, lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: Any, inputs: dict[str, np.ndarray]) -> Any:
        lost = {self._lost: np.zeros_like(inputs[self._lost])}
        if self._lost == "goal":
            lost["goal_mask"] = np.zeros_like(inputs["goal_mask"])
        return self._session.run(outputs, inputs | lost)


@pytest.mark.parametrize("lost", ["features", "proprioception", "goal", "goal_mask", "state"])
@pytest.mark.parametrize("name", ["push_panda", "a tiny one with a goal"])
def test_a_policy_input_that_gets_lost_is_noticed(
    name: str, lost: str, tiny_goal_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, right = load_bundle(PUSH if name == "push_panda" else tiny_goal_bundle), Bundle.session
    Policy(bundle, load_arm("panda"))
    monkeypatch.setattr(Bundle, "session", lambda self, file: LosingSession(right(self, file), lost))
    with pytest.raises(ConfigurationError, match="the residual of golden frame"):
        Policy(bundle, load_arm("panda"))


def test_past_actions_that_get_lost_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, right = make_bundle(tmp_path, past_actions=2), Bundle.session
    Policy(bundle, load_arm("panda"))
    monkeypatch.setattr(Bundle, "session", lambda self, file: LosingSession(right(self, file), "past_actions"))
    with pytest.raises(ConfigurationError, match="the residual of golden frame"):
        Policy(bundle, load_arm("panda"))


def test_golden_data_without_past_actions_do_not_serve_a_policy_that_observes_them(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    bundle = make_bundle(tmp_path, past_actions=2)
    frames = bundle.golden_frames()
    bundle.contract = load_bundle(tiny_bundle).contract
    with pytest.raises(ConfigurationError, match=r"policy\.past_actions is 0, but golden\.npz was recorded with 2"):
        bundle.golden_frames()
    assert frames.past_actions is not None


def test_an_image_that_gets_lost_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, right = load_bundle(PUSH), Bundle.session
    monkeypatch.setattr(Bundle, "session", lambda self, file: LosingSession(right(self, file), "image"))
    with pytest.raises(ConfigurationError, match="features of golden"):
        Perception(bundle)


@pytest.mark.parametrize(
    ("source", "goal", "said"),
    [
        ("push_panda", "none", "goal is none, but golden.npz was recorded with a goal point"),
        ("reach_panda", "point", "goal is point, but golden.npz was recorded without a goal point"),
    ],
)
def test_a_bundle_with_another_goal_than_it_was_recorded_with_is_refused(
    source: str, goal: str, said: str, tmp_path: Path
) -> None:
    """The policy node drops or passes on the goal by the contract alone."""
    bundle = Path(shutil.copytree(ROOT / "models" / source, tmp_path / source))
    document = yaml.safe_load((bundle / "bundle.yaml").read_text())
    (bundle / "bundle.yaml").write_text(yaml.safe_dump(document | {"goal": goal}))
    with pytest.raises(ConfigurationError, match=said):
        load_bundle(bundle).golden_frames()


# --- what export records ----------------------------------------------------------------------------------------------


def played(act: Any, count: int, goal: bool = True) -> tuple[Any, list[Any]]:
    """Frames as `play` would yield them for a policy `act`, with a constant encoder."""
    reference = pytest.importorskip("rlfp_ros.learning.export.reference")
    networks = reference.Networks(lambda inputs: (inputs["image"][0, 0] / 255.0,), lambda inputs: (act(inputs),))
    frames = []
    rng = np.random.default_rng(0)
    for number in range(count):
        image = rng.integers(1, 255, (4, 4, 3), dtype=np.uint8)
        inputs = {
            "features": rng.normal(size=(1, 2, 3, 3)).astype(np.float32),
            "proprioception": rng.normal(size=(1, 5)).astype(np.float32),
            "goal": np.full((1, 3), float(goal), np.float32),
            "goal_mask": np.full((1, 1), float(goal), np.float32),
            "state": np.full((1, 1), float(number), np.float32),
        }
        encoded, acted = networks.encode({"image": image[None]}), networks.act(inputs)
        frames.append(reference.PlayedFrame(image, None, number, number == 0, encoded, inputs, acted))
    return networks, frames


def test_golden_frames_continue_until_they_cover_every_input_that_the_policy_uses() -> None:
    """This policy acts on its state from the tenth frame on only, and never on the goal."""
    reference = pytest.importorskip("rlfp_ros.learning.export.reference")
    networks, frames = played(lambda inputs: inputs["proprioception"][:, :1] + (inputs["state"] >= 10), 40)
    chosen, covered = reference.choose_golden_frames(networks, frames)
    assert len(chosen) == 11
    assert covered == ("image", "proprioception", "state")


def test_golden_frames_end_with_the_episode() -> None:
    """A policy's memory begins anew with the next episode, which deployment's rehearsal does not play."""
    reference = pytest.importorskip("rlfp_ros.learning.export.reference")
    networks, frames = played(lambda inputs: inputs["proprioception"][:, :1] + (inputs["state"] >= 10), 40)
    frames[8] = replace(frames[8], first=True)
    chosen, covered = reference.choose_golden_frames(networks, frames)
    assert len(chosen) == 5
    assert covered == ("image", "proprioception")


def test_a_policy_that_ignores_the_goal_of_its_task_is_refused() -> None:
    reference = pytest.importorskip("rlfp_ros.learning.export.reference")
    contract = load_bundle(PUSH).contract
    networks, frames = played(lambda inputs: inputs["proprioception"][:, :1], 10)
    with pytest.raises(ConfigurationError, match="task push has a goal point, but the policy ignores it"):
        reference.check_goal_is_used(contract, networks, frames)
    networks, frames = played(lambda inputs: inputs["goal"][:, :1] * inputs["goal_mask"], 10)
    reference.check_goal_is_used(contract, networks, frames)


def test_an_environment_with_another_goal_than_the_contract_ends_the_export() -> None:
    """As a policy for `push` on the encoder of `reach` once shipped: its environment has a goal, its contract none."""
    reference = pytest.importorskip("rlfp_ros.learning.export.reference")
    networks_of = pytest.importorskip("rlfp_ros.learning.export.networks").deployed
    bundle = load_bundle(PUSH)
    networks = networks_of({name: bundle.file(name).read_bytes() for name in ("encoder.onnx", "policy.onnx")})
    wrong = bundle.contract.model_copy(update={"goal": "none"})
    with pytest.raises(ConfigurationError, match="goal is none, but task push gives the policy a goal point"):
        list(reference.play(wrong, load_arm("panda"), networks, 1))


@pytest.mark.parametrize(("task", "goal"), [("push", "point"), ("place", "point"), ("reach", "none")])
def test_a_contract_has_the_goal_of_its_task(task: str, goal: str) -> None:
    """Whatever bundle its encoder comes from."""
    build = pytest.importorskip("rlfp_ros.learning.export.build")
    from rlfp_ros.control.policy import ObservationContract
    from rlfp_ros.simulation.tasks.task import load_task

    reach, made = load_bundle("reach_panda").contract, load_task(task)
    contract = build.build_contract(
        name="mine",
        task=made,
        arm=load_arm("panda"),
        camera=reach.camera,
        encoder=reach.encoder,
        observed=ObservationContract(),
        state_size=1,
        action=made.action,
        base_controller=made.base_controller,
        latency=reach.latency,
        feature_statistics=reach.feature_statistics,
        provenance={},
    )
    assert contract.goal == goal
    assert contract.task == task


def test_a_task_of_ones_own_that_has_a_goal_point_ships_with_it() -> None:
    """Its settings do not say so; its methods do."""
    build = pytest.importorskip("rlfp_ros.learning.export.build")
    from rlfp_ros.simulation.tasks.task import Task, load_task
    from rlfp_ros.simulation.tasks.task_settings import TaskSettings

    class Hover(Task):
        def reward(self, scene: Any, success: bool) -> float:
            return 0.0

        def distance(self, scene: Any) -> float:
            return 0.0

    class HoverOverPoint(Hover):
        def goal_point(self) -> np.ndarray:
            return np.zeros(3)

    settings = load_task("reach").settings
    assert isinstance(settings, TaskSettings)
    assert build.goal_of(Hover(settings)) == "none"
    assert build.goal_of(HoverOverPoint(settings)) == "point"
