"""Figures of a recorded run: images with features, and actions before and after the safety controller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from rlfp_ros.contract import Bundle
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.trained_arm import trained_arm
from rlfp_ros.episode import Episode, Phase
from rlfp_ros.perception.camera import CameraModel, camera_model
from rlfp_ros.perception.overlay import draw
from rlfp_ros.perception.preprocess import Preprocessor
from rlfp_ros.recording import decode, topics
from rlfp_ros.recording.bag_topics import camera_topics, namespace_of, own_topic
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.schema import ConfigurationError

matplotlib.use("agg")  # no display needed
from matplotlib import pyplot

STRIP_IMAGES = 6
GIF_MS = 66  # per image; half of real time at 30 Hz
AXES = ("x", "y", "z")


@dataclass
class RecordedEpisode:
    """One episode out of a bag. Keys are stamps, ns."""

    episode: Episode
    camera: CameraModel | None = None  # from camera_info
    images: dict[int, np.ndarray] = field(default_factory=dict)  # uint8 [H, W, 3] rgb
    features: dict[int, np.ndarray] = field(default_factory=dict)  # [K, 3] x, y, confidence
    residual: dict[int, np.ndarray] = field(default_factory=dict)  # [3] m/s, the policy's output
    applied: dict[int, np.ndarray] = field(default_factory=dict)  # [3] m/s, the part that the controller admitted
    commands: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # joints [J] rad, [J] rad/s


Taker = Callable[[RecordedEpisode, Any], None]


def read_episodes(bag_folder: Path) -> list[RecordedEpisode]:
    """Read all episodes of a bag that came to their end, with their outcome."""
    found: list[RecordedEpisode] = []
    current: RecordedEpisode | None = None
    with BagReader(bag_folder) as bag:
        takers = _takers(bag)
        announced = f"{namespace_of(bag)}/{topics.EPISODE}"
        for message in bag.messages({announced, *takers}):
            if message.topic == announced:
                episode = decode.episode_from_message(bag.decode(message))
                if episode.phase is Phase.RUNNING:
                    current = RecordedEpisode(episode)
                elif episode.phase is Phase.FINISHED and current is not None:
                    current.episode = episode
                    found.append(current)
                    current = None
            elif current is not None:
                takers[message.topic](current, bag.decode(message))
    return found


def _takers(bag: BagReader) -> dict[str, Taker]:
    """Return the function per topic that adds a message to an episode."""
    namespace, camera = namespace_of(bag), camera_topics(bag)

    def camera_info(episode: RecordedEpisode, content: Any) -> None:
        episode.camera = camera_model(content, camera.camera_info, camera.rectified)

    def image(episode: RecordedEpisode, content: Any) -> None:
        episode.images[_stamp(content)] = decode.image_from_message(content, camera.image)

    def features(episode: RecordedEpisode, content: Any) -> None:
        found = decode.features_from_message(content)
        # A latent vector has no place in the image, so nothing is drawn of it.
        episode.features[_stamp(content)] = found if found.ndim == 2 else np.zeros((0, 3), np.float32)

    def residual(episode: RecordedEpisode, content: Any) -> None:
        episode.residual[_stamp(content)] = _linear(content)

    def applied(episode: RecordedEpisode, content: Any) -> None:
        episode.applied[_stamp(content)] = _linear(content)

    def command(episode: RecordedEpisode, content: Any) -> None:
        if content.points:
            point = content.points[0]
            episode.commands[_stamp(content)] = np.asarray(point.positions), np.asarray(point.velocities)

    twist = ("geometry_msgs/msg/TwistStamped",)
    takers: dict[str, Taker] = {camera.image: image, camera.camera_info: camera_info}
    for name, types, taker in (
        (topics.FEATURES, ("sensor_msgs/msg/PointCloud2",), features),
        (topics.RESIDUAL, twist, residual),
        (topics.RESIDUAL_APPLIED, twist, applied),
        (topics.ARM_COMMAND, ("trajectory_msgs/msg/JointTrajectory",), command),
    ):
        takers[own_topic(bag, namespace, name, types)] = taker
    takers.pop("", None)  # topics that the bag does not hold
    return takers


def _stamp(content: Any) -> int:
    return decode.stamp_ns(content.header.stamp)


def _linear(content: Any) -> np.ndarray:
    linear = content.twist.linear
    return np.array([linear.x, linear.y, linear.z])


def write_figures(episode: RecordedEpisode, bundle: Bundle, folder: Path) -> list[Path]:
    """Write `episode.gif`, `episode.png` (a strip) and `actions.png` into `folder`.

    Raises ConfigurationError if the episode has no images with features.
    """
    stamps = sorted(set(episode.images) & set(episode.features))
    if not stamps:
        raise ConfigurationError(f"{folder}: the bag holds no image with features; see the run's log")
    contract = bundle.contract
    preprocess = Preprocessor(contract)  # shows the network's input, also for cameras with another size and lens
    drawn = []
    for stamp in stamps:
        image = preprocess(episode.images[stamp], episode.camera)
        drawn.append(draw(image, contract.camera.intrinsics, episode.features[stamp]))
    frames = [Image.fromarray(image) for image in drawn]
    gif, strip, actions = folder / "episode.gif", folder / "episode.png", folder / "actions.png"
    frames[0].save(gif, save_all=True, append_images=frames[1:], duration=GIF_MS, loop=0)
    picks = np.linspace(0, len(drawn) - 1, min(STRIP_IMAGES, len(drawn))).round().astype(int)
    Image.fromarray(np.hstack([drawn[pick] for pick in picks])).save(strip)
    _plot_actions(episode, bundle, actions)
    return [gif, strip, actions]


def _plot_actions(episode: RecordedEpisode, bundle: Bundle, path: Path) -> None:
    """Plot the policy's velocity, the admitted part of it, and the commanded velocity."""
    kinematics = Kinematics(trained_arm(bundle))
    commanded = {
        stamp: kinematics.jacobian(joints)[:3] @ velocities for stamp, (joints, velocities) in episode.commands.items()
    }
    start = min(episode.images)
    figure, axes = pyplot.subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained")
    for index, axis in enumerate(axes):
        for series, label, style in (
            (episode.residual, "asked by the policy", {"color": "tab:red", "drawstyle": "steps-post", "lw": 1}),
            (episode.applied, "admitted (gain, bounds)", {"color": "tab:orange", "drawstyle": "steps-post", "lw": 1.4}),
            (commanded, "commanded to the arm (all limits)", {"color": "tab:blue", "lw": 1.6}),
        ):
            stamps = sorted(series)
            times = [(stamp - start) * 1e-9 for stamp in stamps]
            axis.plot(times, [series[stamp][index] for stamp in stamps], label=label, **style)
        axis.set_ylabel(f"tool v{AXES[index]} (m/s)")
        axis.grid(alpha=0.3)
    axes[0].legend(loc="upper right", fontsize=8)
    axes[0].set_title(
        f"episode {episode.episode.id}, seed {episode.episode.seed}: before and after the safety controller"
    )
    axes[-1].set_xlabel("simulated time (s)")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
