"""Imitation of a teacher that knows the simulator's state, by an actor that sees only features and joints.

DAgger (Ross et al. 2011, https://arxiv.org/abs/1011.0686): the actor plays, and at every frame that it visits the
teacher says what it would have done; all of it is learnt from. So the actor sees what its own errors lead to, and how
to come back. It begins with what the teacher would do in the encoder's pictures: far more cameras, appearances and
places than it ever plays through, for the price of one pass of the encoder.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.learning.encoders.encoder import Encoder, features_of
from rlfp_ros.learning.recipes.dagger_collector import Collectors, Lessons, TeacherSees
from rlfp_ros.learning.recipes.estimator import Belief, SeeingActor
from rlfp_ros.learning.recipes.frames import POSTURES_PER_EPISODE
from rlfp_ros.learning.runs.checkpoint import load_checkpoint, save_checkpoint
from rlfp_ros.learning.runs.progress import Show
from rlfp_ros.simulation.tasks.goal import GoalTask

TREMBLING = 0.003  # on the plane z = 1, how much features differ between two pictures of the same
CHECKPOINT_ROUNDS = 2  # an interrupted training plays at most these again


@dataclass(frozen=True)
class DaggerTraining:
    """How long and how the actor imitates."""

    picture_updates: int = 4_000  # gradient steps on the encoder's pictures alone, before the actor plays
    steps: int = 60_000  # camera frames played
    round_steps: int = 3_000  # between two exchanges of weights and lessons, by all collectors together
    collectors: int = 2  # processes that play
    updates_per_round: int = 500  # gradient steps
    final_updates: int = 12_000  # gradient steps at the end, on everything, with a falling learning rate
    teacher_rounds: int = 2  # played by the teacher, disturbed
    teacher_share: float = 0.05  # of the episodes after that
    picture_share: float = 0.2  # of a batch that are the encoder's pictures
    teacher_sees: TeacherSees = "estimate"
    batch: int = 256
    learning_rate: float = 1e-3  # falls linearly to 3 % in the final updates

    def shortened(self, factor: float) -> DaggerTraining:
        """The same with `factor` of the work."""
        return replace(
            self, steps=max(400, int(self.steps * factor)), round_steps=min(self.round_steps, 200), collectors=1,
            picture_updates=int(self.picture_updates * factor) + 1,
            updates_per_round=int(self.updates_per_round * factor) + 1,
            final_updates=int(self.final_updates * factor) + 1,
        )  # fmt: skip


class Demonstrations:
    """Inputs [N, I] and the teacher's actions [N, A], from pictures and from play."""

    def __init__(self, inputs: np.ndarray, teacher: np.ndarray) -> None:
        self.inputs, self.teacher = [torch.from_numpy(inputs)], [torch.from_numpy(teacher)]

    def add(self, inputs: np.ndarray, teacher: np.ndarray) -> None:
        """Append."""
        self.inputs.append(torch.from_numpy(inputs))
        self.teacher.append(torch.from_numpy(teacher))

    @property
    def played(self) -> tuple[Tensor, Tensor]:
        """All that was played, inputs and actions."""
        return torch.cat(self.inputs[1:]), torch.cat(self.teacher[1:])


