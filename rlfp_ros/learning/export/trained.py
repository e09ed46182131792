"""Saves and loads the networks of a finished training in its run folder, the input of `rlfp export`.

They are PyTorch programs, which do not need the code that defined them, beside the contract and the arm.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rlfp_ros.contract import ARM_FILE, Contract, read_contract, sha256
from rlfp_ros.control.arm import Arm, read_arm
from rlfp_ros.control.policy import ObservationContract, Observer
from rlfp_ros.control.robot_description import carried_files
from rlfp_ros.files import explained, write_whole
from rlfp_ros.learning.export.build import POLICY_OUTPUTS, outputs_of, policy_inputs
from rlfp_ros.learning.export.networks import Networks, in_onnx_runtime, in_pytorch, program_to_onnx
from rlfp_ros.schema import ConfigurationError

VERSION = 2  # format of the folder


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    contract: Contract
    arm: Arm
    networks: Networks  # in PyTorch; an encoder of another bundle in ONNX Runtime
    files: dict[str, bytes]  # encoder.onnx and policy.onnx


def save_trained(run: Path, contract: Contract, arm: Arm, encoder: nn.Module | bytes, policy: nn.Module) -> None:
    """Write the finished networks to `run/trained`, completely or not at all.

    Parameters
    ----------
    run
        The training's run folder.
    contract, arm
        The contract, from `build_contract`, and the arm that was trained.
    encoder
        A `deployed_encoder`, a `PixelEncoder`, or the contents of the `encoder.onnx` of the bundle that the policy was
        trained on.
    policy
        A module that takes what `policy_inputs` lists and returns POLICY_OUTPUTS, batch 1.
    """
    run.mkdir(parents=True, exist_ok=True)
    with explained(run):
        scratch = Path(tempfile.mkdtemp(prefix=".trained.", dir=run))
    modules = {"policy.pt2": (policy.eval(), _policy_example(contract, arm))}
    if isinstance(encoder, nn.Module):
        image = torch.zeros(*contract.encoder.inputs["image"], dtype=torch.uint8)
        modules["encoder.pt2"] = (encoder, (image,))
    try:
        for name, (module, example) in modules.items():
            buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError that does not say so
            torch.export.save(torch.export.export(module, example), buffer)
            write_whole(scratch / name, buffer.getvalue())
        if isinstance(encoder, bytes):
            write_whole(scratch / "encoder.onnx", encoder)
        for name, data in carried_files(arm).items():
            write_whole(scratch / name, data)
        digests = {path.name: sha256(path) for path in sorted(scratch.iterdir())}
        document = {"version": VERSION, "contract": contract.model_dump(mode="json", by_alias=True), "files": digests}
        write_whole(scratch / "trained.json", json.dumps(document, indent=1))
        shutil.rmtree(run / "trained", ignore_errors=True)
        os.rename(scratch, run / "trained")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load_trained(run: Path) -> Trained:
    """Load the result of `save_trained`.

    Raises
    ------
    ConfigurationError
        If the training has not ended, or a file is missing, damaged or of another version.
    """
    folder = run / "trained"
    marker = folder / "trained.json"
    if not marker.is_file():
        raise _nothing_trained(run)
    try:
        document = json.loads(marker.read_text())
        version = document["version"]
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f"{marker}: is damaged; end the training again with `rlfp train TASK --run {run} --resume`"
        ) from None
    if version != VERSION:
        raise ConfigurationError(
            f"{marker}: version is {version!r}, expected {VERSION}; install the rlfp_ros that trained it and export it "
            "with that, or train again in a new folder"
        )
    for name, digest in document["files"].items():
        file = folder / name
        if not file.is_file() or sha256(file) != digest:
            raise ConfigurationError(
                f"{file}: is missing, cut short or altered (its sha256 is not trained.json's); end the training again "
                f"with `rlfp train TASK --run {run} --resume`"
            )
    contract = read_contract(document["contract"], f"{marker}: contract")
    program = torch.export.load(folder / "policy.pt2")
    policy = program_to_onnx(program, policy_inputs(contract.policy.past_actions), POLICY_OUTPUTS)
    act, files, outputs = in_pytorch(program), {"policy.onnx": policy}, outputs_of(contract.encoder)
    if "encoder.onnx" in document["files"]:
        files["encoder.onnx"] = (folder / "encoder.onnx").read_bytes()
        encode = in_onnx_runtime(files["encoder.onnx"], outputs)
    else:
        program = torch.export.load(folder / "encoder.pt2")
        encode = in_pytorch(program)
        files["encoder.onnx"] = program_to_onnx(program, ("image",), outputs)
    return Trained(contract, read_arm(folder / ARM_FILE), Networks(encode, act), files)


def _nothing_trained(run: Path) -> ConfigurationError:
    if (run / "result.json").is_file():
        return ConfigurationError(
            f"{run}: its policy was trained without an encoder that a bundle could hold; train one with "
            "`rlfp train TASK --algorithm NAME --observation features`"
        )
    if (run / "recipe.json").is_file() or (run / "plan.json").is_file():
        return ConfigurationError(
            f"{run}: its training has not ended, so there is nothing to export; continue it with `rlfp train TASK "
            f"--run {run} --resume`"
        )
    return ConfigurationError(
        f"{run}: holds neither trained/trained.json nor bundle.yaml; give a folder of `rlfp train`, or a bundle"
    )


def _policy_example(contract: Contract, arm: Arm) -> tuple[Tensor, ...]:
    """Return zeros in the shapes of a policy's inputs."""
    observed, actions = ObservationContract.of(contract), len(contract.action.components)
    shapes = {
        "features": (observed.feature_stack, *contract.encoder.outputs["features"][1:]),
        "proprioception": (Observer(arm, observed, actions).proprioception_size,),
        "goal": (3,),
        "goal_mask": (1,),
        "past_actions": (observed.past_actions, actions),
        "state": (contract.policy.state_size,),
    }
    return tuple(torch.zeros(1, *shapes[name]) for name in policy_inputs(observed.past_actions))
