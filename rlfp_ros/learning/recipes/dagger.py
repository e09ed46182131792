"""Imitation of a teacher with privileged state by an actor that sees only features and joints.

DAgger (Ross et al. 2011, https://arxiv.org/abs/1011.0686): the actor plays, and the teacher labels every visited frame
with its own action. The data therefore includes the results of the actor's errors, and how to recover. It begins with
the teacher's actions in the encoder's images, which show far more cameras, appearances and places than the actor's
episodes and need only one pass of the encoder.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.contract import onnx_session
from rlfp_ros.learning.algorithms.environments import Environment, TaskEnvironment
from rlfp_ros.learning.cell import Cell
from rlfp_ros.learning.encoders.encoder import Encoder, features_of
from rlfp_ros.learning.recipes.collector import Collectors, Seen
from rlfp_ros.learning.recipes.estimator import Belief, SceneEstimator, SeeingActor, estimator_for
from rlfp_ros.learning.recipes.frames import POSTURES_PER_EPISODE
from rlfp_ros.learning.runs.checkpoint import load_checkpoint, save_checkpoint
from rlfp_ros.learning.runs.progress import Show
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.seeds import MAX_STEPS, MAX_WORKERS
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.tasks.goal import GoalTask
from rlfp_ros.simulation.tasks.task_scene import TeacherScene

TREMBLING = 0.003  # on the plane z = 1, noise of the features between two images of the same scene
LEARNER_NOISE = 0.15  # standard deviation added to the learner's actions in every second episode
CHECKPOINT_ROUNDS = 2  # rounds between checkpoints; a resumed training repeats at most these

TeacherSees = Literal["state", "estimate"]  # the simulator's state, or the estimate from the images


class DaggerTraining(TrainingSettings):
    """Length and hyperparameters of the imitation."""

    hidden: int = Field(256, ge=1, le=8192)  # units in each of the actor's two layers
    image_updates: int = Field(4_000, ge=0)  # gradient steps on the encoder's images alone, before the actor plays
    steps: int = Field(60_000, ge=1, le=MAX_STEPS)  # camera frames played
    round_steps: int = Field(3_000, ge=1)  # steps per round of all collectors together
    collectors: int = Field(2, ge=1, le=MAX_WORKERS)  # processes that play
    updates_per_round: int = Field(500, ge=1)  # gradient steps
    final_updates: int = Field(12_000, ge=0)  # gradient steps at the end, with a falling learning rate
    teacher_rounds: int = Field(2, ge=0)  # first rounds, which the teacher plays with noise
    teacher_share: float = Field(0.05, ge=0, le=1)  # share of later episodes that the teacher plays
    image_share: float = Field(0.2, ge=0, le=1)  # share of the encoder's images in a batch
    teacher_sees: TeacherSees = "estimate"
    batch: int = Field(256, ge=1)
    learning_rate: float = Field(1e-3, gt=0, le=1)  # falls linearly to 3 % in the final updates

    def shortened(self, factor: float) -> DaggerTraining:
        """Return the same settings with `factor` of the work."""
        return self.changed(
            steps=max(400, int(self.steps * factor)),
            round_steps=min(self.round_steps, 200),
            collectors=1,
            image_updates=int(self.image_updates * factor) + 1,
            updates_per_round=int(self.updates_per_round * factor) + 1,
            final_updates=int(self.final_updates * factor) + 1,
        )


@dataclass(frozen=True)
class DaggerLessons:
    """Makes the environment, the actor and the teacher of a collector."""

    cell: Cell
    make_env: TaskEnvironment  # features
    estimator_file: Path  # the estimator as ONNX, which takes a tenth of PyTorch's time
    points: int  # of the encoder
    hidden: int  # of the actor
    teacher_sees: TeacherSees

    def estimator(self) -> SceneEstimator:
        """The estimator in front of the actor."""
        cell, stack = self.cell, self.make_env.feature_stack
        return estimator_for(cell.make_task(), cell.camera, len(cell.arm.joint_names), stack)

    def actor(self) -> SeeingActor:
        """Return an untrained actor."""
        return SeeingActor(self.estimator(), self.points, len(self.cell.action.components), self.hidden)

    def student(self) -> Pupil:
        """An actor that plays, beside its teacher."""
        return Pupil(self)


class EstimatedObservation(gymnasium.ObservationWrapper[Seen, np.ndarray, Seen]):
    """Observations as the actor's inputs, `vector` float32 [I], which hold nothing of the simulator's state."""

    def __init__(self, env: ManipulationEnv, estimator_file: Path, state_size: int) -> None:
        super().__init__(env)
        self._session = onnx_session(estimator_file)
        self._start = self._state = np.zeros((1, state_size), np.float32)

    def reset(self, **arguments: Any) -> tuple[Seen, dict[str, Any]]:
        """Start an episode with an empty filter."""
        self._state = self._start
        return super().reset(**arguments)

    def observation(self, observation: Seen) -> Seen:
        """The actor's inputs for an observation of the next frame."""
        parts = {name: observation[name][None] for name in ("features", "proprioception", "goal", "goal_mask")}
        inputs, self._state = self._session.run(("inputs", "next_state"), parts | {"state": self._state})
        return {"vector": inputs[0]}


