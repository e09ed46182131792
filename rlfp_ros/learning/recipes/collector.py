"""Experience for reinforcement learning, gathered by a process of its own while the learner learns.

Work goes in rounds: in each, the collector plays a fixed number of steps with the weights it was given while the
learner uses the experience of the rounds before, so that the result does not depend on how fast either is.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlfp_ros.contract import onnx_session
from rlfp_ros.control.policy import ObservationContract
from rlfp_ros.learning.cell import Cell
from rlfp_ros.learning.recipes.privileged_sac import FIELDS, Actor, make_actor
from rlfp_ros.learning.runs.player import Player
from rlfp_ros.perception.encoder import OnnxEncoder
from rlfp_ros.simulation.environment import CountedSeeds, ManipulationEnv


@dataclass(frozen=True)
class Experience:
    """What to play."""

    cell: Cell
    encoder: Path  # encoder.onnx
    hidden: int  # of the actor
    feature_stack: int
    memory: int  # of the actor
    seed: int


class Collector(Player):
    """A process that plays episodes. A context manager: the process ends with it."""

    def __init__(self, experience: Experience) -> None:
        super().__init__(_play, experience)

    def shapes(self) -> tuple[dict[str, int], tuple[int, ...]]:
        """Width of each field of a transition, and shape [stack, K, 3] of the feature points or [stack, Z] of the
        latents; said first."""
        sizes, points = self.receive()
        return sizes, points

    def start_round(self, actor: dict[str, Any], steps: int, teacher_share: float) -> None:
        """Play `steps` with the actor's weights; that share of the episodes is played by the teacher instead."""
        self.send((actor, steps, teacher_share))

    def finish_round(self) -> tuple[dict[str, np.ndarray], list[bool]]:
        """The round's transitions, each field [N, size], and the success of the actor's episodes that ended."""
        transitions, successes = self.receive()
        return transitions, successes


def flat_observation(observation: dict[str, np.ndarray]) -> np.ndarray:
    """The actor's input [O] float32: features, proprioception, goal, goal mask. Nothing of the simulator's state."""
    return np.concatenate([observation[name].ravel() for name in ("features", "proprioception", "goal", "goal_mask")])


def success_rate(experience: Experience, actor: Actor, episodes: int) -> float:
    """Share of `episodes`, seeds from `experience.seed` on, that the actor's mean action solves; in this process."""
    env = _environment(experience)
    won = 0
    for _ in range(episodes):
        observation, info = env.reset()
        memory = torch.zeros(1, actor.state_size)
        ended = False
        while not ended:
            with torch.no_grad():
                mean, _, memory = actor.step(torch.from_numpy(flat_observation(observation))[None], memory)
            observation, _, terminated, truncated, info = env.step(torch.tanh(mean)[0].numpy())
            ended = terminated or truncated
        won += bool(info["success"])
    env.close()
    return won / episodes


def _environment(experience: Experience) -> ManipulationEnv:
    observed = ObservationContract(feature_stack=experience.feature_stack)
    encoder = OnnxEncoder(onnx_session(experience.encoder))
    return ManipulationEnv(
        experience.cell.task, experience.cell.arm, experience.cell.profile, "features",
        perceiver=lambda image: encoder(image)[0], image_size=experience.cell.image_size,
        observed=observed, seeds=CountedSeeds(experience.seed),
    )  # fmt: skip


def _play(experience: Experience, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches us too; the learner ends us
    torch.set_num_threads(1)
    env = _environment(experience)
    rng = np.random.default_rng(experience.seed)
    torch.manual_seed(experience.seed)
    observation, info = env.reset()
    flat, privileged = flat_observation(observation), info["privileged_state"]
    action_size = env.action_size
    state_size = len(privileged) + len(observation["proprioception"]) + action_size
    sizes = {"observation": len(flat), "state": state_size, "action": action_size, "teacher": action_size, "reward": 1,
             "next_observation": len(flat), "next_state": state_size, "terminated": 1}  # fmt: skip
    points = observation["features"].shape
    connection.send((sizes, points))
    actor = make_actor(sizes["observation"], points, action_size, experience.hidden, experience.memory)
    memory = torch.zeros(1, actor.state_size)
    last_action = np.zeros(action_size, np.float32)
    state = np.concatenate([privileged, observation["proprioception"], last_action])
    guided = True
    while True:
        try:
            weights, steps, teacher_share = connection.recv()
        except EOFError:
            return  # the learner has gone
        actor.load_state_dict(weights)
        rows: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
        successes = []
        for _ in range(steps):
            teacher = env.world.task.teacher(env.world, env.behaviour.action)
            seen = torch.from_numpy(flat)[None]
            if guided:
                action = np.clip(teacher + rng.normal(0, 0.3, action_size), -1, 1).astype(np.float32)
            else:
                with torch.no_grad():
                    action = actor.sample(actor.join(seen, memory))[0][0].numpy()
            with torch.no_grad():
                memory = actor.remember(seen, memory)
            observation, reward, terminated, truncated, info = env.step(action)
            next_flat = flat_observation(observation)
            next_state = np.concatenate([info["privileged_state"], observation["proprioception"], action])
            values = (flat, state, action, [reward], next_flat, next_state, [float(terminated)], teacher)
            for name, value in zip(FIELDS, values, strict=True):
                rows[name].append(np.asarray(value, np.float32))
            flat, state = next_flat, next_state
            if terminated or truncated:
                if not guided:
                    successes.append(bool(info["success"]))
                observation, info = env.reset()
                memory = torch.zeros_like(memory)
                guided = rng.uniform() < teacher_share
                flat = flat_observation(observation)
                state = np.concatenate([info["privileged_state"], observation["proprioception"], 0 * action])
        connection.send(({name: np.stack(values) for name, values in rows.items()}, successes))
