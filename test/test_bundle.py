"""Tests of bundles: loading is strict, and each error is one clear sentence."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from rlfp_ros.contract import load_bundle, sha256, write_bundle
from rlfp_ros.control.arm import load_arm, read_arm
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.robot_description import carried_files
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.schema import ConfigurationError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def edit(bundle: Path, **changes: object) -> None:
    """Set fields of bundle.yaml; a dotted name goes into nested ones."""
    path = bundle / "bundle.yaml"
    document = yaml.safe_load(path.read_text())
    for name, value in changes.items():
        *parents, leaf = name.split("__")
        place = document
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[leaf]
        else:
            place[leaf] = value
    path.write_text(yaml.safe_dump(document))


def refusal(bundle: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        Perception(load_bundle(bundle))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_complete_bundle_loads_and_runs(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    camera = loaded.contract.camera
    percept = Perception(loaded)(np.zeros((camera.height, camera.width, 3), np.uint8))
    assert percept.features.ndim == 2
    assert 0 <= percept.domain_shift <= 1


def test_a_missing_bundle_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        load_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["encoder.onnx", "policy.onnx", "golden.npz"])
def test_an_altered_file_is_refused_by_name(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(bytes(data))
    assert f"{bundle / name}: sha256 is" in refusal(bundle)


@pytest.mark.parametrize("name", ["encoder.onnx", "policy.onnx", "golden.npz"])
def test_a_missing_file_is_refused_by_name(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert f"{bundle / name}: no such file" in refusal(bundle)


def test_a_file_that_is_not_onnx_is_refused(bundle: Path) -> None:
    (bundle / "encoder.onnx").write_bytes(b"not a network")
    files = yaml.safe_load((bundle / "bundle.yaml").read_text())["files"]
    edit(bundle, files={**files, "encoder.onnx": sha256(bundle / "encoder.onnx")})
    assert "ONNX Runtime cannot load it" in refusal(bundle)


def test_a_network_loads_on_a_single_processor_without_complaints_about_affinity(tiny_bundle: Path) -> None:
    code = (
        "import os, sys; os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\n"
        "from rlfp_ros.contract import load_bundle\n"
        "load_bundle(sys.argv[1]).session('encoder.onnx')"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tiny_bundle)], capture_output=True, text=True, cwd=ROOT)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_network_of_a_newer_format_than_onnx_runtime_reads_is_refused_with_both_versions(bundle: Path) -> None:
    onnx = pytest.importorskip("onnx")
    network = onnx.load(bundle / "encoder.onnx")
    network.ir_version = 99
    onnx.save(network, bundle / "encoder.onnx")
    files = yaml.safe_load((bundle / "bundle.yaml").read_text())["files"]
    edit(bundle, files={**files, "encoder.onnx": sha256(bundle / "encoder.onnx")})
    said = refusal(bundle)
    assert "encoder.onnx: is of ONNX format 99, but ONNX Runtime" in said
    assert "install a newer onnxruntime" in said
    assert len(said) < 300 + len(str(bundle))


def test_an_unknown_field_is_refused(bundle: Path) -> None:
    edit(bundle, camera__colour="red")
    assert "camera.colour is not a known field" in refusal(bundle)


def test_a_missing_field_is_refused(bundle: Path) -> None:
    edit(bundle, camera__rate_hz=None)
    assert "camera.rate_hz is missing" in refusal(bundle)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action__rate_hz": 15.0}, "action.rate_hz is 15.0, but camera.rate_hz is"),
        ({"action__units": ["rad/s", "m/s", "m/s", "m"]}, "unit of vx is rad/s, expected m/s"),
        ({"action__components": ["vx", "vx", "vz", "gripper"]}, "repeat"),
        (
            {"action__decision_rate_hz": 20.0},
            "action.decision_rate_hz is 20, expected action.rate_hz (30) divided by a",
        ),
        ({"camera__width": -3}, "camera.width is -3"),
        ({"camera__width": 17}, "encoder.inputs.image is"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(bundle: Path, changes: dict[str, object], said: str) -> None:
    edit(bundle, **changes)
    assert said in refusal(bundle)


def test_yaml_that_does_not_parse_is_refused_with_its_line(bundle: Path) -> None:
    (bundle / "bundle.yaml").write_text("name: [unclosed\ntask: x")
    assert "bundle.yaml line 2" in refusal(bundle)


def test_another_bundles_network_is_caught_by_the_golden_outputs(bundle: Path) -> None:
    """The file loads and its shapes fit; only what it computes gives it away."""
    import onnx

    model = onnx.load(bundle / "policy.onnx")
    for initializer in model.graph.initializer:
        if initializer.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(initializer)
            initializer.CopyFrom(onnx.numpy_helper.from_array(values + np.float32(0.5), initializer.name))
    onnx.save(model, bundle / "policy.onnx")
    files = yaml.safe_load((bundle / "bundle.yaml").read_text())["files"]
    edit(bundle, files={**files, "policy.onnx": sha256(bundle / "policy.onnx")})
    with pytest.raises(ConfigurationError, match=r"differs from golden\.npz"):
        Policy(load_bundle(bundle), load_arm("panda"))


def test_a_bundle_for_another_arm_is_refused(bundle: Path) -> None:
    arm = load_arm("panda")
    other = arm.model_copy(update={"joint_names": tuple(f"other_{name}" for name in arm.joint_names)})
    with pytest.raises(ConfigurationError, match="joint_names"):
        Policy(load_bundle(bundle), other)


def test_an_incomplete_bundle_is_not_written_and_the_old_one_stays(bundle: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    contract = load_bundle(bundle).contract
    camera = contract.camera.model_copy(update={"width": 17})  # contradicts the encoder
    files = {name: before[name] for name in ("encoder.onnx", "policy.onnx", "golden.npz")}
    with pytest.raises(ConfigurationError, match=r"encoder\.inputs\.image"):
        write_bundle(bundle, contract.model_copy(update={"camera": camera}), files)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


# --- the arm in the bundle --------------------------------------------------------------------------------------------


def test_a_shipped_bundle_carries_its_arm_and_an_older_one_does_not(bundle: Path) -> None:
    assert load_bundle(bundle).arm_file is None
    for name in ("reach_panda", "push_panda", "lift_panda", "reach_so101"):
        shipped = load_bundle(name)
        assert shipped.arm_file is not None
        assert read_arm(shipped.arm_file).name == shipped.contract.arm.name


@pytest.mark.parametrize("urdf", [None, b"<robot/>"])
def test_the_arms_files_are_written_and_checked_like_the_others(bundle: Path, urdf: bytes | None) -> None:
    files = {path.name: path.read_bytes() for path in bundle.iterdir() if path.name != "bundle.yaml"}
    arm = carried_files(load_arm("panda")) | ({} if urdf is None else {"arm.urdf": urdf})
    written = write_bundle(bundle, load_bundle(bundle).contract, files | arm)
    assert written.arm_file == bundle / "arm.yaml"
    assert set(written.contract.files) == set(files) | set(arm)
    (bundle / "arm.yaml").write_text((bundle / "arm.yaml").read_text().replace("velocity: [2", "velocity: [9"))
    assert "arm.yaml: sha256 is" in refusal(bundle)


def test_an_arm_file_that_the_bundle_does_not_list_is_refused(bundle: Path) -> None:
    """Such a bundle would fall back on the arm by its name, and nothing would say so."""
    (bundle / "arm.yaml").write_bytes(carried_files(load_arm("panda"))["arm.yaml"])
    assert "arm.yaml: bundle.yaml does not list this file" in refusal(bundle)


def test_a_file_that_no_bundle_has_is_refused(bundle: Path) -> None:
    files = yaml.safe_load((bundle / "bundle.yaml").read_text())["files"]
    edit(bundle, files={**files, "notes.txt": "0" * 64})
    assert "files.notes.txt is not a known file" in refusal(bundle)
