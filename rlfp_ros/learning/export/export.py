"""`rlfp export`: from a finished training to a bundle, checked all the way to the arm before it replaces another.

A training ends with `save_trained`: its networks as PyTorch programs, which need none of the code that made them, and
the contract. `export_bundle` makes ONNX of them, compares both over thousands of observations, records golden frames
from training's own environment, and writes a bundle that has repeated them. It also brings an older bundle up to date.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from rich.console import Console
from torch import Tensor, nn

from rlfp_ros import __version__, schema
from rlfp_ros.contract.bundle import (
    METADATA_PREFIX,
    Bundle,
    Contract,
    check_replaceable,
    description,
    load_bundle,
    onnx_session,
    sha256,
    write_bundle,
)
from rlfp_ros.control.arm import Arm, JointState, load_arm
from rlfp_ros.control.policy import ObservationContract, Observer, Policy
from rlfp_ros.learning.encoders.novelty import Novelty
from rlfp_ros.learning.encoders.spatial import ExportedEncoder
from rlfp_ros.learning.export import quantise
from rlfp_ros.learning.objectives.objective import AnyEncoder
from rlfp_ros.learning.recipes.estimator import SceneEstimator, SeeingActor
from rlfp_ros.learning.recipes.privileged_sac import Actor
from rlfp_ros.perception.domain_shift import DomainShift
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.environment import Behaviour, ManipulationEnv

VERSION = 1  # of what `save_trained` leaves in a run folder
OBSERVATIONS = 1_000  # random ones, and as many real ones, over which PyTorch and ONNX Runtime are compared
AGREEMENT = 1e-5  # absolute below 1, relative above
GOLDEN_FRAMES = 5  # enough for the stack to fill and the arm to move
GOLDEN_SEED = 300_000_000  # never met in training, selection or evaluation
PROFILES = ("none", "train", "validation")  # a bundle is measured under
ENCODER_OUTPUTS = ("features", "object_pose", "pose_cov", "embedding")
POLICY_INPUTS = ("features", "proprioception", "goal", "goal_mask", "state")
POLICY_OUTPUTS = ("action", "next_state")


class ExportedPolicy(nn.Module):
    """The actor's mean action, with the inputs and outputs that a bundle declares."""

    def __init__(self, actor: Actor | SeeingActor) -> None:
        super().__init__()
        # In double precision, as its estimator is: it tells millimetres apart, and what float32 rounds on the way there
        # is another action in ONNX Runtime than in PyTorch.
        self.actor = copy.deepcopy(actor).double() if isinstance(actor, SeeingActor) else actor

    def forward(
        self, features: Tensor, proprioception: Tensor, goal: Tensor, goal_mask: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """action [1, A] in [-1, 1], next_state [1, S] of features [1, stack, K, 3] or [1, stack, Z] and the rest."""
        observation = torch.cat([features.flatten(1), proprioception, goal, goal_mask], dim=-1)
        mean, _, next_state = self.actor.step(observation, state)
        return torch.tanh(mean).float(), next_state


def onnx_of(module: Any, inputs: dict[str, Tensor], outputs: tuple[str, ...]) -> bytes:
    """A module or an exported program as the bytes of an ONNX file with fixed shapes."""
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which we do not use
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            module, tuple(inputs.values()), input_names=list(inputs), output_names=list(outputs),
            dynamo=True, verbose=False, optimize=True,
        )  # fmt: skip
    assert program is not None
    program.save(buffer)  # type: ignore[arg-type]  # any file object works
    return without_traces(buffer.getvalue())


def without_traces(model_file: bytes) -> bytes:
    """An ONNX file without what the exporter notes about its making: stack traces with this machine's paths, twice the
    size of the network."""
    model = onnx.load_from_string(model_file)
    model.doc_string = ""
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    return bytes(model.SerializeToString())


def export_encoder(encoder: AnyEncoder, image: np.ndarray) -> bytes:
    """`encoder.onnx` for training to play with; `image` uint8 [H, W, 3] is an example."""
    return onnx_of(deployed_encoder(encoder), {"image": torch.from_numpy(image[None].copy())}, ENCODER_OUTPUTS)


