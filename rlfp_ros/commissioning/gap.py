"""`rlfp gap`: sends a recorded run's observations through training's own code, and says where deployment parts from it.

A bag holds what the drivers sent (pictures, joints) and what the graph made of it (features, residual). Training's own
code makes features and residual of the same drivers' messages. Where the two differ, each known mistake is tried on
training's path: the one that gives what was recorded is the cause.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from rlfp_ros.contract import Bundle, load_bundle
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.policy import ObservationContract, Observer, residual_of
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.episode import Phase
from rlfp_ros.evaluation.results import write_json
from rlfp_ros.perception.camera import CameraModel, camera_model
from rlfp_ros.perception.encoder import OnnxEncoder, Perception
from rlfp_ros.perception.preprocess import Preprocessor
from rlfp_ros.recording import decode, topics
from rlfp_ros.recording.bag_topics import ANY, TopicChoice, namespace_of, robot_topics
from rlfp_ros.recording.clock import unusable_stamps
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.recording.snapshots import BagJoints
from rlfp_ros.schema import ConfigurationError

MOST_PICTURES = 150
FEWEST_PICTURES = 5
FEATURE_TOLERANCE = 1e-3  # on the plane z = 1; other processors round otherwise, 1e-4 at most
RESIDUAL_TOLERANCE = 1e-2  # of the bundle's scale
RATE_TOLERANCE = 0.2  # share
LATENCY_TOLERANCE_S = 0.06  # beyond what training modelled: two frames
WALL_CLOCK_S = 3600.0  # stamps farther than this from the recorder's clock are simulated time

STAGES = ("rate", "latency", "size", "crop", "colour order", "normalisation", "joint order", "units", "stack order")


@dataclass(frozen=True)
class Stage:
    """One row of the answer."""

    name: str
    parts: bool
    detail: str


@dataclass
class Observations:
    """What a bag holds of one run, by stamp in ns."""

    topics: str = ""  # which, for people
    camera: CameraModel | None = None
    images: dict[int, np.ndarray] = field(default_factory=dict)  # uint8 [H, W, 3] rgb
    received: dict[int, int] = field(default_factory=dict)  # when the recorder got the picture, ns
    joints: list[JointState] = field(default_factory=list)  # in order
    in_message_order: list[np.ndarray] = field(default_factory=list)  # the first J positions as the driver orders them
    features: dict[int, np.ndarray] = field(default_factory=dict)  # [K, 3], as perception published them
    residual: dict[int, np.ndarray] = field(default_factory=dict)  # [6] m/s, rad/s, as the policy published them
    goal: np.ndarray | None = None  # [3] m, base frame
    resets: list[int] = field(default_factory=list)  # stamps at which the policy forgot

    def joints_at(self, stamp_ns: int) -> int | None:
        """Index of the newest joint state not newer than `stamp_ns`."""
        place = bisect.bisect_right(self.joints, stamp_ns, key=lambda state: state.stamp_ns) - 1
        return place if place >= 0 else None


def read_observations(folder: str | Path, arm: Arm, choice: TopicChoice = ANY) -> Observations:
    """The first `MOST_PICTURES` pictures of a bag with all that belongs to them. Raises ConfigurationError."""
    seen = Observations()
    joints = BagJoints(arm)
    with BagReader(folder) as bag:
        chosen, namespace = robot_topics(bag, arm, choice), namespace_of(bag, choice)
        seen.topics = str(chosen)
        image = chosen.camera.image
        own = (topics.FEATURES, topics.RESIDUAL, topics.GOAL, topics.EPISODE)
        wanted = {image, chosen.camera.camera_info, *chosen.joint_states, *(f"{namespace}/{name}" for name in own)}
        if unusable := unusable_stamps(bag, {image, *chosen.joint_states}):
            raise ConfigurationError(
                f"{folder}: {unusable}; the graph matches images, joints and actions by their stamps, so let the "
                "drivers stamp every message with the time of its measurement"
            )
        for message in bag.messages(wanted):
            if len(seen.images) >= MOST_PICTURES:
                break
            content, kind = bag.decode(message), message.type.rpartition("/")[2]
            if message.topic == image:
                stamp = decode.stamp_ns(content.header.stamp)
                seen.images[stamp] = decode.image_from_message(content, message.topic)
                seen.received[stamp] = message.log_time_ns
            elif kind == "CameraInfo":
                seen.camera = camera_model(content, message.topic, chosen.camera.rectified)
            elif kind == "JointState":
                state = joints(message, content)
                if state is not None:
                    seen.joints.append(state)
                    seen.in_message_order.append(np.asarray(content.position, dtype=float)[: len(arm.joint_names)])
            elif kind == "PointCloud2":
                stamp = decode.stamp_ns(content.header.stamp)
                seen.features[stamp] = decode.features_from_message(content, message.topic)
            elif kind == "TwistStamped":
                stamp = decode.stamp_ns(content.header.stamp)
                seen.residual[stamp] = decode.twist_from_message(content, arm.base_frame, message.topic)
            elif kind == "PointStamped" and content.header.frame_id == arm.base_frame:
                seen.goal = np.array([content.point.x, content.point.y, content.point.z])
            elif kind == "String":
                episode = decode.episode_from_message(content)
                if episode.phase is Phase.RESET:
                    seen.resets.append(episode.stamp)
    seen.joints.sort(key=lambda state: state.stamp_ns)
    if len(seen.images) < FEWEST_PICTURES or not seen.joints:
        raise ConfigurationError(
            f"{folder}: holds {len(seen.images)} pictures and {len(seen.joints)} joint states of {arm.name}, expected "
            f"at least {FEWEST_PICTURES} pictures and the joints; "
            + (joints.first_refusal() or "record the graph while it runs (record:=FOLDER)")
        )
    return seen


# --- the mistakes that are tried -------------------------------------------------------------------------------------

Picture = Callable[[np.ndarray], np.ndarray]


def _centre_crop(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _picture_mistakes(preprocess: Callable[[np.ndarray], np.ndarray], size: tuple[int, int]) -> dict[str, Picture]:
    """What may have been given to the encoder in place of training's picture: "stage: words" -> picture."""

    def resized(image: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))

    def stretched(image: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.normalize(preprocess(image), None, 0, 255, cv2.NORM_MINMAX))

    return {
        "colour order: red and blue are swapped": lambda image: preprocess(image)[..., ::-1],
        "size: resized without regard to the camera's intrinsics and lens": resized,
        "crop: cut square in the middle, then resized": lambda image: resized(_centre_crop(image)),
        "normalisation: scaled to 0..1 before the network, which does that itself": lambda image: (
            preprocess(image) // 255
        ),
        "normalisation: contrast stretched": stretched,
        "crop: upside down": lambda image: preprocess(image)[::-1, ::-1],
        "crop: mirrored": lambda image: preprocess(image)[:, ::-1],
    }


