"""A policy bundle: loading, and every check that needs no arm and no camera.

A bundle is a folder `models/<name>/` with `bundle.yaml`, `encoder.onnx`, `policy.onnx`, `golden.npz`, `arm.yaml` (the
arm it was trained with) and `trust.onnx` (the domain-shift score; older bundles have none). Everything that runs a
policy (training's own evaluation, the simulator, bag replay, the live nodes) reads the same bundle and refuses it with
one sentence if it is inconsistent.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from rlfp_ros import paths, schema
from rlfp_ros.contract.contract import Contract, read_contract
from rlfp_ros.contract.golden import (
    GoldenFrames,
    check_goal,
    check_network,
    check_past_actions,
    load_golden_frames,
)
from rlfp_ros.contract.onnx import METADATA_PREFIX, description, onnx_session
from rlfp_ros.schema import ConfigurationError

FILES = ("encoder.onnx", "policy.onnx", "golden.npz")
TRUST_FILE: Literal["trust.onnx"] = "trust.onnx"  # the domain-shift score, if bundle.yaml has a section trust
ARM_FILE = "arm.yaml"  # bundles written before release 0.2 do not have it
# The URDF only if it is a file of the user's own; the mesh of the object only if the arm's cell has one.
ARM_FILES = (ARM_FILE, "arm.urdf", "object.obj", "object.stl")


class Bundle:
    """A bundle folder whose contract, files and sha256 were checked."""

    def __init__(self, directory: Path, contract: Contract) -> None:
        self.directory = directory
        self.contract = contract

    def file(self, name: str) -> Path:
        """Path of one of `FILES`."""
        return self.directory / name

    @property
    def arm_file(self) -> Path | None:
        """The description of the arm that the policy was trained with; None for a bundle without one."""
        return self.file(ARM_FILE) if ARM_FILE in self.contract.files else None

    def session(self, name: Literal["encoder.onnx", "policy.onnx", "trust.onnx"]) -> Any:
        """Open a network in ONNX Runtime.

        Raises
        ------
        ConfigurationError
            If its metadata, inputs, outputs or golden outputs do not match the bundle.
        """
        session = onnx_session(self.file(name))
        self._check_description(name, session)
        part_name = name.removesuffix(".onnx")
        part = getattr(self.contract, part_name)
        for kind, found in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            declared = getattr(part, kind)
            names = [value.name for value in found]
            if sorted(names) != sorted(declared):
                raise ConfigurationError(
                    f"{self.directory / 'bundle.yaml'}: {part_name}.{kind} is {sorted(declared)}, "
                    f"but {name} has {sorted(names)}; export the bundle again"
                )
            if isinstance(declared, dict):
                for value in found:
                    if tuple(value.shape) != declared[value.name]:
                        raise ConfigurationError(
                            f"{self.directory / 'bundle.yaml'}: {part_name}.{kind}.{value.name} is "
                            f"{declared[value.name]}, but {name} has {tuple(value.shape)}; export the bundle again"
                        )
        check_network(self.file(name), self.file("golden.npz"), session)
        return session

    def golden_frames(self) -> GoldenFrames:
        """The frames that deployment must repeat.

        Raises
        ------
        ConfigurationError
            If one of their fields is missing, or they have another goal or other past actions than the contract.
        """
        file = self.file("golden.npz")
        frames = load_golden_frames(file)
        check_goal(file, frames, self.contract.goal)
        check_past_actions(file, frames, self.contract.policy.past_actions)
        return frames

    def _check_description(self, name: str, session: Any) -> None:
        """Check that the network's metadata, which states what it was trained for, agrees with bundle.yaml."""
        found = session.get_modelmeta().custom_metadata_map
        for key, expected in description(self.contract, name).items():
            field = key.removeprefix(METADATA_PREFIX)
            if key not in found:
                raise ConfigurationError(
                    f"{self.file(name)}: its metadata has no {field}; write the bundle again with "
                    f"`rlfp export {self.directory} --out {self.directory}`"
                )
            trained, declared = json.loads(found[key]), json.loads(expected)
            parts = {"": (trained, declared)}
            if isinstance(trained, dict):
                # A field that the file lacks was added to the contract later, with a default.
                parts = {f".{part}": (value, declared.get(part)) for part, value in trained.items()}
            for part, (value, other) in parts.items():
                if value != other:
                    raise ConfigurationError(
                        f"{self.directory / 'bundle.yaml'}: {field}{part} is {other}, but {name} was trained with "
                        f"{value}; the file belongs to another bundle or bundle.yaml was edited, export it again"
                    )


def load_bundle(name_or_path: str | Path) -> Bundle:
    """Load the bundle `models/<name>`, or the one in a folder of the user's.

    Parameters
    ----------
    name_or_path
        Name of a bundle that ships, or path of a bundle folder.

    Raises
    ------
    ConfigurationError
        If a field or file is missing, unknown or altered, or a newer rlfp_ros wrote the bundle.
    """
    directory = paths.resolve(name_or_path, "models")
    if not directory.is_dir():
        raise ConfigurationError(f"{directory}: is a file, expected a bundle folder with bundle.yaml in it")
    path = directory / "bundle.yaml"
    contract = read_contract(schema.read_yaml(path), str(path))
    for name in FILES:
        if name not in contract.files:
            raise ConfigurationError(f"{path}: files.{name} is missing; export the bundle again")
    if (contract.trust is not None) != (TRUST_FILE in contract.files):
        found, other = ("lists", "has no") if contract.trust is None else ("does not list", "has a")
        raise ConfigurationError(
            f"{path}: files {found} {TRUST_FILE}, but it {other} section trust; export the bundle again"
        )
    for name in (TRUST_FILE, *ARM_FILES):
        if (directory / name).exists() and name not in contract.files:
            raise ConfigurationError(
                f"{directory / name}: bundle.yaml does not list this file under files; remove it, or copy the whole "
                "bundle again"
            )
    for name, expected in contract.files.items():
        known = (*FILES, TRUST_FILE, *ARM_FILES)
        if name not in known:
            raise ConfigurationError(
                f"{path}: files.{name} is not a known file, expected {', '.join(known)}; export the bundle again"
            )
        file = directory / name
        if not file.is_file():
            raise ConfigurationError(f"{file}: no such file, but bundle.yaml lists it; copy the whole folder again")
        digest = sha256(file)
        if digest != expected:
            raise ConfigurationError(
                f"{file}: sha256 is {digest[:12]}..., but bundle.yaml says {expected[:12]}...; "
                "the file was altered or belongs to another bundle, copy or export the bundle again"
            )
    return Bundle(directory, contract)


def sha256(path: Path) -> str:
    """Hex digest of a file's contents."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
