"""Lessons: what an actor meets and a teacher says to it, gathered by processes of their own while the actor learns.

Work goes in rounds: in each, the collectors play a fixed number of steps with the weights they were given while the
actor learns from the rounds before, so that the result does not depend on how fast either is.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rlfp_ros.contract import onnx_session
from rlfp_ros.control.policy import ObservationContract
from rlfp_ros.learning.cell import Cell
from rlfp_ros.learning.recipes.estimator import Belief, SceneEstimator, SeeingActor, estimator_for
from rlfp_ros.learning.runs.player import Player
from rlfp_ros.perception.encoder import OnnxEncoder
from rlfp_ros.simulation.environment import CountedSeeds, ManipulationEnv
from rlfp_ros.simulation.tasks.task_scene import TeacherScene

TeacherSees = Literal["state", "estimate"]  # the simulator's truth, or what the estimator makes of the pictures

TEACHER_NOISE = 0.3  # of the teacher's actions when it plays, so that it is seen correcting errors
LEARNER_NOISE = 0.15  # of the learner's, in every second episode
SEEDS_APART = 1_000_000  # between two collecting processes


@dataclass(frozen=True)
class Lessons:
    """What to play."""

    cell: Cell
    encoder: Path  # encoder.onnx
    estimator_file: Path  # the estimator as ONNX, which takes a tenth of PyTorch's time
    feature_stack: int
    points: int  # of the encoder
    hidden: int  # of the actor
    teacher_sees: TeacherSees
    seed: int

    def estimator(self) -> SceneEstimator:
        """The estimator in front of the actor."""
        cell = self.cell
        return estimator_for(cell.make_task(), cell.camera, len(cell.arm.joint_names), self.feature_stack)

    def actor(self) -> SeeingActor:
        """An actor that has learnt nothing."""
        return SeeingActor(self.estimator(), self.points, len(self.cell.action.components), self.hidden)


class Collectors(ExitStack):
    """Processes that play episodes. A context manager: they end with it."""

    def __init__(self, lessons: Lessons, count: int) -> None:
        super().__init__()
        seeds = range(lessons.seed, lessons.seed + count * SEEDS_APART, SEEDS_APART)
        self._players = [Player(_play, replace(lessons, seed=seed)) for seed in seeds]

    def __enter__(self) -> Collectors:
        for player in self._players:
            self.enter_context(player)
        return self

    def start_round(self, actor: dict[str, Any], steps: int, teacher_share: float) -> None:
        """Play `steps` with the actor's weights, disturbed every other episode; the teacher plays its share instead."""
        for player in self._players:
            player.send((actor, steps // len(self._players), teacher_share))

    def finish_round(self) -> tuple[np.ndarray, np.ndarray, list[bool]]:
        """The round's inputs [N, I], the teacher's actions [N, A], and the success of the actor's ended episodes."""
        parts = [player.receive() for player in self._players]
        inputs, teacher = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
        return inputs, teacher, [success for part in parts for success in part[2]]


class Observing:
    """An environment's observations as the actor's inputs [I], from one frame to the next."""

    def __init__(self, lessons: Lessons) -> None:
        self._session = onnx_session(lessons.estimator_file)
        self._state_size = lessons.estimator().state_size
        self.reset()

    def reset(self) -> None:
        """A new episode."""
        self._state = np.zeros((1, self._state_size), np.float32)

    def __call__(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Nothing of the simulator's state is in them."""
        parts = {name: observation[name][None] for name in ("features", "proprioception", "goal", "goal_mask")}
        inputs, self._state = self._session.run(("inputs", "next_state"), parts | {"state": self._state})
        found: np.ndarray = inputs[0]
        return found


def _environment(lessons: Lessons) -> ManipulationEnv:
    encoder = OnnxEncoder(onnx_session(lessons.encoder))
    return ManipulationEnv(
        lessons.cell.task, lessons.cell.arm, lessons.cell.profile, "features",
        perceiver=lambda image: encoder(image)[0], image_size=lessons.cell.image_size,
        observed=ObservationContract(feature_stack=lessons.feature_stack), seeds=CountedSeeds(lessons.seed),
    )  # fmt: skip


def _play(lessons: Lessons, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches us too; the learner ends us
    torch.set_num_threads(1)
    env, observing = _environment(lessons), Observing(lessons)
    rng = np.random.default_rng(lessons.seed)
    action_size = env.action_size
    actor, proprioception = lessons.actor(), lessons.estimator().proprioception
    observation, _ = env.reset()
    inputs = observing(observation)
    guided, noise = True, 0.0
    while True:
        try:
            weights, steps, teacher_share = connection.recv()
        except EOFError:
            return  # the learner has gone
        actor.load_state_dict(weights)
        seen, said, successes = [], [], []
        for _ in range(steps):
            world: TeacherScene = env.world
            if lessons.teacher_sees == "estimate":
                world = Belief(inputs, inputs[proprioception])
            teacher = env.world.task.teacher(world, env.behaviour.action)
            seen.append(inputs)
            said.append(teacher)
            if guided:
                action = teacher + rng.normal(0, TEACHER_NOISE, action_size)
            else:
                with torch.no_grad():
                    action = torch.tanh(actor(torch.from_numpy(inputs)[None]))[0].numpy()
                action = action + noise * rng.normal(size=action_size)
            observation, _, terminated, truncated, info = env.step(np.clip(action, -1, 1))
            if terminated or truncated:
                if not guided:
                    successes.append(bool(info["success"]))
                observation, _ = env.reset()
                observing.reset()
                guided = rng.uniform() < teacher_share
                noise = LEARNER_NOISE * (rng.uniform() < 0.5)
            inputs = observing(observation)
        connection.send((np.stack(seen), np.stack(said), successes))
