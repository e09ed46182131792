"""The contract between training and deployment: `bundle.yaml` as types, checked when they are made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, JsonValue, model_validator

from rlfp_ros import schema
from rlfp_ros.contract.migrate import migrated
from rlfp_ros.schema import ConfigurationError, Pose, Schema

Positive = Field(gt=0, le=1e6)
Shape = tuple[Annotated[int, Field(ge=0, le=10_000_000)], ...]
Share = Annotated[float, Field(ge=0, le=1)]
JointQuantity = Literal["joint_positions", "joint_velocities", "gripper_width", "tool_position", "tool_direction"]
Goal = Literal["none", "point", "marker"]  # marker: the policy gets no goal point; it sees the goal in the image
MAX_FEATURE_STACK = 8
MAX_PAST_ACTIONS = 64
POSE_OUTPUTS = {"object_pose": (1, 7), "pose_cov": (1, 6, 6)}  # of an encoder that finds the object
TWIST_COMPONENTS = ("vx", "vy", "vz", "wx", "wy", "wz")


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
    cx: float = Field(ge=-1e6, le=1e6)
    cy: float = Field(ge=-1e6, le=1e6)
    distortion: Literal["none"] = "none"

    def matrix(self) -> np.ndarray:
        """Camera matrix K, 3 x 3."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])


class Tolerance(Schema):
    """Largest distance and angle between the real camera's place and the trained one."""

    xyz_m: float = Positive
    angle_rad: float = Positive


class CameraContract(Schema):
    """The camera that the encoder was trained for. Optical frame: x right, y down, z forward (REP-103)."""

    width: int = Field(gt=0, le=4096)  # px
    height: int = Field(gt=0, le=4096)  # px
    intrinsics: Intrinsics
    T_base_camera: Pose
    tolerance: Tolerance
    rate_hz: float = Positive


class ImageContract(Schema):
    """Preprocessing of a camera image to the encoder's input."""

    crop: Literal["none"] = "none"
    resize: Literal["area"] = "area"
    colour_order: Literal["rgb"] = "rgb"
    dtype: Literal["uint8"] = "uint8"
    stack: int = Field(default=1, ge=1, le=8)


class EncoderContract(Schema):
    """Names and shapes of `encoder.onnx`, which are also what perception publishes.

    `features` are points [1, K, 3] or a latent vector [1, Z]. `embedding` [1, E] gives the domain shift. `object_pose`
    [1, 7] and `pose_cov` [1, 6, 6] are left out by an encoder that does not find the object, as that of a policy which
    was trained from raw pixels; the base controller must not follow the object then.
    """

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]

    @property
    def finds_object(self) -> bool:
        """Whether it gives the object's pose."""
        return "object_pose" in self.outputs

    @property
    def finds_points(self) -> bool:
        """Whether its features are points in the image, not a latent vector."""
        return len(self.outputs["features"]) == 3

    @model_validator(mode="after")
    def _known_outputs(self) -> EncoderContract:
        known = ("features", "embedding", *POSE_OUTPUTS)
        unknown = [name for name in self.outputs if name not in known]
        if unknown:
            raise ValueError(f"outputs has {unknown[0]!r}, expected some of {', '.join(known)}")
        for name in ("features", "embedding"):
            if name not in self.outputs:
                raise ValueError(f"outputs has no {name}, expected its shape; export the bundle again")
        features = self.outputs["features"]
        if not (len(features) == 2 or (len(features) == 3 and features[2] == 3)):
            raise ValueError(f"outputs.features is {features}, expected points [1, K, 3] or a latent [1, Z]")
        found = [name for name in POSE_OUTPUTS if name in self.outputs]
        if found and len(found) < len(POSE_OUTPUTS):
            raise ValueError(f"outputs has {found[0]} alone, expected {' and '.join(POSE_OUTPUTS)} or neither")
        for name in found:
            if self.outputs[name] != POSE_OUTPUTS[name]:
                raise ValueError(f"outputs.{name} is {self.outputs[name]}, expected {POSE_OUTPUTS[name]}")
        return self