@dataclass(frozen=True)
class _PolicyMistake:
    """What may have been done to the policy's inputs or output."""

    name: str
    reverse_stack: bool = False
    joints: Callable[[JointState], JointState] | None = None
    message_order: bool = False
    newest_joints: bool = False
    features: Callable[[np.ndarray], np.ndarray] | None = None
    unscaled: bool = False  # the action in [-1, 1] itself


def _with_positions(state: JointState, positions: np.ndarray) -> JointState:
    return JointState(state.stamp_ns, positions, state.velocities, state.efforts, state.gripper_width)


def _policy_mistakes(bundle: Bundle) -> tuple[_PolicyMistake, ...]:
    k = bundle.contract.camera.intrinsics

    def in_pixels(features: np.ndarray) -> np.ndarray:
        scaled = features * np.array([k.fx, k.fy, 1.0]) + np.array([k.cx, k.cy, 0.0])
        return scaled.astype(np.float32)

    return (
        _PolicyMistake("stack order: the newest frame comes first", reverse_stack=True),
        _PolicyMistake("joint order: taken as the driver orders them, not by name", message_order=True),
        _PolicyMistake(
            "joint order: reversed", joints=lambda state: _with_positions(state, state.positions[::-1].copy())
        ),
        _PolicyMistake(
            "units: joints in degrees, expected radians",
            joints=lambda state: _with_positions(state, np.degrees(state.positions)),
        ),
        _PolicyMistake("units: the action was not multiplied by the bundle's scale", unscaled=True),
        _PolicyMistake("latency: the newest joints were used, not those at the picture's exposure", newest_joints=True),
        _PolicyMistake("normalisation: features in pixels, expected on the plane z = 1", features=in_pixels),
    )


# --- the comparison --------------------------------------------------------------------------------------------------


def compare(bundle: Bundle, arm: Arm, seen: Observations) -> list[Stage]:
    """Every stage of `STAGES` in order, and `features` or `residual` where they part for no known reason."""
    parted: dict[str, str] = {}
    notes: dict[str, str] = {}
    _compare_timing(bundle, seen, parted, notes)
    _compare_joints(arm, seen, parted)
    try:
        _compare_features(bundle, seen, parted, notes)
    except ConfigurationError as error:
        parted["size"] = str(error)
    _compare_residuals(bundle, arm, seen, parted, notes)
    names = [*STAGES, *(name for name in ("features", "residual") if name in parted)]
    return [Stage(name, name in parted, parted.get(name, notes.get(name, "as in training"))) for name in names]


