"""The policy bundle: the contract between training and deployment.

A folder `models/<name>/` with `bundle.yaml`, `encoder.onnx`, `policy.onnx` and `golden.npz`. Everything that runs a
policy (training's own evaluation, the simulator, bag replay, the live nodes) reads the same bundle and refuses it
with one sentence where it does not hold together.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field, model_validator

from rlfp_ros import paths, schema
from rlfp_ros.files import explained, write_whole
from rlfp_ros.schema import ConfigurationError, Pose, Schema

FILES = ("encoder.onnx", "policy.onnx", "golden.npz")
GOLDEN_TOLERANCE = 1e-4  # ONNX Runtime picks other kernels on other processors; 1e-5 is what one machine holds
# What each network was trained for and carries in its own metadata. Not the camera's tolerance, which is for people to
# decide, and not the base controller, which measurements exchange.
DESCRIBED = {
    "encoder.onnx": ("camera", "image"),
    "policy.onnx": ("task", "arm", "policy", "proprioception", "goal", "action"),
}
METADATA_PREFIX = "rlfp_ros."
Positive = Field(gt=0)


class ArmContract(Schema):
    """The arm that the policy was trained with."""

    name: str
    joint_names: tuple[str, ...]
    base_frame: str
    tool_frame: str


class Intrinsics(Schema):
    """Pinhole intrinsics of the image that the encoder sees, pixels."""

    fx: float = Positive
    fy: float = Positive
    cx: float
    cy: float
    distortion: Literal["none"] = "none"

    def matrix(self) -> np.ndarray:
        """Camera matrix K, 3 x 3."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])


class Tolerance(Schema):
    """How far the real camera may stand from the trained one."""

    xyz_m: float = Positive
    angle_rad: float = Positive


class CameraContract(Schema):
    """The camera that the encoder was trained for. Optical frame: x right, y down, z forward (REP-103)."""

    width: int = Positive  # px
    height: int = Positive  # px
    intrinsics: Intrinsics
    T_base_camera: Pose
    tolerance: Tolerance
    rate_hz: float = Positive


class ImageContract(Schema):
    """How a camera image becomes the encoder's input."""

    crop: Literal["none"] = "none"
    resize: Literal["area"] = "area"
    colour_order: Literal["rgb"] = "rgb"
    dtype: Literal["uint8"] = "uint8"
    stack: int = Field(default=1, ge=1, le=8)


class EncoderContract(Schema):
    """Names and shapes of `encoder.onnx`."""

    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]


