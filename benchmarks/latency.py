"""Measures camera-to-command latency on real DDS, with every node in a process, by an observer of the topics.

Two parts in one run: the simulation graph in real time with the bundle's own images, and 640 x 480 images from a
replay publisher instead of a camera and an arm. Latency is the time from the image's publication to the reception of
the first command that contains its residual. Render time is not included, but reported.

    ./rlfp bench latency [--episodes N] [--seconds S] [--json FILE]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from typing import Any

import numpy as np

from rlfp_ros.cli.doctor import may_run_in_real_time
from rlfp_ros.cli.parsing import add_result, duration, parse_benchmark, positive
from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import JointState
from rlfp_ros.control.trained_arm import trained_arm
from rlfp_ros.evaluation.results import write_json
from rlfp_ros.graph import dds
from rlfp_ros.graph.domains import reserved_domain
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.rollout import latency_summary, observe_graph
from rlfp_ros.graph.runner import Runner
from rlfp_ros.nodes.spin import REALTIME

BUNDLE = "reach_panda"
WIDTH, HEIGHT, RATE_HZ = 640, 480, 30
IMAGE_COUNT = 12  # rendered before the clock runs, then repeated
STARTED_S = 20.0  # longest wait for the nodes to start


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench latency", description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=positive, default=5, help="of the simulation part")
    parser.add_argument("--seconds", type=duration, default=20.0, help="of the replay part")
    add_result(parser, "--json")
    options = parse_benchmark(parser, argv)
    result: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "real_time": may_run_in_real_time() and os.environ.get(REALTIME) != "0",
        "simulation_84": simulation(options.episodes),
        "replay_640x480": replay(options.seconds),
    }
    print(f"real-time priority {'granted' if result['real_time'] else 'not granted'}")
    for name in ("simulation_84", "replay_640x480"):
        print(f"{name:16} " + "  ".join(f"{key} {value}" for key, value in result[name].items()))
    if options.json:
        write_json(options.json, result)
    return 0


def simulation(episodes: int) -> dict[str, Any]:
    """Measure the demo's graph, recorder included."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        observed = observe_graph(
            {
                "task": "reach",
                "bundle": BUNDLE,
                "episodes": episodes,
                "transport": "local",
                "record": folder,
                "record_per_episode": False,
            },
            lambda episode: None,
        )
    latency = latency_summary(observed)
    return latency | {"images": sum(len(episode.images) for episode in observed), "render_ms_p50": render_ms()}


def render_ms() -> float:
    """Return the median render time per image under `train`, in this process."""
    from rlfp_ros.evaluation.rollout import Rollout
    from rlfp_ros.simulation.randomization import load_profile

    world = Rollout(load_bundle(BUNDLE), load_profile("train")).world
    times = []
    for seed in range(40):
        world.reset(seed)
        started = time.perf_counter()
        world.render()
        times.append(1e3 * (time.perf_counter() - started))
    return round(float(np.median(times)), 2)


def replay(seconds: float) -> dict[str, Any]:
    """Measure the real-arm graph with a camera of 640 x 480 and an arm that follows its commands."""
    from rlfp_ros.nodes.graph_listener import GraphListener

    with reserved_domain() as domain:
        resolved = resolve(
            REAL_ARM,
            {
                "bundle": BUNDLE,
                "transport": "local",
                "domain_id": domain,
                "require_heartbeat": False,
                "extrinsics": "bundle",
            },
        )
        os.environ.update(dds.environment("local", str(domain)))
        publisher = multiprocessing.get_context("spawn").Process(target=_publish, args=(str(domain), seconds))
        with Runner(resolved, console="quiet") as runner, GraphListener(lambda episode: None, always=True) as observer:
            publisher.start()
            while publisher.is_alive() and runner.poll() is None:
                observer.spin(0.2)
            publisher.join()
            if publisher.exitcode:
                raise SystemExit(publisher.exitcode)
        heard = observer.current
    if runner.failure:
        raise SystemExit(f"the graph failed: {runner.failure}")
    assert heard is not None
    warm = min(heard.applied, default=0) + 1_000_000_000  # the first second finds nodes that still meet each other
    sent = sorted(stamp for stamp in heard.images if stamp >= warm)[:-3]
    answered = [stamp for stamp in sent if stamp in heard.applied]
    heard.applied = {stamp: heard.applied[stamp] for stamp in answered}
    without_residual = sum(stamp not in heard.residuals for stamp in sent)  # of the lost, before the policy's answer
    return latency_summary([heard]) | {
        "images": len(sent),
        "lost": len(sent) - len(answered),
        "lost_without_residual": without_residual,
    }