def _compare_timing(bundle: Bundle, seen: Observations, parted: dict[str, str], notes: dict[str, str]) -> None:
    contract, stamps = bundle.contract, sorted(seen.images)
    rate, trained = 1e9 / float(np.median(np.diff(stamps))), contract.camera.rate_hz
    notes["rate"] = f"{rate:.1f} Hz"
    if abs(rate - trained) > RATE_TOLERANCE * trained:
        parted["rate"] = f"pictures come at {rate:.1f} Hz, trained at {trained:g} Hz; set the driver's rate"
    age = float(np.median([seen.received[stamp] - stamp for stamp in stamps])) * 1e-9
    if abs(age) > WALL_CLOCK_S:
        notes["latency"] = "not judged: stamps are simulated time"
        return
    notes["latency"] = f"pictures are {1e3 * age:.0f} ms old when they come"
    limit = contract.latency.camera_s + LATENCY_TOLERANCE_S
    if not -0.02 <= age <= limit:
        parted["latency"] = (
            f"pictures are {1e3 * age:.0f} ms old when they come, trained with "
            f"{1e3 * contract.latency.camera_s:.0f} ms; shorten the exposure or the driver's queue, or let it stamp "
            "with the system clock"
        )


def _compare_joints(arm: Arm, seen: Observations, parted: dict[str, str]) -> None:
    """Joints outside their limits that fit in as degrees."""
    lower, upper = np.array(arm.limits.lower) - 0.05, np.array(arm.limits.upper) + 0.05
    positions = np.array([state.positions for state in seen.joints])
    outside = (positions < lower) | (positions > upper)
    if outside.any(axis=1).mean() > 0.5:
        turned = np.radians(positions)
        worst = int(np.argmax(outside.mean(axis=0)))
        found = f"{arm.joint_names[worst]} is {np.median(positions[:, worst]):.1f}, outside its limits in rad"
        if not ((turned < lower) | (turned > upper)).any(axis=1).mean() > 0.5:
            parted["units"] = f"{found}; joint_states are in degrees, let the driver publish radians"
        else:
            parted["joint order"] = f"{found}; correct the order or driver_joint_names in {arm.origin}"


def _error(made: dict[int, np.ndarray], recorded: dict[int, np.ndarray]) -> float:
    """Median over stamps of the largest difference; a lost message must not count. inf where shapes differ."""
    errors = [
        float(np.abs(made[stamp] - recorded[stamp]).max()) if made[stamp].shape == recorded[stamp].shape else np.inf
        for stamp in made.keys() & recorded.keys()
    ]
    return float(np.median(errors)) if errors else np.inf


def _compare_features(bundle: Bundle, seen: Observations, parted: dict[str, str], notes: dict[str, str]) -> None:
    contract, camera = bundle.contract, seen.camera
    preprocessor = Preprocessor(contract)
    some = next(iter(seen.images.values()))
    if camera is not None and (camera.width, camera.height) != (some.shape[1], some.shape[0]):
        raise ConfigurationError(
            f"pictures are {some.shape[1]} x {some.shape[0]}, but camera_info says {camera.width} x {camera.height}; "
            "let the driver publish both for the same size"
        )

    def preprocess(image: np.ndarray) -> np.ndarray:
        return preprocessor(image, camera)

    perception = Perception(bundle)
    percepts = {stamp: perception(image, camera) for stamp, image in seen.images.items()}
    shift = float(np.median([percept.domain_shift for percept in percepts.values()]))
    preprocess(some)
    notes["size"] = preprocessor.description
    notes["colour order"] = f"as in training; domain shift {shift:.2f}"
    if not seen.features.keys() & seen.images.keys():
        notes["crop"] = "not judged: the bag holds no perception/features with a picture's stamp"
        return
    made = {stamp: percept.features for stamp, percept in percepts.items()}
    if _error(made, seen.features) <= FEATURE_TOLERANCE:
        return
    stamps = sorted(made)
    late = {now: made[before] for before, now in itertools.pairwise(stamps)}
    if _error(late, seen.features) <= FEATURE_TOLERANCE:
        parted["latency"] = "features are those of the picture before; they carry another picture's stamp"
        return
    encoder = OnnxEncoder(bundle.session("encoder.onnx"))
    size = contract.camera.width, contract.camera.height
    for name, picture in _picture_mistakes(preprocess, size).items():
        tried = {stamp: encoder(picture(image))[0] for stamp, image in seen.images.items()}
        if _error(tried, seen.features) <= FEATURE_TOLERANCE:
            stage, _, words = name.partition(": ")
            parted[stage] = words
            return
    parted["features"] = (
        f"recorded features differ from training's by {_error(made, seen.features):.3g}, for no reason that is known "
        "here; give perception and gap the same bundle, and compare camera_info with the camera"
    )