def export_estimator(estimator: SceneEstimator, proprioception_size: int, points: int) -> bytes:
    """A policy's estimator alone, as training runs it: inputs, next_state."""
    inputs = {
        "features": torch.zeros(1, estimator.stack, points, 3), "proprioception": torch.zeros(1, proprioception_size),
        "goal": torch.zeros(1, 3), "goal_mask": torch.zeros(1, 1), "state": torch.zeros(1, estimator.state_size),
    }  # fmt: skip
    return onnx_of(estimator, inputs, ("inputs", "next_state"))


def deployed_encoder(encoder: AnyEncoder, novelty: Novelty | None = None) -> nn.Module:
    """What `encoder.onnx` computes."""
    contiguous = encoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return ExportedEncoder(contiguous, novelty).eval()


# --- what a training leaves behind -----------------------------------------------------------------------------------


def save_trained(run: Path, contract: dict[str, Any], encoder: nn.Module | bytes, policy: nn.Module) -> None:
    """Leave the finished networks in `run/trained`, whole or not at all.

    `contract` is bundle.yaml without `files`; `encoder` a `deployed_encoder`, or the `encoder.onnx` of another bundle
    that the policy was trained on; `policy` takes POLICY_INPUTS and gives POLICY_OUTPUTS, batch 1.
    """
    checked = Contract.model_validate({**contract, "files": {}})
    run.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".trained.", dir=run))
    modules = {"policy.pt2": (policy.eval(), _policy_example(checked))}
    if isinstance(encoder, nn.Module):
        image = torch.zeros(*checked.encoder.inputs["image"], dtype=torch.uint8)
        modules["encoder.pt2"] = (encoder, (image,))
    try:
        for name, (module, example) in modules.items():
            torch.export.save(torch.export.export(module, example), scratch / name)
        if isinstance(encoder, bytes):
            (scratch / "encoder.onnx").write_bytes(encoder)
        digests = {path.name: sha256(path) for path in sorted(scratch.iterdir())}
        document = {"version": VERSION, "contract": contract, "files": digests}
        (scratch / "trained.json").write_text(json.dumps(document, indent=1))
        shutil.rmtree(run / "trained", ignore_errors=True)
        os.rename(scratch, run / "trained")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _policy_example(contract: Contract) -> tuple[Tensor, ...]:
    """Zeros of the shapes that a policy takes."""
    observed = ObservationContract.of(contract)
    shapes = {
        "features": (observed.feature_stack, *contract.encoder.outputs["features"][1:]),
        "proprioception": (Observer(load_arm(contract.arm.name), observed).proprioception_size,),
        "goal": (3,),
        "goal_mask": (1,),
        "state": (contract.policy.state_size,),
    }
    return tuple(torch.zeros(1, *shapes[name]) for name in POLICY_INPUTS)


@dataclass(frozen=True)
class Networks:
    """What is to be deployed, as functions of the inputs that a bundle declares, batch 1, in the declared order."""

    encode: Callable[[dict[str, np.ndarray]], tuple[np.ndarray, ...]]
    act: Callable[[dict[str, np.ndarray]], tuple[np.ndarray, ...]]


def _load_trained(run: Path) -> tuple[dict[str, Any], Networks, dict[str, bytes]]:
    """Contract, networks in PyTorch (an encoder of another bundle: in ONNX Runtime), and their ONNX files by name."""
    folder = run / "trained"
    marker = folder / "trained.json"
    if not marker.is_file():
        if (run / "result.json").is_file():
            raise ConfigurationError(
                f"{run}: its policy was trained without an encoder that a bundle could hold; train one with "
                "`rlfp train TASK --algorithm NAME --observation features`"
            )
        if (run / "recipe.json").is_file() or (run / "plan.json").is_file():
            raise ConfigurationError(
                f"{run}: its training has not ended, so there is nothing to export; go on with `rlfp train TASK --run "
                f"{run} --resume`"
            )
        raise ConfigurationError(
            f"{run}: holds neither trained/trained.json nor bundle.yaml; give a folder of `rlfp train`, or a bundle"
        )
    try:
        document = json.loads(marker.read_text())
        version = document["version"]
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f"{marker}: is damaged; end the training again with `rlfp train TASK --run {run} --resume`"
        ) from None
    if version != VERSION:
        raise ConfigurationError(
            f"{marker}: version is {version!r}, expected {VERSION}; export it with the rlfp_ros that trained it, or "
            "train again in a new folder"
        )
    for name, digest in document["files"].items():
        file = folder / name
        if not file.is_file() or sha256(file) != digest:
            raise ConfigurationError(
                f"{file}: is missing, cut short or altered (its sha256 is not trained.json's); end the training again "
                f"with `rlfp train TASK --run {run} --resume`"
            )
    program = torch.export.load(folder / "policy.pt2")
    act, files = _in_pytorch(program), {"policy.onnx": _program_to_onnx(program, POLICY_INPUTS, POLICY_OUTPUTS)}
    if "encoder.onnx" in document["files"]:
        files["encoder.onnx"] = (folder / "encoder.onnx").read_bytes()
        encode = _in_onnx_runtime(files["encoder.onnx"], ENCODER_OUTPUTS)
    else:
        program = torch.export.load(folder / "encoder.pt2")
        encode = _in_pytorch(program)
        files["encoder.onnx"] = _program_to_onnx(program, ("image",), ENCODER_OUTPUTS)
    return document["contract"], Networks(encode, act), files


