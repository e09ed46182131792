"""Measures the speed of training: rendering, encoder and policy updates (also of Stable-Baselines3), whole runs.

Rates are per second of processor time, which is what one core gives and which other programs disturb least; the
policies' rounds alternate. Both do a soft actor-critic step on 256 transitions with two layers of 256 units; ours has
a teacher's loss and layer normalisation in it, as training has. An encoder update is the gradient step alone, without
the other appearances that training gives each image in a thread beside it. Minutes to 90 % success come from
TensorBoard's log in the run folder: from the start of the training to the first time that the last 20 episodes, in the
recipe the actor's last 100, reach it; pauses of more than a minute are not counted.

    ./rlfp bench train [--seconds S] [--runs runs] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
import torch
from torch import Tensor

from rlfp_ros.cli.parsing import add_result, duration, parse_benchmark
from rlfp_ros.contract import load_bundle
from rlfp_ros.evaluation.results import write_json
from rlfp_ros.learning.algorithms.networks import SquashedGaussian
from rlfp_ros.learning.algorithms.replay import ReplayBuffer, TransitionBatch
from rlfp_ros.learning.cell import load_cell
from rlfp_ros.learning.encoders.spatial import SpatialEncoder
from rlfp_ros.learning.recipes import train_encoder
from rlfp_ros.learning.recipes.frames import Frames, FrameSource
from rlfp_ros.learning.recipes.guided import ReinforcementSettings, recipe_learner, teacher_loss
from rlfp_ros.learning.recipes.train_encoder import EncoderTraining
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.seeds import BENCHMARKS

TASKS = ("reach", "push", "lift")
IMAGE_COUNT = 400  # images that are rendered and then used for training
ROUNDS = 3  # of the policies' measurement; medians count
POINTS = (2, 16, 3)  # stack, points, x y confidence
PROPRIOCEPTION, ACTION = 7 + 7 + 1 + 3 + 3, 3  # reach on the Panda: joints, speeds, gripper, tool, its direction
OBSERVATION = math.prod(POINTS) + PROPRIOCEPTION + 4
SIZES = {"vector": OBSERVATION, "privileged": 12 + PROPRIOCEPTION + ACTION}
TRANSITIONS = 5_000
SUCCESS, RECENT, LONGEST_GAP_S = 0.9, 20, 60.0
PEER_MISSING = "stable-baselines3 is not there, so nothing is compared; pip install stable-baselines3 brings it"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench train", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=duration, default=5.0, help="of processor time for each measurement")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where train_<task>_panda lie")
    add_result(parser, "--json")
    options = parse_benchmark(parser, argv)
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        frames_per_s, encoder_step = rendering(Path(folder))
        encoder_per_s = rate(encoder_step, options.seconds)
    steps: dict[str, Callable[[], None]] = {"ours": own_policy_step()}
    peer_step = peer_policy_step()
    if peer_step is None:
        print(PEER_MISSING)
    else:
        steps["stable_baselines3"] = peer_step
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            rates[name].append(rate(step, options.seconds))
    median = {name: statistics.median(values) for name, values in rates.items()}
    peer = median.get("stable_baselines3")
    result: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "rendered_frames_per_s": round(frames_per_s, 1),
        "encoder_updates_per_s": round(encoder_per_s, 2),
        "policy_updates_per_s": round(median["ours"], 1),
        "stable_baselines3_policy_updates_per_s": round(peer, 1) if peer else None,
        "ratio": round(median["ours"] / peer, 2) if peer else None,
        "shipped": {task: shipped(f"{task}_panda") for task in TASKS},
        "minutes_to_90": {task: minutes_to_success(options.runs / f"train_{task}_panda") for task in TASKS},
    }
    for name, value in result.items():
        print(f"{name:40} {value}")
    if options.json:
        write_json(options.json, result)
    return 0


def rate(step: Callable[[], None], seconds: float) -> float:
    """Calls per second of this process's time."""
    step()
    count, started = 0, time.process_time()
    while time.process_time() - started < seconds:
        step()
        count += 1
    return count / (time.process_time() - started)


