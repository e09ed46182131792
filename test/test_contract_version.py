"""Tests of contracts of other versions: older ones are read; newer ones are refused, with what to install."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from rlfp_ros import __version__
from rlfp_ros.contract import CONTRACT_VERSION, load_bundle, read_contract, write_bundle
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.policy import Policy
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.schema import ConfigurationError

VERSION_1 = Path(__file__).parent / "data" / "bundle_v1"  # as release 0.2 wrote it
PANDA = load_arm("panda")


def test_a_bundle_of_version_1_is_read_and_acts_as_it_did() -> None:
    assert yaml.safe_load((VERSION_1 / "bundle.yaml").read_text())["schema"] == 1
    bundle = load_bundle(VERSION_1)
    contract = bundle.contract
    assert contract.schema_version == CONTRACT_VERSION
    assert contract.action.decision_rate_hz == contract.action.rate_hz == 30.0
    assert contract.policy.past_actions == 0
    Perception(bundle)
    policy = Policy(bundle, PANDA)  # repeats the golden frames that release 0.2 recorded
    home = JointState(0, np.array(PANDA.home), np.zeros(7), np.zeros(7), 0.04)
    twist = policy.act(np.zeros((4, 3), np.float32), home, 0, np.array([0.1, 0.2, 0.3])).twist
    assert twist[:2].tolist() == [0.0, 0.0]  # the mean of the points
    assert twist[2] == pytest.approx(0.1 * np.tanh(PANDA.home[0]))


def test_a_bundle_of_version_1_is_written_as_the_present_version(tmp_path: Path) -> None:
    bundle = load_bundle(VERSION_1)
    files = {name: bundle.file(name).read_bytes() for name in bundle.contract.files}
    written = write_bundle(tmp_path / "new", bundle.contract, files)
    document = yaml.safe_load((written.directory / "bundle.yaml").read_text())
    assert document["schema"] == CONTRACT_VERSION
    assert document["written_with"] == __version__
    assert document["action"]["decision_rate_hz"] == 30.0


@pytest.mark.parametrize("name", ["reach_panda", "push_panda", "lift_panda", "reach_so101"])
def test_shipped_bundles_decide_on_every_image_without_past_actions(name: str) -> None:
    contract = load_bundle(name).contract
    assert contract.action.images_per_decision == 1
    assert contract.policy.past_actions == 0
    assert contract.encoder.finds_object
    assert contract.encoder.finds_points


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"schema": 3, "written_with": "9.1.0"},
            f"schema is 3, but rlfp_ros {__version__} reads versions up to 2; install rlfp_ros 9.1.0 or newer, with "
            "which it was written",
        ),
        ({"schema": 3}, "install a newer rlfp_ros, with which it was written"),
        ({"schema": 0}, "schema is 0, expected a version from 1 to 2"),
        ({"schema": "two"}, "schema is 'two', expected a version from 1 to 2"),
        ({"schema": True}, "schema is True, expected a version from 1 to 2"),
    ],
)
def test_another_version_is_refused_in_one_sentence(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    copy = Path(shutil.copytree(VERSION_1, tmp_path / "copy"))
    document = yaml.safe_load((copy / "bundle.yaml").read_text())
    (copy / "bundle.yaml").write_text(yaml.safe_dump(document | changes | {"unknown": 1}))
    with pytest.raises(ConfigurationError) as error:
        load_bundle(copy)
    assert str(error.value).startswith(f"{copy / 'bundle.yaml'}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_document_without_a_version_is_refused_with_the_field() -> None:
    document = yaml.safe_load((VERSION_1 / "bundle.yaml").read_text())
    del document["schema"]
    with pytest.raises(ConfigurationError, match="mine: schema is missing"):
        read_contract(document, "mine")


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"keypoints": [1, 4, 3]}, "outputs has 'keypoints', expected some of"),
        ({"features": None}, "outputs has no features"),
        ({"embedding": None}, "outputs has no embedding"),
        ({"features": [1, 4, 2]}, "expected points [1, K, 3] or a latent [1, Z]"),
        ({"pose_cov": None}, "outputs has object_pose alone, expected object_pose and pose_cov or neither"),
        ({"object_pose": [1, 6]}, "outputs.object_pose is (1, 6), expected (1, 7)"),
    ],
)
def test_encoder_outputs_that_perception_cannot_publish_are_refused(
    outputs: dict[str, list[int] | None], said: str
) -> None:
    document = yaml.safe_load((VERSION_1 / "bundle.yaml").read_text())
    changed = document["encoder"]["outputs"] | outputs
    document["encoder"]["outputs"] = {name: shape for name, shape in changed.items() if shape is not None}
    with pytest.raises(ConfigurationError) as error:
        read_contract(document, "mine")
    assert said in str(error.value)


def test_past_actions_that_the_network_does_not_take_are_refused() -> None:
    document = yaml.safe_load((VERSION_1 / "bundle.yaml").read_text())
    document["policy"]["past_actions"] = 3
    with pytest.raises(ConfigurationError, match="past_actions is 3, but inputs does not list past_actions"):
        read_contract(document, "mine")


def test_networks_of_version_1_may_not_get_another_decision_rate(tmp_path: Path) -> None:
    """The networks' own description does not have the field; the golden frames show that every image was decided on."""
    copy = Path(shutil.copytree(VERSION_1, tmp_path / "copy"))
    document = yaml.safe_load((copy / "bundle.yaml").read_text())
    document["action"]["decision_rate_hz"] = 15.0
    (copy / "bundle.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigurationError, match="the images that decide"):
        Policy(load_bundle(copy), PANDA)


def test_a_contract_goes_through_json_unchanged() -> None:
    """As `rlfp train` keeps it in the run folder."""
    contract = load_bundle("push_panda").contract
    document = json.loads(json.dumps(contract.model_dump(mode="json", by_alias=True)))
    assert read_contract(document, "trained.json: contract") == contract