class PolicyContract(Schema):
    """Names of `policy.onnx`'s inputs and outputs, and what they are made of."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    feature_stack: int = Field(default=1, ge=1, le=8)  # newest last
    state_size: int = Field(default=1, ge=1)  # 1 and always zero for a policy without memory


class Normalisation(Schema):
    """Where inputs are normalised: always inside the ONNX files."""

    where: Literal["inside_onnx"] = "inside_onnx"


TWIST_COMPONENTS = ("vx", "vy", "vz", "wx", "wy", "wz")


class ActionContract(Schema):
    """The policy's output in [-1, 1], times `scale`, is a velocity: of the tool in the base frame, or of joints.

    `components`: some of vx vy vz wx wy wz (kind twist), or names of the arm's joints (kind joint_velocity), and
    `gripper`, which maps [-1, 1] to [0, 2 * scale] metres of opening width.
    """

    kind: Literal["twist", "joint_velocity"] = "twist"
    components: tuple[str, ...]
    scale: tuple[float, ...]
    units: tuple[Literal["m/s", "rad/s", "m"], ...]
    rate_hz: float = Positive

    def axes(self, joint_names: tuple[str, ...]) -> tuple[str, ...]:
        """What a residual's numbers are, in their order: the six of a twist, or the arm's joints."""
        return TWIST_COMPONENTS if self.kind == "twist" else joint_names

    @model_validator(mode="after")
    def _consistent(self) -> ActionContract:
        if not len(self.components) == len(self.scale) == len(self.units):
            raise ValueError(
                f"has {len(self.components)} components, {len(self.scale)} scales and {len(self.units)} units, "
                "expected as many of each"
            )
        if len(set(self.components)) != len(self.components):
            raise ValueError(f"components {list(self.components)} repeat, expected each once")
        for component, scale, unit in zip(self.components, self.scale, self.units, strict=True):
            if self.kind == "twist" and component not in (*TWIST_COMPONENTS, "gripper"):
                raise ValueError(f"component {component!r} is none of {', '.join(TWIST_COMPONENTS)}, gripper")
            translation = self.kind == "twist" and component.startswith("v")
            expected = "m" if component == "gripper" else "m/s" if translation else "rad/s"
            if unit != expected:
                raise ValueError(f"unit of {component} is {unit}, expected {expected}")
            if scale <= 0:
                raise ValueError(f"scale of {component} is {scale}, expected above 0")
        return self


class BaseController(Schema):
    """The controller that the residual is added to."""

    name: str
    parameters: dict[str, float | tuple[float, ...]] = Field(default_factory=dict)


class Latency(Schema):
    """Delays modelled in training."""

    camera_s: float = Field(ge=0)  # exposure to delivery of the image
    command_s: float = Field(ge=0)  # command sent to command in effect


class FeatureStatistics(Schema):
    """Of the encoder's embedding (E values) over training: the domain-shift score's reference."""

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    usual_distance: float = Positive  # median Mahalanobis distance of training's own frames
    rare_distance: float = Positive  # the distance that one of a thousand passes

    @model_validator(mode="after")
    def _ordered(self) -> FeatureStatistics:
        if self.usual_distance >= self.rare_distance:
            raise ValueError(f"usual_distance {self.usual_distance} is not below rare_distance {self.rare_distance}")
        return self


class Evaluation(Schema):
    """One measured success rate, made by `./rlfp evaluate`."""

    world: str
    profile: str
    episodes: int
    success_rate: float
    wilson95: tuple[float, float]


class Contract(Schema):
    """`bundle.yaml`."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str
    task: str
    arm: ArmContract
    camera: CameraContract
    image: ImageContract
    encoder: EncoderContract
    policy: PolicyContract
    proprioception: tuple[
        Literal["joint_positions", "joint_velocities", "gripper_width", "tool_position", "tool_direction"], ...
    ]
    goal: Literal["none", "point", "marker"] = "none"
    normalisation: Normalisation
    action: ActionContract
    base_controller: BaseController
    latency: Latency
    feature_statistics: FeatureStatistics
    provenance: dict[str, Any]
    evaluation: tuple[Evaluation, ...] = ()
    files: dict[str, str]  # name -> sha256

    @model_validator(mode="after")
    def _consistent(self) -> Contract:
        expected = (1, self.camera.height, self.camera.width, 3 * self.image.stack)
        if self.encoder.inputs.get("image") != expected:
            found = self.encoder.inputs.get("image")
            raise ValueError(f"encoder.inputs.image is {found}, but camera and image.stack make {expected}")
        if self.action.rate_hz != self.camera.rate_hz:
            raise ValueError(
                f"action.rate_hz is {self.action.rate_hz}, but camera.rate_hz is {self.camera.rate_hz}; "
                "the policy acts once for every frame, so set them equal or retrain"
            )
        if self.action.kind == "joint_velocity":
            unknown = set(self.action.components) - {*self.arm.joint_names, "gripper"}
            if unknown:
                raise ValueError(
                    f"action.components has {sorted(unknown)[0]!r}, expected joints of arm.joint_names "
                    f"({', '.join(self.arm.joint_names)}) or gripper"
                )
        return self


@dataclass(frozen=True)
class GoldenFrames:
    """T frames of an episode as training's environment saw and answered them. Deployment must repeat them.

    `perception.encoder.Perception` and `control.policy.Policy` do so when they are made, through preprocessing,
    observation and action scaling: a difference from training anywhere on that way is found before the arm moves.
    """

    stamps_ns: np.ndarray  # int64 [T]
    images: np.ndarray  # uint8 [T, H, W, 3] rgb, as the encoder takes them
    joint_names: np.ndarray  # str [J]
    positions: np.ndarray  # [T, J] rad
    velocities: np.ndarray  # [T, J] rad/s
    gripper_widths: np.ndarray  # [T] m
    goals: np.ndarray  # [T, 3] m in the base frame; NaN: none
    features: np.ndarray  # float32 [T, K, 3] or [T, Z]
    domain_shifts: np.ndarray  # [T]
    proprioception: np.ndarray  # float32 [T, P]
    twists: np.ndarray  # [T, 6] m/s, rad/s: the residual; [T, J] rad/s for actions of kind joint_velocity
    gripper_commands: np.ndarray  # [T] m; NaN: none


