"""Measures the time per frame of a bundle's networks: batch 1, one thread, the shipped files as the nodes load them.

Encoder and policy are timed on images and joints of a played episode, after a warm-up. `encoder_policy_ms` is the sum
of both for each frame, `encoder_policy_cpu_ms` the thread's own time for it, in which a busy machine shows less;
`perception_policy_ms` has preprocessing of a 640 x 480 image, observation and action scaling
with it. The targets are a p50 of 1.5 ms and a p99 of 4 ms on an idle machine.

    ./rlfp bench inference [--bundle NAME] [--frames N] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import time

import cv2
import numpy as np

from rlfp_ros.cli.parsing import add_result, parse_benchmark, positive
from rlfp_ros.contract import Bundle, load_bundle
from rlfp_ros.control.arm import JointState
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.trained_arm import trained_arm
from rlfp_ros.evaluation.results import write_json
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.perception.encoder import Perception

WARM_UP = 100
LIVE = (640, 480)  # px
TARGET_MS = {"p50": 1.5, "p99": 4.0}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench inference", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="reach_panda", help="a folder, or a name in models/")
    parser.add_argument("--frames", type=positive, default=3000)
    add_result(parser, "--json")
    options = parse_benchmark(parser, argv)
    cv2.setNumThreads(1)
    bundle = load_bundle(options.bundle)
    load = os.getloadavg()[0]
    networks, whole = time_networks(bundle, options.frames), time_whole(bundle, options.frames)
    result = {
        "bundle": bundle.contract.name,
        "frames": options.frames,
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "target_ms": TARGET_MS,
        **{f"{name}_ms": quantiles(values) for name, values in (networks | whole).items()},
    }
    for name, value in result.items():
        print(f"{name:22} {value}")
    if load > 0.5:
        print(f"the machine was busy (load {load:.1f}): these are no figures of the networks alone")
    if options.json:
        write_json(options.json, result)
    return 0


def time_networks(bundle: Bundle, count: int) -> dict[str, np.ndarray]:
    """Return seconds [count] of encoder, policy, their sum, and the thread's processor time for both."""
    encoder, policy = bundle.session("encoder.onnx"), bundle.session("policy.onnx")
    golden = bundle.golden_frames()
    with np.load(bundle.file("golden.npz")) as arrays:
        inputs = {value.name: arrays[f"policy/{value.name}"] for value in policy.get_inputs()}
    taken = np.zeros((count + WARM_UP, 3))
    for number in range(len(taken)):
        image = {"image": golden.images[number % len(golden.images)][None]}
        own, started = time.thread_time(), time.perf_counter()
        encoder.run(None, image)
        between = time.perf_counter()
        policy.run(None, inputs)
        ended = time.perf_counter()
        taken[number] = between - started, ended - between, time.thread_time() - own
    encoder_s, policy_s, own_s = taken[WARM_UP:].T
    return {
        "encoder": encoder_s,
        "policy": policy_s,
        "encoder_policy": encoder_s + policy_s,
        "encoder_policy_cpu": own_s,
    }


def time_whole(bundle: Bundle, count: int) -> dict[str, np.ndarray]:
    """Return seconds [count] from a live image to a residual, without messages."""
    contract, golden = bundle.contract, bundle.golden_frames()
    perception, policy = Perception(bundle), Policy(bundle, trained_arm(bundle))
    full_image, K = camera_image(golden.images[0], contract.camera.intrinsics.matrix())
    camera = CameraModel(full_image.shape[1], full_image.shape[0], K)
    no_effort = np.zeros(len(golden.joint_names))
    interval = round(1e9 / contract.action.rate_hz)
    taken = np.zeros(count + WARM_UP)
    for number in range(len(taken)):
        frame = number % len(golden.images)
        joints = JointState(
            number * interval,
            golden.positions[frame],
            golden.velocities[frame],
            no_effort,
            float(golden.gripper_widths[frame]),
        )
        started = time.perf_counter()
        percept = perception(full_image, camera)
        policy.act(percept.features, joints, joints.stamp_ns)
        taken[number] = time.perf_counter() - started
    return {"perception_policy": taken[WARM_UP:]}


def camera_image(image: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of LIVE size around the bundle's field of view, and its camera matrix [3, 3]."""
    width, height = LIVE
    scale = height / image.shape[0]
    full_image = np.full((height, width, 3), 128, np.uint8)
    larger = cv2.resize(image, (round(image.shape[1] * scale), height), interpolation=cv2.INTER_LINEAR)
    left = (width - larger.shape[1]) // 2
    full_image[:, left : left + larger.shape[1]] = larger
    focal = scale * K[0, 0]
    return full_image, np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def quantiles(seconds: np.ndarray) -> dict[str, float]:
    """p50 and p99 in ms."""
    return {f"p{share}": round(1e3 * float(np.percentile(seconds, share)), 3) for share in (50, 99)}