def picture_demonstrations(
    encoder: Encoder, lessons: Lessons, frames: Path, stack: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the teacher would do in each of the encoder's pictures: inputs [N, I] and actions [N, A]."""
    estimator = lessons.estimator()
    images = np.load(frames / "images.npy", mmap_mode="r")
    arrays = {name: torch.from_numpy(np.load(frames / f"{name}.npy")) for name in ("proprioception", "goal", "teacher")}
    encoder.eval()
    with torch.no_grad():
        features = features_of(encoder, images)
        inputs = torch.empty(len(features), estimator.input_size)
        state = torch.zeros(len(features[::POSTURES_PER_EPISODE]), estimator.state_size)
        for place in range(POSTURES_PER_EPISODE):  # pictures of one episode share a camera
            seen = features[place::POSTURES_PER_EPISODE]
            # The frame before is not there; the same one with the encoder's own trembling stands for it.
            earlier = [seen + TREMBLING * torch.randn_like(seen) for _ in range(stack - 1)]
            goal = arrays["goal"][place::POSTURES_PER_EPISODE]
            inputs[place::POSTURES_PER_EPISODE], state[: len(seen)] = estimator(
                torch.stack([*earlier, seen], dim=1), arrays["proprioception"][place::POSTURES_PER_EPISODE],
                goal[:, :3], goal[:, 3:], state[: len(seen)],
            )  # fmt: skip
    teacher: np.ndarray = arrays["teacher"].numpy()
    if lessons.teacher_sees == "estimate":
        task, action = lessons.cell.make_task(), lessons.cell.action
        for row, (seen, goal) in enumerate(zip(inputs.numpy(), arrays["goal"].numpy(), strict=True)):
            if isinstance(task, GoalTask):
                task.goal_position = goal[:3].astype(float)
            teacher[row] = task.teacher(Belief(seen, seen[estimator.proprioception]), action)
    return inputs.numpy(), teacher


def train_dagger(
    lessons: Lessons, pictures: tuple[np.ndarray, np.ndarray], training: DaggerTraining, seed: int, run: Path,
    show: Show,
) -> SeeingActor:  # fmt: skip
    """Train an actor, or go on from `run/dagger.pt`. `show(steps played, text, figures)` is called now and then."""
    torch.set_num_threads(1)  # the collectors have the other cores
    checkpoint = run / "dagger.pt"
    key = {"stage": "dagger", "training": asdict(training), "hidden": lessons.hidden, "seed": seed}
    torch.manual_seed(seed)
    actor = lessons.actor()
    optimizer = torch.optim.AdamW(actor.parameters(), training.learning_rate, weight_decay=1e-4)
    demonstrations = Demonstrations(*pictures)
    actor.normaliser.fit(demonstrations.inputs[0])
    rounds, first, recent = training.steps // training.round_steps, 0, deque[bool](maxlen=100)
    state = load_checkpoint(checkpoint, key)
    if state:
        actor.load_state_dict(state["actor"])
        optimizer.load_state_dict(state["optimizer"])
        demonstrations.add(state["inputs"].numpy(), state["teacher"].numpy())
        first = state["round"]
        recent.extend(state["recent"])

    def learn(updates: int, falling: bool) -> float:
        # Drawn by torch's generator, which nothing else moves between two checkpoints.
        return _learn(actor, optimizer, demonstrations, training, updates, falling)

    if not state:
        show(0, f"pictures, loss {learn(training.picture_updates, falling=False):.4f}")
    # Seeds that the rounds before did not reach.
    own = replace(lessons, seed=lessons.seed + 10_000 * first)
    with Collectors(own, training.collectors) as collectors:
        for index in range(first, rounds):
            share = 1.0 if index < training.teacher_rounds else training.teacher_share
            collectors.start_round(actor.state_dict(), training.round_steps, share)
            loss = learn(training.updates_per_round, falling=False)
            inputs, teacher, successes = collectors.finish_round()
            demonstrations.add(inputs, teacher)
            recent.extend(successes)
            won = float(np.mean(recent)) if recent else 0.0
            played_steps = (index + 1) * training.round_steps
            show(played_steps, f"success {won:.2f}, loss {loss:.4f}", success_rate=won, loss=loss)
            if (index + 1) % CHECKPOINT_ROUNDS == 0 or index + 1 == rounds:
                played = demonstrations.played
                save_checkpoint(
                    checkpoint, key, actor=actor.state_dict(), optimizer=optimizer.state_dict(), inputs=played[0],
                    teacher=played[1], round=index + 1, recent=list(recent),
                )  # fmt: skip
    show(training.steps, f"all of it, loss {learn(training.final_updates, falling=True):.4f}")
    return actor


def _learn(
    actor: SeeingActor, optimizer: torch.optim.Optimizer, demonstrations: Demonstrations, training: DaggerTraining,
    updates: int, falling: bool,
) -> float:  # fmt: skip
    """Gradient steps towards the teacher; the mean loss of the last ones."""
    pictures = (demonstrations.inputs[0], demonstrations.teacher[0])
    played = demonstrations.played if len(demonstrations.inputs) > 1 else pictures
    some = int(training.picture_share * training.batch)
    losses: deque[float] = deque(maxlen=300)
    for update in range(updates):
        rate = training.learning_rate * (1 - 0.97 * update / updates if falling else 1.0)
        optimizer.param_groups[0]["lr"] = rate
        ours = torch.randint(0, len(pictures[0]), (some,))
        theirs = torch.randint(0, len(played[0]), (training.batch - some,))
        inputs = torch.cat([pictures[0][ours], played[0][theirs]])
        teacher = torch.cat([pictures[1][ours], played[1][theirs]])
        loss = functional.mse_loss(torch.tanh(actor(inputs)), teacher)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(actor.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses)) if losses else 0.0