class Bundle:
    """A bundle folder that was checked: schema, files and their sha256."""

    def __init__(self, directory: Path, contract: Contract) -> None:
        self.directory = directory
        self.contract = contract

    def file(self, name: str) -> Path:
        """Path of one of `FILES`."""
        return self.directory / name

    def session(self, name: Literal["encoder.onnx", "policy.onnx"]) -> Any:
        """An ONNX Runtime session on one thread, its inputs and outputs checked against the contract.

        One thread: batch 1 gains nothing from more, and a second spinning thread starves the other nodes.
        """
        session = onnx_session(self.file(name))
        self._check_description(name, session)
        part = self.contract.encoder if name == "encoder.onnx" else self.contract.policy
        for kind, found in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            declared = getattr(part, kind)
            names = [value.name for value in found]
            if sorted(names) != sorted(declared):
                raise ConfigurationError(
                    f"{self.directory / 'bundle.yaml'}: {name.removesuffix('.onnx')}.{kind} is {sorted(declared)}, "
                    f"but {name} has {sorted(names)}; export the bundle again"
                )
            if isinstance(declared, dict):
                for value in found:
                    if tuple(value.shape) != declared[value.name]:
                        raise ConfigurationError(
                            f"{self.directory / 'bundle.yaml'}: encoder.{kind}.{value.name} is {declared[value.name]}, "
                            f"but {name} has {tuple(value.shape)}; export the bundle again"
                        )
        self._check_golden(name, session)
        return session

    def golden_frames(self) -> GoldenFrames:
        """What deployment must repeat."""
        with np.load(self.file("golden.npz")) as golden:
            arrays = {name: golden[f"frames/{name}"] for name in _GOLDEN_FIELDS if f"frames/{name}" in golden}
        for name in _GOLDEN_FIELDS:
            if name not in arrays:
                raise ConfigurationError(
                    f"{self.file('golden.npz')}: frames/{name} is missing, so nothing shows that deployment repeats "
                    f"training; write the bundle anew with `rlfp export {self.directory} --out {self.directory}`"
                )
        return GoldenFrames(**arrays)

    def _check_description(self, name: str, session: Any) -> None:
        """A network says itself what it was trained for; bundle.yaml must say the same."""
        found = session.get_modelmeta().custom_metadata_map
        for key, expected in description(self.contract, name).items():
            field = key.removeprefix(METADATA_PREFIX)
            if key not in found:
                raise ConfigurationError(
                    f"{self.file(name)}: its metadata has no {field}; write the bundle anew with "
                    f"`rlfp export {self.directory} --out {self.directory}`"
                )
            trained, declared = json.loads(found[key]), json.loads(expected)
            parts = {"": (trained, declared)}
            if isinstance(trained, dict):
                # What the file does not know came to the contract later, with a default.
                parts = {f".{part}": (value, declared.get(part)) for part, value in trained.items()}
            for part, (value, other) in parts.items():
                if value != other:
                    raise ConfigurationError(
                        f"{self.directory / 'bundle.yaml'}: {field}{part} is {other}, but {name} was trained with "
                        f"{value}; the file belongs to another bundle or bundle.yaml was edited, export it again"
                    )

    def _check_golden(self, name: str, session: Any) -> None:
        """Recorded inputs must give the recorded outputs: catches a file that loads but is another network."""
        part = name.removesuffix(".onnx")
        with np.load(self.file("golden.npz")) as golden:
            outputs = [value.name for value in session.get_outputs()]
            missing = {f"{part}/{value.name}" for value in (*session.get_inputs(), *session.get_outputs())} - set(
                golden
            )
            if missing:
                raise ConfigurationError(
                    f"{self.file('golden.npz')}: {sorted(missing)[0]} is missing; export the bundle again"
                )
            results = session.run(
                outputs, {value.name: golden[f"{part}/{value.name}"] for value in session.get_inputs()}
            )
            for output, result in zip(outputs, results, strict=True):
                expected = golden[f"{part}/{output}"]
                error = float(np.max(np.abs(result - expected))) if result.shape == expected.shape else np.inf
                if not error <= GOLDEN_TOLERANCE * max(1.0, float(np.max(np.abs(expected)))):
                    raise ConfigurationError(
                        f"{self.file(name)}: {output} differs from golden.npz by {error:.2g}, "
                        f"expected at most {GOLDEN_TOLERANCE:g}; the file belongs to another bundle, export it again"
                    )