class Pupil:
    """An imitating actor, with noise in every second episode, and its teacher."""

    environment: Environment

    def __init__(self, lessons: DaggerLessons) -> None:
        self._actor, estimator = lessons.actor(), lessons.estimator()
        self._env = lessons.make_env.plain()
        self.environment = EstimatedObservation(self._env, lessons.estimator_file, estimator.state_size)
        self._estimator, self._teacher_sees = estimator, lessons.teacher_sees
        self._noise = 0.0

    def load(self, weights: dict[str, Any]) -> None:
        """Take new weights."""
        self._actor.load_state_dict(weights)

    def begin(self, rng: np.random.Generator) -> None:
        """Start an episode."""
        self._noise = LEARNER_NOISE * (rng.uniform() < 0.5)

    def act(self, observation: Seen, rng: np.random.Generator) -> np.ndarray:
        """Return the actor's action [A], with noise."""
        with torch.no_grad():
            action = torch.tanh(self._actor(torch.from_numpy(observation["vector"])[None]))[0].numpy()
        return action + self._noise * rng.normal(size=len(action))

    def teacher(self, observation: Seen) -> np.ndarray:
        """Return the action of the task's teacher, [A], computed from the state or from the estimate."""
        world: TeacherScene = self._env.world
        if self._teacher_sees == "estimate":
            inputs = observation["vector"]
            world = Belief(self._estimator, inputs)
        return self._env.world.task.teacher(world, self._env.behaviour.action)


class Demonstrations:
    """Inputs [N, I] and the teacher's actions [N, A], from images and from play."""

    def __init__(self, inputs: np.ndarray, teacher: np.ndarray) -> None:
        self.inputs, self.teacher = [torch.from_numpy(inputs)], [torch.from_numpy(teacher)]

    def add(self, inputs: np.ndarray, teacher: np.ndarray) -> None:
        """Append."""
        self.inputs.append(torch.from_numpy(inputs))
        self.teacher.append(torch.from_numpy(teacher))

    @property
    def played(self) -> tuple[Tensor, Tensor]:
        """Return inputs and actions of all played steps."""
        return torch.cat(self.inputs[1:]), torch.cat(self.teacher[1:])