def rendering(folder: Path) -> tuple[float, Callable[[], None]]:
    """Labelled images per second of the renderer's time under `train`, and an encoder update on them."""
    source = FrameSource(load_cell("reach", "panda", "train"), BENCHMARKS.first, IMAGE_COUNT)
    with Frames(source, folder) as frames:
        renderer = psutil.Process(frames.process.pid)
        frames.wait_for(IMAGE_COUNT // 8)  # it has loaded everything by then
        began, before = frames.available, sum(renderer.cpu_times()[:2])
        frames.wait_for(IMAGE_COUNT - 3)  # it ends with the last ones
        taken, done = sum(renderer.cpu_times()[:2]) - before, frames.available
        frames.wait_for(IMAGE_COUNT)
        arrays = [np.array(array) for array in (frames.images, frames.keypoints, frames.positions)]
    training = EncoderTraining()
    encoder = SpatialEncoder(source.camera)
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotations lack it
    optimizer = torch.optim.AdamW(encoder.parameters(), 1e-4)
    rng = np.random.default_rng(0)

    def step() -> None:
        picks = rng.integers(0, IMAGE_COUNT, training.batch)
        images, keypoints, positions = (torch.from_numpy(array[picks]) for array in arrays)
        maps, log_weights = encoder.see(images)
        features, position, factor, _ = encoder.describe(maps, log_weights)
        loss = train_encoder.keypoint_loss(encoder, training, log_weights, features, keypoints)
        loss = loss + train_encoder.pose_loss(training, position, factor, positions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return (done - began) / taken, step


def own_policy_step() -> Callable[[], None]:
    """A step of the recipe's reinforcement learning, with the teacher's loss, as training takes it."""
    settings = ReinforcementSettings()
    space = gymnasium.spaces.Dict(
        {name: gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32) for name, size in SIZES.items()}
    )
    rng = np.random.default_rng(0)
    learner = recipe_learner(space, POINTS, ACTION, settings)
    buffer = ReplayBuffer(TRANSITIONS, space, np.zeros(ACTION, np.float32), settings.sac.discount, teacher=True)

    def noise(size: int) -> np.ndarray:
        return rng.normal(size=size).clip(-1, 1).astype(np.float32)

    def observation() -> dict[str, np.ndarray]:
        return {name: noise(size) for name, size in SIZES.items()}

    buffer.begin(observation())
    for _ in range(TRANSITIONS - 1):
        buffer.add(noise(ACTION), float(noise(1)[0]), False, False, observation(), noise(ACTION))

    def pull(policy: SquashedGaussian, batch: TransitionBatch) -> Tensor:
        assert batch.teacher is not None
        return settings.teacher_weight * teacher_loss(policy, batch.teacher)

    def step() -> None:
        learner.update(learner.sample(buffer, rng), 0.5, actor_term=pull)

    return step


def peer_policy_step() -> Callable[[], None] | None:
    """A gradient step of Stable-Baselines3's SAC on observations of the same size; None if it is not installed."""
    try:
        from stable_baselines3 import SAC
        from stable_baselines3.common.logger import Logger
    except ImportError:
        return None

    class Nothing(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (ACTION,), np.float32)

    settings = ReinforcementSettings().sac
    model = SAC(
        "MlpPolicy",
        Nothing(),
        batch_size=settings.batch,
        buffer_size=TRANSITIONS,
        device="cpu",
        seed=0,
        policy_kwargs={"net_arch": [settings.hidden, settings.hidden]},
    )
    model.set_logger(Logger(None, []))
    rng, replay = np.random.default_rng(0), model.replay_buffer
    assert replay is not None
    for _ in range(TRANSITIONS):
        observation, following = rng.normal(size=(2, 1, OBSERVATION)).astype(np.float32)
        action = rng.uniform(-1, 1, (1, ACTION)).astype(np.float32)
        replay.add(observation, following, action, rng.normal(size=1), np.zeros(1), [{}])
    return lambda: model.train(gradient_steps=1, batch_size=settings.batch)


def shipped(name: str) -> dict[str, Any] | None:
    """Return a shipped bundle's provenance; None if the bundle does not ship."""
    try:
        contract = load_bundle(name).contract
    except ConfigurationError:
        return None
    rates = {result.profile: result.success_rate for result in contract.evaluation if result.world == "pybullet"}
    return {"wall_minutes": contract.provenance.get("wall_minutes"), "success_train": rates.get("train")}


def minutes_to_success(run: Path) -> float | None:
    """Minutes of training until the last RECENT successes in the run's log average SUCCESS; None: no log, or never.

    An algorithm logs each episode's `success`, the recipe a `success_rate` of the last hundred.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: list[tuple[float, str, float]] = []  # wall time, tag, value
    for file in sorted(run.rglob("events.out.tfevents.*")):
        log = EventAccumulator(str(file), size_guidance={"scalars": 0})
        log.Reload()
        for tag in log.Tags()["scalars"]:
            events += [(event.wall_time, tag.rpartition("/")[2], event.value) for event in log.Scalars(tag)]
    events.sort(key=lambda event: event[0])
    seconds = 0.0
    recent: list[float] = []
    for (before, _, _), (now, tag, value) in itertools.pairwise(events):
        seconds += min(now - before, LONGEST_GAP_S)
        if tag == "success":
            recent = [*recent, value][-RECENT:]
        reached = len(recent) == RECENT and sum(recent) / RECENT >= SUCCESS
        if reached or (tag == "success_rate" and value >= SUCCESS):
            return round(seconds / 60, 1)
    return None