_GOLDEN_FIELDS = tuple(GoldenFrames.__dataclass_fields__)


def description(contract: Contract, name: str) -> dict[str, str]:
    """What the ONNX file `name` carries as metadata: one JSON document for each of `DESCRIBED`."""
    document = contract.model_dump(mode="json")
    document["camera"].pop("tolerance")
    return {METADATA_PREFIX + field: json.dumps(document[field], sort_keys=True) for field in DESCRIBED[name]}


def onnx_session(file: Path | bytes) -> Any:
    """An ONNX Runtime session on one thread. Raises ConfigurationError where the file is none."""
    import onnxruntime  # kept out of module import: `inspect` and the launch files need no inference

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            file if isinstance(file, bytes) else str(file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises a family of its own for damaged or too new files
        name = "the network" if isinstance(file, bytes) else file
        raise ConfigurationError(f"{name}: ONNX Runtime cannot load it ({error})") from None


def load_bundle(name_or_path: str | Path) -> Bundle:
    """The bundle `models/<name>`, or the one in a folder of the user's.

    Raises ConfigurationError naming the field or file where anything is missing, unknown or altered.
    """
    directory = paths.resolve(name_or_path, "models")
    if not directory.is_dir():
        raise ConfigurationError(f"{directory}: is a file, expected a bundle folder with bundle.yaml in it")
    path = directory / "bundle.yaml"
    contract = schema.load(path, Contract)
    for name in FILES:
        if name not in contract.files:
            raise ConfigurationError(f"{path}: files.{name} is missing; export the bundle again")
        file = directory / name
        if not file.is_file():
            raise ConfigurationError(f"{file}: no such file, but bundle.yaml lists it; copy the whole folder again")
        digest = sha256(file)
        if digest != contract.files[name]:
            raise ConfigurationError(
                f"{file}: sha256 is {digest[:12]}..., but bundle.yaml says {contract.files[name][:12]}...; "
                "the file was altered or belongs to another bundle, copy or export the bundle again"
            )
    return Bundle(directory, contract)


def write_bundle(
    directory: Path, contract: dict[str, Any], files: dict[str, bytes], check: Callable[[Bundle], None] | None = None
) -> Bundle:
    """Write a bundle whole or not at all, replacing an older one of that name.

    `contract` is bundle.yaml without `files`; `files` holds the contents of `FILES`. What `check` raises about the
    finished bundle leaves the older one as it was.
    """
    check_replaceable(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    replaced = directory.with_name(f".{directory.name}.replaced")
    if replaced.exists() and not directory.exists():  # a process was killed between the two renames below
        os.rename(replaced, directory)
    shutil.rmtree(replaced, ignore_errors=True)
    with explained(directory):
        scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        for name in FILES:
            write_whole(scratch / name, files[name])
        document = {**contract, "files": {name: sha256(scratch / name) for name in FILES}}
        text = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=120)
        write_whole(scratch / "bundle.yaml", text)
        scratch.chmod(0o755)
        bundle = load_bundle(scratch)
        if check is not None:
            check(bundle)
        if directory.exists():
            os.rename(directory, replaced)
        os.rename(scratch, directory)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return load_bundle(directory)


def check_replaceable(directory: Path) -> None:
    """Raises ConfigurationError where a bundle in `directory` would take the place of something else, or cannot be."""
    parent = next(folder for folder in directory.absolute().parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise ConfigurationError(f"{directory}: nothing can be written in {parent}; choose another folder with --out")
    if directory.exists() and not (directory.is_dir() and (directory / "bundle.yaml").is_file()):
        empty = directory.is_dir() and not any(directory.iterdir())
        if not empty:
            raise ConfigurationError(
                f"{directory}: holds something that is not a bundle and would be lost; choose another folder with --out"
            )


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