def image_inputs(encoder: Encoder, lessons: DaggerLessons, frames: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the teacher's actions in the encoder's images: inputs [N, I] and actions [N, A]."""
    estimator, stack = lessons.estimator(), lessons.make_env.feature_stack
    images = np.load(frames / "images.npy", mmap_mode="r")
    arrays = {name: torch.from_numpy(np.load(frames / f"{name}.npy")) for name in ("proprioception", "goal", "teacher")}
    encoder.eval()
    with torch.no_grad():
        features = features_of(encoder, images)
        inputs = torch.empty(len(features), estimator.input_size)
        state = torch.zeros(len(features[::POSTURES_PER_EPISODE]), estimator.state_size)
        for place in range(POSTURES_PER_EPISODE):  # images of one episode share a camera
            features_at_place = features[place::POSTURES_PER_EPISODE]
            # The previous frame is missing and is replaced by the same frame with the encoder's noise.
            earlier = [features_at_place + TREMBLING * torch.randn_like(features_at_place) for _ in range(stack - 1)]
            goal = arrays["goal"][place::POSTURES_PER_EPISODE]
            inputs[place::POSTURES_PER_EPISODE], state[: len(features_at_place)] = estimator(
                torch.stack([*earlier, features_at_place], dim=1),
                arrays["proprioception"][place::POSTURES_PER_EPISODE],
                goal[:, :3],
                goal[:, 3:],
                state[: len(features_at_place)],
            )
    teacher: np.ndarray = arrays["teacher"].numpy()
    if lessons.teacher_sees == "estimate":
        task, action = lessons.cell.make_task(), lessons.cell.action
        for row, (actor_inputs, goal) in enumerate(zip(inputs.numpy(), arrays["goal"].numpy(), strict=True)):
            if isinstance(task, GoalTask):
                task.goal_position = goal[:3].astype(float)
            teacher[row] = task.teacher(Belief(estimator, actor_inputs), action)
    return inputs.numpy(), teacher


def train_dagger(
    lessons: DaggerLessons,
    images: tuple[np.ndarray, np.ndarray],
    training: DaggerTraining,
    seed: int,
    run: Path,
    show: Show,
) -> SeeingActor:
    """Train an actor, or continue from `run/dagger.pt`.

    Parameters
    ----------
    lessons
        What to play.
    images
        Inputs and the teacher's actions, of `image_inputs`.
    training
        How long and how.
    seed
        Of the training.
    run
        The run folder.
    show
        Reports the progress.
    """
    torch.set_num_threads(1)  # the collectors have the other cores
    checkpoint = run / "dagger.pt"
    key = {"stage": "dagger", "training": training.model_dump(), "seed": seed}
    torch.manual_seed(seed)
    actor = lessons.actor()
    optimizer = torch.optim.AdamW(actor.parameters(), training.learning_rate, weight_decay=1e-4)
    demonstrations = Demonstrations(*images)
    actor.normaliser.observe(demonstrations.inputs[0])
    rounds, first, recent = training.steps // training.round_steps, 0, deque[bool](maxlen=100)
    state = load_checkpoint(checkpoint, key)
    if state:
        actor.load_state_dict(state["actor"])
        optimizer.load_state_dict(state["optimizer"])
        demonstrations.add(state["inputs"].numpy(), state["teacher"].numpy())
        first = state["round"]
        recent.extend(state["recent"])

    def learn(updates: int, falling: bool) -> float:
        # Drawn by torch's generator, which nothing else uses between two checkpoints.
        return _learn(actor, optimizer, demonstrations, training, updates, falling)

    if not state:
        show(0, f"images, loss {learn(training.image_updates, falling=False):.4f}")
    with Collectors(lessons, training.collectors, seed, first * training.round_steps) as collectors:
        for index in range(first, rounds):
            share = 1.0 if index < training.teacher_rounds else training.teacher_share
            collectors.start_round(actor.state_dict(), training.round_steps, share)
            loss = learn(training.updates_per_round, falling=False)
            for part in collectors.finish_round():
                assert part.teacher is not None
                demonstrations.add(part.observation["vector"], part.teacher)
                recent.extend(part.successes)
            won = float(np.mean(recent)) if recent else 0.0
            played_steps = (index + 1) * training.round_steps
            show(played_steps, f"success {won:.2f}, loss {loss:.4f}", success_rate=won, loss=loss)
            if (index + 1) % CHECKPOINT_ROUNDS == 0 or index + 1 == rounds:
                inputs, teacher = demonstrations.played
                save_checkpoint(
                    checkpoint,
                    key,
                    actor=actor.state_dict(),
                    optimizer=optimizer.state_dict(),
                    inputs=inputs,
                    teacher=teacher,
                    round=index + 1,
                    recent=list(recent),
                )
    show(training.steps, f"final updates, loss {learn(training.final_updates, falling=True):.4f}")
    return actor


def _learn(
    actor: SeeingActor,
    optimizer: torch.optim.Optimizer,
    demonstrations: Demonstrations,
    training: DaggerTraining,
    updates: int,
    falling: bool,
) -> float:
    """Take gradient steps towards the teacher's actions; return the mean loss of the last ones."""
    images = (demonstrations.inputs[0], demonstrations.teacher[0])
    played = demonstrations.played if len(demonstrations.inputs) > 1 else images
    count = int(training.image_share * training.batch)
    losses: deque[float] = deque(maxlen=300)
    for update in range(updates):
        rate = training.learning_rate * (1 - 0.97 * update / updates if falling else 1.0)
        optimizer.param_groups[0]["lr"] = rate
        some = torch.randint(0, len(images[0]), (count,))
        others = torch.randint(0, len(played[0]), (training.batch - count,))
        inputs = torch.cat([images[0][some], played[0][others]])
        teacher = torch.cat([images[1][some], played[1][others]])
        loss = functional.mse_loss(torch.tanh(actor(inputs)), teacher)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(actor.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses)) if losses else 0.0
