"""Writes a bag of the running graph for the tiny bundle, with the simulator's truth in it, and with planted faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fixture_bundle import FX, HEIGHT, WIDTH
from geometry_msgs.msg import PoseStamped
from std_msgs.msg import String
from written_bag import write_bag

from rlfp_ros.contract import Bundle
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.trajectory import Residual, Trajectory
from rlfp_ros.episode import Episode, Phase
from rlfp_ros.nodes import messages as m
from rlfp_ros.perception.encoder import Perception

ARM = load_arm("panda")
START = 1_800_000_000_000_000_000  # ns, a wall clock
K = np.array([[FX, 0, (WIDTH - 1) / 2], [0, FX, (HEIGHT - 1) / 2], [0, 0, 1.0]])
SECRET = "known only to the simulator"
TRUTH = m.Topic("episode/sample", String, m.EPISODES)
TRUE_POSE = m.Topic("object/pose", PoseStamped, m.LATEST)

Rows = list[tuple[m.Topic, Any, int]]


@dataclass
class RecordedGraph:
    """What is recorded; a test changes a part."""

    episodes: int = 2
    frames: int = 20  # per episode
    rate_hz: float = 30.0
    delay_s: float = 0.03  # of the images
    wins: tuple[bool, ...] = (True, False)
    truth: str = SECRET  # what the simulator publishes about itself
    distance_m: float = 0.012  # in the outcome
    seed: int = 4
    announced: bool = True  # whether episodes are announced
    change: Callable[[Rows], Rows] = lambda rows: rows
    alter_features: float = 0.0
    image: Callable[[int], np.ndarray] | None = None  # by its number; noise if there is none

    def stamp(self, number: int) -> int:
        """Return the stamp of an image, counted over all episodes."""
        return START + int(number * 1e9 / self.rate_hz)


def graph_rows(bundle: Bundle, graph: RecordedGraph) -> Rows:
    """Return topic, message and time of receipt of everything that is recorded."""
    perception, rng, rows = Perception(bundle), np.random.default_rng(3), []
    rows.append((m.CAMERA_INFO, m.camera_info_message(START, "optical", WIDTH, HEIGHT, K), START - 3_000_000_000))
    for number in range(graph.episodes * graph.frames):
        stamp = graph.stamp(number)
        episode, frame = divmod(number, graph.frames)
        if frame == 0 and graph.announced:
            before = graph.stamp(number - 1)
            content = {"id": episode, "seed": graph.seed, "task": "reach"}
            reset = Episode(**content, phase=Phase.RESET, stamp=before)
            running = Episode(**content, phase=Phase.RUNNING, stamp=stamp, sample={"colour": graph.truth})
            rows += [(m.EPISODE, m.episode_message(reset), stamp - 2), (m.EPISODE, m.episode_message(running), stamp)]
            rows.append((TRUTH, String(data=graph.truth), stamp))
        received = stamp + int(1e9 * graph.delay_s)
        joints = np.array(ARM.home) + 0.3 * np.sin(0.1 * number)
        for after_ms in (0, 8, 16, 24):
            state = JointState(
                stamp + after_ms * 1_000_000, joints + 0.01 * after_ms, np.full(7, 0.2), np.zeros(7), 0.04
            )
            rows.append((m.JOINT_STATES, m.joint_state_message(state, ARM), state.stamp_ns))
        image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) if graph.image is None else graph.image(number)
        rows.append((m.IMAGE, m.image_message(stamp, image, "optical"), received))
        features = perception(image).features + np.float32(graph.alter_features)
        rows.append((m.FEATURES, m.features_message(stamp, features, "optical"), received))
        pose = PoseStamped()
        pose.pose.position.x = graph.distance_m
        rows.append((TRUE_POSE, pose, received))
        twist = np.array([0.01, 0.02, 0.001 * frame, 0, 0, 0])
        rows.append((m.GRIPPER, m.gripper_message(stamp, 0.02, ARM), received))
        rows.append((m.RESIDUAL, m.residual_message(Residual(stamp, twist), ARM.base_frame), received))
        rows.append((m.RESIDUAL_APPLIED, m.residual_message(Residual(stamp, twist / 2), ARM.base_frame), received))
        command = Trajectory.to_rest(received, 0.1, joints + 0.5)
        rows.append((m.ARM_COMMAND, m.trajectory_message(command, ARM.joint_names), received))
        if frame == graph.frames - 1 and graph.announced:
            outcome = {"success": graph.wins[episode], "steps": 20, "distance_m": graph.distance_m}
            ended = Episode(
                id=episode, seed=graph.seed, task="reach", phase=Phase.FINISHED, stamp=stamp, outcome=outcome
            )
            rows.append((m.EPISODE, m.episode_message(ended), received + 1))
    return sorted(rows, key=lambda row: row[2])


def record_graph(folder: Path, bundle: Bundle, graph: RecordedGraph | None = None) -> Path:
    """Write the bag."""
    graph = graph or RecordedGraph()
    return write_bag(folder, graph.change(graph_rows(bundle, graph)))