def _in_pytorch(program: Any) -> Callable[[dict[str, np.ndarray]], tuple[np.ndarray, ...]]:
    module = program.module()

    def run(inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            return tuple(output.numpy() for output in module(*(torch.from_numpy(value) for value in inputs.values())))

    return run


def _in_onnx_runtime(
    file: bytes, outputs: tuple[str, ...]
) -> Callable[[dict[str, np.ndarray]], tuple[np.ndarray, ...]]:
    session = onnx_session(file)
    return lambda inputs: tuple(session.run(outputs, inputs))


# --- the bundle ------------------------------------------------------------------------------------------------------


def export_bundle(
    source: Path, out: Path, evaluation_episodes: int = 100, observations: int = OBSERVATIONS,
    console: Console | None = None,
) -> Bundle:  # fmt: skip
    """Write the bundle `out` from a run folder of `rlfp train`, or anew from an older bundle, its networks unchanged.

    Raises ConfigurationError, and leaves an older `out` as it was, where `source` is damaged or of another version,
    where PyTorch and ONNX Runtime disagree, or where the deployed code does not repeat training's frames.
    """
    console = console or Console()
    check_replaceable(out)
    older = (source / "bundle.yaml").exists()
    if older:
        old = load_bundle(source)
        contract = schema.read_yaml(source / "bundle.yaml")
        del contract["files"]
        files = {name: old.file(name).read_bytes() for name in ("encoder.onnx", "policy.onnx")}
        with np.load(old.file("golden.npz")) as arrays:
            golden = {name: arrays[name] for name in arrays if not name.startswith("frames/")}
    else:
        contract, trained, files = _load_trained(source)
        golden = {}
    checked = Contract.model_validate({**contract, "files": {}})
    deployed = _deployed(files)
    played = list(play(checked, deployed, max(GOLDEN_FRAMES, observations if not golden else 0)))
    if not golden:
        error = _disagreement(checked, trained, deployed, played, observations)
        console.print(f"PyTorch and ONNX Runtime differ by {error:.1e} over 2 x {observations} observations")
        verdict = quantise.trial(files["encoder.onnx"], source / "frames")
        if verdict is not None:
            console.print(f"int8 encoder: {verdict.text}")
            contract["provenance"]["int8"] = verdict.text
            if verdict.kept:
                files["encoder.onnx"], deployed = verdict.file, _deployed(files | {"encoder.onnx": verdict.file})
                played = list(play(checked, deployed, GOLDEN_FRAMES))
        golden = _golden_tensors(deployed if verdict is not None and verdict.kept else trained, played[-1])
    golden |= {f"frames/{name}": values for name, values in _golden_frames(checked, played).items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **golden)
    written = {name: _described(checked, name, data) for name, data in files.items()} | {
        "golden.npz": buffer.getvalue()
    }
    if evaluation_episodes and not older:
        with tempfile.TemporaryDirectory() as folder:
            candidate = write_bundle(Path(folder) / "bundle", contract, written, check=_deploys)
            contract["evaluation"] = _evaluate(candidate, evaluation_episodes, console)
        if out.exists() and not any(result["success_rate"] for result in contract["evaluation"]):
            raise ConfigurationError(
                f"{out}: keeps its older bundle, since the new one solved none of {evaluation_episodes} episodes under "
                "any profile; train longer, or write it elsewhere with --out"
            )
    return write_bundle(out, contract, written, check=_deploys)


def _program_to_onnx(program: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> bytes:
    examples = program.example_inputs[0]
    return onnx_of(program, dict(zip(inputs, examples, strict=True)), outputs)


def _deployed(files: dict[str, bytes]) -> Networks:
    return Networks(
        _in_onnx_runtime(files["encoder.onnx"], ENCODER_OUTPUTS), _in_onnx_runtime(files["policy.onnx"], POLICY_OUTPUTS)
    )


def _deploys(bundle: Bundle) -> None:
    """The bundle as nodes and evaluation will meet it: every check that they make."""
    Perception(bundle)
    Policy(bundle, load_arm(bundle.contract.arm.name))


def _described(contract: Contract, name: str, data: bytes) -> bytes:
    """An ONNX file that says itself what it was trained for."""
    model = onnx.load_from_string(data)
    model.producer_name, model.producer_version = "rlfp_ros", __version__
    notes = {METADATA_PREFIX + "commit": str(contract.provenance.get("commit", "unknown"))}
    onnx.helper.set_model_props(model, description(contract, name) | notes)
    return bytes(model.SerializeToString())


# --- training's own environment, as the reference --------------------------------------------------------------------


@dataclass(frozen=True)
class Played:
    """One frame of an episode in training's environment."""

    image: np.ndarray  # uint8 [H, W, 3]
    joint_state: JointState
    stamp_ns: int
    encoded: tuple[np.ndarray, ...]  # as ENCODER_OUTPUTS
    inputs: dict[str, np.ndarray]  # of the policy, batch 1
    acted: tuple[np.ndarray, ...]  # as POLICY_OUTPUTS


def play(contract: Contract, networks: Networks, count: int) -> Iterator[Played]:
    """`count` frames as in training: by its environment, without deployment's perception and policy.

    Under the profile `train`, whichever it was trained under: the way from a picture to a residual is the same.
    """
    camera = contract.camera
    seen: list[tuple[np.ndarray, ...]] = []

    def perceive(image: np.ndarray) -> np.ndarray:
        seen[:] = [networks.encode({"image": np.ascontiguousarray(image)[None]})]
        return seen[0][0][0]

    env = ManipulationEnv(
        contract.task, contract.arm.name, "train", "features", perceive,
        image_size=camera.height, behaviour=Behaviour(contract.action, contract.base_controller),
        observed=ObservationContract.of(contract), seed=GOLDEN_SEED,
    )  # fmt: skip
    if env.world.camera.contract.model_dump(exclude={"tolerance"}) != camera.model_dump(exclude={"tolerance"}):
        raise ConfigurationError(
            f"bundle {contract.name}: its camera is not the one of sim/scenes, so training cannot be repeated; restore "
            "the scene that it was trained in"
        )
    state = np.zeros((1, contract.policy.state_size), np.float32)
    observation, _ = env.reset()
    for _ in range(count):
        inputs = {name: observation[name][None] for name in POLICY_INPUTS if name != "state"} | {"state": state}
        acted = networks.act(inputs)
        yield Played(env.render().copy(), env.joint_state, env.world.image_stamp_ns, seen[0], inputs, acted)
        state = acted[1]
        observation, _, terminated, truncated, _ = env.step(acted[0][0])
        if terminated or truncated:
            observation, _ = env.reset()
            state = np.zeros_like(state)
    env.close()


def _golden_frames(contract: Contract, played: list[Played]) -> dict[str, np.ndarray]:
    """The fields of `bundle.GoldenFrames`, by arithmetic of its own."""
    frames = played[:GOLDEN_FRAMES]
    shift = DomainShift(contract.feature_statistics)
    axes = contract.action.axes(contract.arm.joint_names)
    twists, grippers = np.zeros((len(frames), len(axes))), np.full(len(frames), np.nan)
    for row, frame in enumerate(frames):
        for value, component, scale in zip(
            frame.acted[0][0], contract.action.components, contract.action.scale, strict=True
        ):
            if component == "gripper":
                grippers[row] = scale * (1 + float(value))
            else:
                twists[row, axes.index(component)] = scale * float(value)
    goals = [frame.inputs["goal"][0] if frame.inputs["goal_mask"].all() else np.full(3, np.nan) for frame in frames]
    return {
        "stamps_ns": np.array([frame.stamp_ns for frame in frames]),
        "images": np.stack([frame.image for frame in frames]),
        "joint_names": np.array(contract.arm.joint_names),
        "positions": np.stack([frame.joint_state.positions for frame in frames]),
        "velocities": np.stack([frame.joint_state.velocities for frame in frames]),
        "gripper_widths": np.array([frame.joint_state.gripper_width for frame in frames]),
        "goals": np.stack(goals),
        "features": np.stack([frame.encoded[0][0] for frame in frames]),
        "domain_shifts": np.array([shift(frame.encoded[3][0]) for frame in frames]),
        "proprioception": np.stack([frame.inputs["proprioception"][0] for frame in frames]),
        "twists": twists,
        "gripper_commands": grippers,
    }


def _golden_tensors(networks: Networks, frame: Played) -> dict[str, np.ndarray]:
    """Inputs and outputs of the networks alone, against which every machine checks its ONNX Runtime."""
    image = {"image": frame.image[None]}
    arrays = {f"encoder/{name}": value for name, value in image.items()}
    arrays |= {f"encoder/{name}": value for name, value in zip(ENCODER_OUTPUTS, networks.encode(image), strict=True)}
    arrays |= {f"policy/{name}": value for name, value in frame.inputs.items()}
    return arrays | {
        f"policy/{name}": value for name, value in zip(POLICY_OUTPUTS, networks.act(frame.inputs), strict=True)
    }


def _disagreement(
    contract: Contract, trained: Networks, deployed: Networks, played: list[Played], observations: int
) -> float:
    """Largest difference between PyTorch and ONNX Runtime. Raises ConfigurationError above AGREEMENT."""
    rng = np.random.default_rng(0)
    shapes = {name: value.shape for name, value in played[0].inputs.items()}
    worst = 0.0
    for kind in ("random", "real"):
        for number in range(observations):
            if kind == "real":
                frame = played[number]
                image, inputs = {"image": frame.image[None]}, frame.inputs
            else:
                image = {"image": rng.integers(0, 256, contract.encoder.inputs["image"], dtype=np.uint8)}
                inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
            pairs = [
                *zip(ENCODER_OUTPUTS, trained.encode(image), deployed.encode(image), strict=True),
                *zip(POLICY_OUTPUTS, trained.act(inputs), deployed.act(inputs), strict=True),
            ]
            for name, expected, found in pairs:
                error = float(np.max(np.abs(found - expected) / np.maximum(1, np.abs(expected))))
                worst = max(worst, error)
                if not error <= AGREEMENT:
                    raise ConfigurationError(
                        f"{name}: ONNX Runtime differs from PyTorch by {error:.2g} on {kind} observation {number}, "
                        f"expected at most {AGREEMENT:g}; no bundle was written, use the versions in setup.cfg"
                    )
    return worst


def _evaluate(bundle: Bundle, episodes: int, console: Console) -> list[dict[str, Any]]:
    from rlfp_ros.evaluation.evaluate import evaluate

    measured = []
    for profile in PROFILES:
        result = evaluate(bundle.directory, profile=profile, episodes=episodes, seed=0)
        console.print(f"  {profile:10} success {result['success_rate']:.3f}  95 % interval {result['wilson95']}")
        kept = ("world", "profile", "episodes", "success_rate", "wilson95")
        measured.append({name: result[name] for name in kept})
    return measured


def arm_part(arm: Arm) -> dict[str, Any]:
    """`arm` part of a contract."""
    return {
        "name": arm.name, "joint_names": list(arm.joint_names),
        "base_frame": arm.base_frame, "tool_frame": arm.tool_frame,
    }  # fmt: skip


def encoder_shapes(encoder: nn.Module, image: np.ndarray) -> dict[str, dict[str, list[int]]]:
    """`encoder` part of a contract, of a `deployed_encoder`; `image` uint8 [H, W, 3] is an example."""
    with torch.no_grad():
        outputs = encoder(torch.from_numpy(image[None].copy()))
    shapes = {name: list(output.shape) for name, output in zip(ENCODER_OUTPUTS, outputs, strict=True)}
    return {"inputs": {"image": [1, *image.shape]}, "outputs": shapes}