class PolicyContract(Schema):
    """Inputs and outputs of `policy.onnx`, and how its memory is laid out."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    feature_stack: int = Field(default=1, ge=1, le=MAX_FEATURE_STACK)  # decisions whose features it gets, newest last
    state_size: int = Field(default=1, ge=1, le=1_000_000)  # 1 and always zero for a policy without memory
    past_actions: int = Field(default=0, ge=0, le=MAX_PAST_ACTIONS)  # admitted actions that it gets, newest last

    @model_validator(mode="after")
    def _gets_past_actions(self) -> PolicyContract:
        if ("past_actions" in self.inputs) != (self.past_actions > 0):
            listed = "lists" if "past_actions" in self.inputs else "does not list"
            raise ValueError(f"past_actions is {self.past_actions}, but inputs {listed} past_actions; correct one")
        return self


class Normalisation(Schema):
    """The place where inputs are normalised: always inside the ONNX files."""

    where: Literal["inside_onnx"] = "inside_onnx"


class ActionContract(Schema):
    """The policy's output in [-1, 1], times `scale`, is a velocity: of the tool in the base frame, or of joints.

    `components`: some of vx vy vz wx wy wz (kind twist), or names of the arm's joints (kind joint_velocity), and
    `gripper`, which maps [-1, 1] to [0, 2 * scale] metres of opening width.

    `rate_hz` is the rate at which actions are published, one for each image. `decision_rate_hz` is the rate at which
    the policy decides: `rate_hz` divided by a whole number. The action of a decision is published again for the images
    up to the next decision.
    """

    kind: Literal["twist", "joint_velocity"] = "twist"
    components: tuple[str, ...]
    scale: tuple[Annotated[float, Field(ge=-100, le=100)], ...]
    units: tuple[Literal["m/s", "rad/s", "m"], ...]
    rate_hz: float = Positive
    decision_rate_hz: float = Field(default_factory=lambda fields: fields.get("rate_hz", 1.0), gt=0, le=1e6)

    @property
    def images_per_decision(self) -> int:
        """Number of images for which an action is published."""
        return round(self.rate_hz / self.decision_rate_hz)

    @property
    def rate_fault(self) -> str:
        """What is wrong with the two rates; empty if nothing is."""
        images = self.rate_hz / self.decision_rate_hz
        if images > 1 - 1e-6 and abs(images - round(images)) <= 1e-6 * images:
            return ""
        return (
            f"action.decision_rate_hz is {self.decision_rate_hz:g}, expected action.rate_hz ({self.rate_hz:g}) divided "
            "by a whole number"
        )

    def deciding_every(self, images: int) -> ActionContract:
        """Return the same actions, decided on every `images`-th image.

        Raises
        ------
        ConfigurationError
            If `images` is not 1 or more.
        """
        if images < 1:
            raise ConfigurationError(f"the policy decides on every {images}-th image, expected 1 or more")
        return ActionContract.model_validate(self.model_dump() | {"decision_rate_hz": self.rate_hz / images})

    def axes(self, joint_names: tuple[str, ...]) -> tuple[str, ...]:
        """Names of a residual's numbers, in order: the six components of a twist, or the arm's joints."""
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


class BaseControllerContract(Schema):
    """The controller that the residual is added to."""

    name: str
    parameters: dict[str, float | tuple[float, ...]] = Field(default_factory=dict)


class Latency(Schema):
    """Delays modelled in training."""

    camera_s: float = Field(ge=0, le=10)  # exposure to delivery of the image
    command_s: float = Field(ge=0, le=10)  # command sent to command in effect


class FeatureStatistics(Schema):
    """Distribution of the encoder's embedding (E values) in training: the reference of the domain-shift score."""

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    usual_distance: float = Positive  # median Mahalanobis distance of the training frames
    rare_distance: float = Positive  # 99.9th percentile of that distance

    @model_validator(mode="after")
    def _ordered(self) -> FeatureStatistics:
        if self.usual_distance >= self.rare_distance:
            raise ValueError(f"usual_distance {self.usual_distance} is not below rare_distance {self.rare_distance}")
        return self


class TrustContract(Schema):
    """`trust.onnx`: a domain-shift score that foretells how far off the object is, from the image and the joints."""

    error_m: float = Positive  # the score foretells errors of the object's position above this
    inputs: dict[str, Shape]  # names and shapes
    outputs: dict[str, Shape]


class Evaluation(Schema):
    """One measured success rate, as `rlfp evaluate` reports it."""

    world: str
    profile: str
    episodes: int = Field(ge=0, le=10**9)
    success_rate: Share
    wilson95: tuple[Share, Share]


class Contract(Schema):
    """`bundle.yaml`.

    Build one with `rlfp_ros.learning.export.build_contract`; `write_bundle` fills in `files` and `written_with`.
    Documents of older versions are accepted and migrated (`rlfp_ros.contract.migrate`).
    """

    schema_version: Literal[2] = Field(alias="schema")
    name: str
    task: str
    arm: ArmContract
    camera: CameraContract
    image: ImageContract
    encoder: EncoderContract
    policy: PolicyContract
    proprioception: tuple[JointQuantity, ...]
    goal: Goal = "none"
    normalisation: Normalisation
    action: ActionContract
    base_controller: BaseControllerContract
    latency: Latency
    feature_statistics: FeatureStatistics
    trust: TrustContract | None = None  # None: the domain-shift score is that of feature_statistics
    provenance: dict[str, JsonValue]  # how the bundle was made; information for people only
    evaluation: tuple[Evaluation, ...] = ()
    files: dict[str, str] = Field(default_factory=dict)  # name -> sha256; `write_bundle` fills it in
    written_with: str = ""  # version of rlfp_ros; `write_bundle` fills it in

    @model_validator(mode="before")
    @classmethod
    def _migrated(cls, document: Any) -> Any:
        return migrated(document, "contract")

    @model_validator(mode="after")
    def _consistent(self) -> Contract:
        expected = (1, self.camera.height, self.camera.width, 3 * self.image.stack)
        if self.encoder.inputs.get("image") != expected:
            found = self.encoder.inputs.get("image")
            raise ValueError(f"encoder.inputs.image is {found}, but camera and image.stack make {expected}")
        if self.action.rate_hz != self.camera.rate_hz:
            raise ValueError(
                f"action.rate_hz is {self.action.rate_hz}, but camera.rate_hz is {self.camera.rate_hz}; "
                "an action is published for each image, so set them equal or retrain"
            )
        if self.action.rate_fault:
            raise ValueError(self.action.rate_fault)
        if self.trust is not None and not self.encoder.finds_object:
            raise ValueError("trust judges the object's pose, but encoder.outputs has none; remove trust")
        if self.action.kind == "joint_velocity":
            unknown = set(self.action.components) - {*self.arm.joint_names, "gripper"}
            if unknown:
                raise ValueError(
                    f"action.components has {sorted(unknown)[0]!r}, expected joints of arm.joint_names "
                    f"({', '.join(self.arm.joint_names)}) or gripper"
                )
        return self


def read_contract(document: Any, source: str) -> Contract:
    """Return the contract in a document of this or an older version.

    Parameters
    ----------
    document
        Content of `bundle.yaml`.
    source
        What to name in an error.

    Raises
    ------
    ConfigurationError
        If the version is newer, or a field is missing, unknown or wrong.
    """
    return schema.validate(migrated(document, source), Contract, source)