def _publish(domain: str, seconds: float) -> None:
    """Publish a camera and an arm, like their drivers."""
    os.environ.update(dds.environment("local", domain, large_images=True))
    import rclpy
    from rclpy.node import Node
    from std_srvs.srv import Trigger

    from rlfp_ros.control.trajectory_controller import TrajectoryController
    from rlfp_ros.nodes import messages as m
    from rlfp_ros.nodes.executor import NodeExecutor
    from rlfp_ros.recording import decode
    from rlfp_ros.schema import ConfigurationError

    bundle = load_bundle(BUNDLE)
    arm = trained_arm(bundle)
    images, K = _render_images()
    rclpy.init()
    node = Node("replay")
    controller = TrajectoryController(len(arm.joint_names))
    controller.reset(np.array(arm.home))

    def follow(message: Any) -> None:
        try:
            controller.accept(
                decode.trajectory_from_message(message, arm.joint_names), node.get_clock().now().nanoseconds
            )
        except ConfigurationError as error:
            node.get_logger().error(str(error))

    node.create_subscription(m.ARM_COMMAND.type, m.ARM_COMMAND.name, follow, m.LATEST)
    image, info, joints = (
        node.create_publisher(topic.type, topic.name, topic.qos) for topic in (m.IMAGE, m.CAMERA_INFO, m.JOINT_STATES)
    )
    count = 0

    def camera() -> None:
        nonlocal count
        stamp = node.get_clock().now().nanoseconds
        info.publish(m.camera_info_message(stamp, "camera_optical_frame", WIDTH, HEIGHT, K))
        image.publish(m.image_message(stamp, images[count % IMAGE_COUNT], "camera_optical_frame"))
        count += 1

    def measure() -> None:
        stamp = node.get_clock().now().nanoseconds
        position, velocity, _ = controller.sample(stamp)
        state = JointState(stamp, position, velocity, np.zeros_like(position), 0.08)
        joints.publish(m.joint_state_message(state, arm))

    node.create_timer(1 / 240, measure)
    executor = NodeExecutor(node)
    enable = node.create_client(Trigger, "residual_controller/enable")
    node.create_timer(1 / RATE_HZ, camera)
    deadline = time.monotonic() + STARTED_S
    answer = None
    while not (answer is not None and answer.done() and answer.result().success):
        if time.monotonic() > deadline:
            said = answer.result().message if answer is not None and answer.done() else "it does not answer"
            raise SystemExit(f"residual_controller/enable: {said} (tried for {STARTED_S:g} s)")
        if enable.service_is_ready() and (answer is None or answer.done()):
            answer = enable.call_async(Trigger.Request())
        executor.spin_once(0.05)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        executor.spin_once(0.05)
    rclpy.shutdown()


def _render_images() -> tuple[list[np.ndarray], np.ndarray]:
    """Render images of the scene at 640 x 480, uint8 rgb; return them and their camera matrix [3, 3]."""
    from rlfp_ros.contract import Intrinsics
    from rlfp_ros.simulation.pybullet_world import PybulletWorld
    from rlfp_ros.simulation.randomization import load_profile
    from rlfp_ros.simulation.scene import load_scene
    from rlfp_ros.simulation.tasks.task import load_task

    bundle = load_bundle(BUNDLE)
    contract, arm = bundle.contract, trained_arm(bundle)
    focal = contract.camera.intrinsics.fy * HEIGHT / contract.camera.height
    intrinsics = Intrinsics(fx=focal, fy=focal, cx=(WIDTH - 1) / 2, cy=(HEIGHT - 1) / 2)
    camera = contract.camera.model_copy(update={"width": WIDTH, "height": HEIGHT, "intrinsics": intrinsics})
    world = PybulletWorld(arm, load_task(contract.task), load_profile("none"), load_scene(arm=arm), camera)
    images = []
    for seed in range(IMAGE_COUNT):
        world.reset(seed)
        images.append(world.image)
    return images, intrinsics.matrix()
