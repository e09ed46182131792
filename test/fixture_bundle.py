"""A tiny bundle whose outputs follow from its inputs by simple arithmetic, for tests of the data path."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rlfp_ros.contract import Bundle, Contract, description, write_bundle
from rlfp_ros.control.arm import Arm, load_arm
from rlfp_ros.control.kinematics import Kinematics

WIDTH, HEIGHT = 64, 48  # not square: a swap of the two shows
FX = 50.0
POINTS = 4
STACK = 2
COMPONENTS = ("vx", "vy", "vz", "gripper")
SCALE = (0.1, 0.1, 0.1, 0.04)
JOINTS = (0, 3, 5)  # which move, where the action is of kind joint_velocity
# Optical frame looking straight down from 0.8 m above (0.5, 0, 0): x right is base -y, y down is base -x.
T_BASE_CAMERA = {"xyz": [0.5, 0.0, 0.8], "quaternion_xyzw": [0.70710678, -0.70710678, 0.0, 0.0]}


def make_bundle(
    directory: Path,
    name: str = "tiny",
    goal: str = "none",
    in_joint_space: bool = False,
    arm_name: str = "panda",
    task: str = "reach",
    past_actions: int = 0,
    decides_every: int = 1,
    trust: bool = False,
    from_pixels: bool = False,
    base_controller: str = "hold",
) -> Bundle:
    """Write the bundle into `directory / name`. Its action is a twist, or velocities of the joints 1, 4 and 6.

    Encoder: m = mean red, green, blue of the image in [0, 1]; features[k] = (m_red + 0.01 k, m_green, m_blue);
    object_pose = (m_red, m_green, 0.8, 0, 0, 0, 1); embedding = m.
    Policy: action = tanh(mean of the stacked x, mean of the stacked y, joint 1, goal x * mask) + 0.01 * state, and
    state counts the decisions since `reset`. With N `past_actions`, row n of them is added times 0.4 / (N - n + 1).
    Trust, if there is one: domain_shift = sigmoid(4 * joint 1 + mean red), and NaN if joint 1 is above 2 rad.
    `from_pixels`: there is no object pose, and the features are a latent, all points' numbers in a row.
    """
    generator = np.random.default_rng(7)
    arm = load_arm(arm_name)
    encoder, policy = _encoder(from_pixels), _policy(arm, past_actions, from_pixels)
    joints = len(arm.joint_names)
    image = generator.integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    inputs = {
        "features": generator.normal(size=(1, STACK, POINTS * 3) if from_pixels else (1, STACK, POINTS, 3)).astype(
            np.float32
        ),
        "proprioception": generator.normal(size=(1, 2 * joints + 4)).astype(np.float32),
        "goal": np.array([[0.3, 0.1, 0.2]], np.float32),
        "goal_mask": np.ones((1, 1), np.float32),
        "state": np.zeros((1, 1), np.float32),
    }
    if past_actions:
        inputs["past_actions"] = generator.uniform(-1, 1, (1, past_actions, len(COMPONENTS))).astype(np.float32)
    golden = {"encoder/image": image}
    golden |= {f"encoder/{key}": value for key, value in _run(encoder, {"image": image}).items()}
    golden |= {f"policy/{key}": value for key, value in (inputs | _run(policy, inputs)).items()}
    golden |= _frames(arm, generator, goal, in_joint_space, past_actions, decides_every, trust)
    score = _trust(arm)
    if trust:
        judged = _run(encoder, {"image": image}) | {
            "joint_positions": np.array([arm.home], np.float32) + np.float32(0.3),
            "tool": generator.normal(size=(1, 6)).astype(np.float32),
        }
        golden |= {f"trust/{key}": value for key, value in (judged | _run(score, judged)).items()}
    if from_pixels:
        golden["frames/features"] = golden["frames/features"].reshape(-1, POINTS * 3)
    document: dict[str, Any] = {
        "schema": 2,
        "name": name,
        "task": task,
        "arm": {
            "name": arm.name,
            "joint_names": list(arm.joint_names),
            "base_frame": arm.base_frame,
            "tool_frame": arm.tool_frame,
        },
        "camera": {
            "width": WIDTH,
            "height": HEIGHT,
            "intrinsics": {"fx": FX, "fy": FX, "cx": (WIDTH - 1) / 2, "cy": (HEIGHT - 1) / 2},
            "T_base_camera": T_BASE_CAMERA,
            "tolerance": {"xyz_m": 0.03, "angle_rad": 0.05},
            "rate_hz": 30.0,
        },
        "image": {"stack": 1},
        "encoder": {
            "inputs": {"image": [1, HEIGHT, WIDTH, 3]},
            "outputs": {
                value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
                for value in encoder.graph.output
            },
        },
        "policy": {
            "inputs": list(inputs),
            "outputs": ["action", "next_state"],
            "feature_stack": STACK,
            "state_size": 1,
            "past_actions": past_actions,
        },
        "proprioception": ["joint_positions", "joint_velocities", "gripper_width", "tool_position"],
        "goal": goal,
        "normalisation": {"where": "inside_onnx"},
        "action": {
            "kind": "joint_velocity" if in_joint_space else "twist",
            "components": [*(arm.joint_names[joint] for joint in JOINTS), "gripper"]
            if in_joint_space
            else list(COMPONENTS),
            "scale": list(SCALE),
            "units": [*["rad/s" if in_joint_space else "m/s"] * 3, "m"],
            "rate_hz": 30.0,
            "decision_rate_hz": 30.0 / decides_every,
        },
        "base_controller": {"name": base_controller},
        "latency": {"camera_s": 0.03, "command_s": 0.01},
        "feature_statistics": {
            "mean": [0.5, 0.5, 0.5],
            "covariance": (0.01 * np.eye(3)).tolist(),
            "usual_distance": 1.54,
            "rare_distance": 4.03,
        },  # of three normal values
        "provenance": {"made_by": "test/fixture_bundle.py"},
    }
    if trust:
        inputs_of_trust = {
            **document["encoder"]["outputs"],
            "joint_positions": [1, joints],
            "tool": [1, 6],
        }
        document["trust"] = {"error_m": 0.03, "inputs": inputs_of_trust, "outputs": {"domain_shift": [1, 1]}}
    contract = Contract.model_validate(document)
    files = {"golden.npz": _npz(golden)}
    models = [("encoder.onnx", encoder), ("policy.onnx", policy), *([("trust.onnx", score)] if trust else [])]
    for file, model in models:
        helper.set_model_props(model, description(contract, file))
        files[file] = model.SerializeToString()
    return write_bundle(directory / name, contract, files)


def weights(past_actions: int) -> np.ndarray:
    """How strongly each row of the past actions moves the policy, newest last and strongest."""
    return 0.4 / (past_actions - np.arange(past_actions) + 1)


def _frames(
    arm: Arm,
    generator: np.random.Generator,
    goal: str,
    in_joint_space: bool,
    past_actions: int,
    decides_every: int,
    trust: bool,
) -> dict[str, np.ndarray]:
    """Three golden frames, by the arithmetic that `make_bundle` states; more with past actions or held ones."""
    count, joints = 3 if past_actions == 0 and decides_every == 1 else 7, len(arm.joint_names)
    images = generator.integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    means = images.mean(axis=(1, 2)) / 255
    features = np.repeat(means[:, None], POINTS, axis=1)
    features[:, :, 0] += 0.01 * np.arange(POINTS)
    distances = np.linalg.norm(means - 0.5, axis=1) / 0.1
    positions = np.array(arm.home) + generator.normal(scale=0.2, size=(count, joints))
    velocities = generator.normal(size=(count, joints))
    widths = generator.uniform(0, 0.08, count)
    goals = np.tile([0.4, -0.1, 0.05], (count, 1)) if goal == "point" else np.full((count, 3), np.nan)
    tools = [Kinematics(arm).tool_position(row) for row in positions]
    stamps = 1_000_000_000 + 33_333_333 * np.arange(count)
    applied = generator.uniform(-1, 1, (count - 1, len(COMPONENTS))).astype(np.float32)
    received = np.maximum(0, np.arange(count) - 1)  # of the image before, nothing has been received yet
    past = np.zeros((count, past_actions, len(COMPONENTS)), np.float32)
    actions = np.zeros((count, 4))
    for frame in range(count):
        known = applied[: received[frame]][-past_actions:] if past_actions else applied[:0]
        past[frame, past_actions - len(known) :] = known
        if frame % decides_every:
            actions[frame] = actions[frame - 1]
            continue
        stack = features[[max(0, frame - decides_every), frame]]
        wanted = 0.0 if np.isnan(goals[frame, 0]) else goals[frame, 0]
        bounded = np.tanh([stack[..., 0].mean(), stack[..., 1].mean(), positions[frame, 0], wanted])
        actions[frame] = bounded + 0.01 * (frame // decides_every) + weights(past_actions) @ past[frame]
    twists = np.zeros((count, joints if in_joint_space else 6))
    twists[:, JOINTS if in_joint_space else (0, 1, 2)] = actions[:, :3] * SCALE[:3]
    shifts = np.clip(0.5 * (distances - 1.54) / (4.03 - 1.54), 0, 1)
    if trust:
        shifts = 1 / (1 + np.exp(-(4 * positions[:, 0] + means[:, 0])))
    arrays: dict[str, Any] = {
        "stamps_ns": stamps,
        "images": images,
        "joint_names": np.array(arm.joint_names),
        "positions": positions,
        "velocities": velocities,
        "gripper_widths": widths,
        "goals": goals,
        "features": features.astype(np.float32),
        "domain_shifts": shifts,
        "proprioception": np.column_stack([positions, velocities, widths, tools]).astype(np.float32),
        "twists": twists,
        "gripper_commands": SCALE[3] * (actions[:, 3] + 1),
    }
    if past_actions:
        arrays |= {"applied": applied, "applied_stamps_ns": stamps[:-1], "received": received, "past_actions": past}
    return {f"frames/{name}": values for name, values in arrays.items()}


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def _constant(name: str, values: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(values, name)


def _model(nodes: list, inputs: list, outputs: list, constants: list) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10  # onnxruntime reads older files than onnx writes by default
    onnx.checker.check_model(model)
    return model


def _value(name: str, shape: list[int], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _encoder(from_pixels: bool) -> onnx.ModelProto:
    offsets = np.zeros((1, POINTS, 3), np.float32)
    offsets[0, :, 0] = 0.01 * np.arange(POINTS)
    to_pose = np.zeros((3, 7), np.float32)
    to_pose[0, 0] = to_pose[1, 1] = 1
    pose_offset = np.array([[0, 0, 0.8, 0, 0, 0, 1]], np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "white"], ["unit"]),
        helper.make_node("ReduceMean", ["unit"], ["embedding"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["embedding", "one"], ["mean_row"]),
        helper.make_node("Add", ["mean_row", "offsets"], ["features"]),
        helper.make_node("MatMul", ["embedding", "to_pose"], ["place"]),
        helper.make_node("Add", ["place", "pose_offset"], ["object_pose"]),
        helper.make_node("ReduceSum", ["embedding"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["covariance", "nothing"], ["pose_cov"]),
    ]
    constants = [
        _constant("white", np.array(255, np.float32)),
        _constant("one", np.array([1], np.int64)),
        _constant("zero", np.array(0, np.float32)),
        _constant("offsets", offsets),
        _constant("to_pose", to_pose),
        _constant("pose_offset", pose_offset),
        _constant("covariance", np.diag([1e-4, 2e-4, 3e-4, 0.1, 0.1, 0.1]).astype(np.float32)[None]),
    ]
    if from_pixels:
        nodes[4] = helper.make_node("Add", ["mean_row", "offsets"], ["points"])
        nodes[5:] = [helper.make_node("Flatten", ["points"], ["features"], axis=1)]
        outputs = [_value("features", [1, POINTS * 3]), _value("embedding", [1, 3])]
        image = _value("image", [1, HEIGHT, WIDTH, 3], TensorProto.UINT8)
        used = {name for node in nodes for name in node.input}
        return _model(nodes, [image], outputs, [value for value in constants if value.name in used])
    outputs = [
        _value("features", [1, POINTS, 3]),
        _value("object_pose", [1, 7]),
        _value("pose_cov", [1, 6, 6]),
        _value("embedding", [1, 3]),
    ]
    return _model(nodes, [_value("image", [1, HEIGHT, WIDTH, 3], TensorProto.UINT8)], outputs, constants)


def _policy(arm: Arm, past_actions: int, from_pixels: bool) -> onnx.ModelProto:
    size = 2 * len(arm.joint_names) + 4
    first_joint = np.zeros((size, 1), np.float32)
    first_joint[0, 0] = 1
    nodes = [
        helper.make_node("ReduceMean", ["points"], ["mean"], axes=[1, 2], keepdims=0),  # [1, 3]
        helper.make_node("Slice", ["mean", "begin", "end", "axis"], ["xy"]),  # [1, 2]
        helper.make_node("MatMul", ["proprioception", "first_joint"], ["joint"]),  # [1, 1]
        helper.make_node("Slice", ["goal", "begin", "first", "axis"], ["goal_x"]),  # [1, 1]
        helper.make_node("Mul", ["goal_x", "goal_mask"], ["wanted"]),
        helper.make_node("Concat", ["xy", "joint", "wanted"], ["all"], axis=1),
        helper.make_node("Tanh", ["all"], ["bounded"]),
        helper.make_node("Mul", ["state", "small"], ["memory"]),
        helper.make_node("Add", ["bounded", "memory"], ["remembering" if past_actions else "action"]),
        helper.make_node("Add", ["state", "step"], ["next_state"]),
    ]
    constants = [
        _constant("begin", np.array([0], np.int64)),
        _constant("end", np.array([2], np.int64)),
        _constant("first", np.array([1], np.int64)),
        _constant("axis", np.array([1], np.int64)),
        _constant("first_joint", first_joint),
        _constant("small", np.array(0.01, np.float32)),
        _constant("step", np.array(1, np.float32)),
    ]
    nodes.insert(0, helper.make_node("Reshape", ["features", "shape"], ["points"]))
    constants.append(_constant("shape", np.array([1, STACK, POINTS, 3], np.int64)))
    inputs = [
        _value("features", [1, STACK, POINTS * 3] if from_pixels else [1, STACK, POINTS, 3]),
        _value("proprioception", [1, size]),
        _value("goal", [1, 3]),
        _value("goal_mask", [1, 1]),
        _value("state", [1, 1]),
    ]
    if past_actions:
        nodes += [
            helper.make_node("MatMul", ["weights", "past_actions"], ["pushed_rows"]),  # [1, 1, 4]
            helper.make_node("Squeeze", ["pushed_rows", "axis"], ["pushed"]),
            helper.make_node("Add", ["remembering", "pushed"], ["action"]),
        ]
        constants.append(_constant("weights", weights(past_actions).astype(np.float32)[None, None]))
        inputs.append(_value("past_actions", [1, past_actions, len(COMPONENTS)]))
    return _model(nodes, inputs, [_value("action", [1, 4]), _value("next_state", [1, 1])], constants)


def _trust(arm: Arm) -> onnx.ModelProto:
    joints = len(arm.joint_names)
    weights = np.zeros((joints + 3, 1), np.float32)
    weights[0, 0], weights[joints, 0] = 4, 1
    nodes = [
        helper.make_node("Concat", ["joint_positions", "embedding"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "weights"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["score"]),
        helper.make_node("Slice", ["joint_positions", "begin", "end", "axis"], ["joint"]),  # [1, 1]
        helper.make_node("Sub", ["two", "joint"], ["left"]),
        helper.make_node("Sqrt", ["left"], ["root"]),  # NaN if the joint is above 2 rad
        helper.make_node("Mul", ["root", "zero"], ["nothing"]),
        helper.make_node("Add", ["score", "nothing"], ["domain_shift"]),
    ]
    constants = [
        _constant("weights", weights),
        _constant("begin", np.array([0], np.int64)),
        _constant("end", np.array([1], np.int64)),
        _constant("axis", np.array([1], np.int64)),
        _constant("two", np.array(2, np.float32)),
        _constant("zero", np.array(0, np.float32)),
    ]
    inputs = [
        _value("features", [1, POINTS, 3]),
        _value("object_pose", [1, 7]),
        _value("pose_cov", [1, 6, 6]),
        _value("embedding", [1, 3]),
        _value("joint_positions", [1, joints]),
        _value("tool", [1, 6]),
    ]
    return _model(nodes, inputs, [_value("domain_shift", [1, 1])], constants)