def _compare_residuals(
    bundle: Bundle, arm: Arm, seen: Observations, parted: dict[str, str], notes: dict[str, str]
) -> None:
    if not seen.residual.keys() & seen.features.keys():
        notes["stack order"] = "not judged: the bag holds no policy/residual with its features"
        return
    session, contract = bundle.session("policy.onnx"), bundle.contract
    observer = Observer(arm, ObservationContract.of(contract))
    action = contract.action
    size = np.array([action.scale[action.components.index(name)] for name in action.components if name != "gripper"])
    tolerance = RESIDUAL_TOLERANCE * float(size.max())
    latency = float(np.median([seen.received[stamp] - stamp for stamp in seen.images]))
    latency = latency if abs(latency) < WALL_CLOCK_S * 1e9 else contract.latency.camera_s * 1e9

    def residuals(mistake: _PolicyMistake) -> dict[int, np.ndarray]:
        made: dict[int, np.ndarray] = {}
        resets, state = sorted(seen.resets), np.zeros((1, contract.policy.state_size), np.float32)
        observer.reset()
        for number, stamp in enumerate(sorted(seen.features)):
            while resets and resets[0] < stamp:
                resets.pop(0)
                observer.reset()
                state = np.zeros_like(state)
            place = seen.joints_at(stamp + (int(latency) if mistake.newest_joints else 0))
            if place is None:
                continue
            joints, features = seen.joints[place], seen.features[stamp]
            if mistake.message_order:
                joints = _with_positions(joints, seen.in_message_order[place])
            joints = mistake.joints(joints) if mistake.joints else joints
            features = mistake.features(features) if mistake.features else features
            goal = None if contract.goal == "none" else seen.goal
            observation = observer.observe(features, joints, goal)
            if mistake.reverse_stack:
                observation["features"] = observation["features"][::-1].copy()
            inputs = {name: value[None] for name, value in observation.items()} | {"state": state}
            output, state = session.run(("action", "next_state"), inputs)
            if number + 1 < contract.policy.feature_stack and not seen.resets:
                continue  # frames before the recording are not known
            chosen = action.model_copy(update={"scale": (1.0,) * len(action.scale)}) if mistake.unscaled else action
            made[stamp] = residual_of(output[0].astype(np.float64), chosen, stamp).twist
        return made

    error = _error(residuals(_PolicyMistake("none")), seen.residual)
    if error <= tolerance:
        return
    for mistake in _policy_mistakes(bundle):
        if _error(residuals(mistake), seen.residual) <= tolerance:
            stage, _, words = mistake.name.partition(": ")
            parted[stage] = words
            return
    parted["residual"] = (
        f"recorded residuals differ from training's by {error:.3g} m/s, for no reason that is known here; give policy "
        "and gap the same bundle and arm"
    )


def run(bag: Path, bundle_name: str, arm_name: str | None, json_path: Path | None, choice: TopicChoice = ANY) -> int:
    """Print the table. Exit code 0 where deployment is as training, 1 where it parts."""
    bundle = load_bundle(bundle_name)
    arm = choose_arm(bundle, arm_name, print)
    seen = read_observations(bag, arm, choice)
    stages = compare(bundle, arm, seen)
    console = Console(highlight=False)
    console.print(seen.topics)
    table = Table(title=f"{bag}: {len(seen.images)} pictures against {bundle.contract.name}", title_justify="left")
    for name in ("stage", "", "found"):
        table.add_column(name)
    for stage in stages:
        table.add_row(stage.name, "[red]parts[/]" if stage.parts else "[green]same[/]", stage.detail)
    console.print(table)
    if json_path is not None:
        write_json(json_path, {"bag": str(bag), "bundle": bundle.contract.name, "stages": _rows(stages)})
    return int(any(stage.parts for stage in stages))


def _rows(stages: Sequence[Stage]) -> list[dict[str, object]]:
    return [{"stage": stage.name, "parts": stage.parts, "found": stage.detail} for stage in stages]
