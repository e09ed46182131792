"""A training that is killed between two checkpoints continues as if it had been killed right after the first of them.

Both trainings here are deterministic, so their weights are compared bit for bit. They cannot equal those of a training
that was never interrupted, because a checkpoint leaves out what was in progress: `sac` continues with an empty replay
buffer, and both begin a new episode and new streams of random numbers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from rlfp_ros.learning.algorithms.environments import TaskEnvironment  # noqa: E402
from rlfp_ros.learning.algorithms.point_mass import MakePointMass  # noqa: E402
from rlfp_ros.learning.algorithms.sac import SacSettings, train  # noqa: E402
from rlfp_ros.learning.recipes import expert  # noqa: E402
from rlfp_ros.learning.runs import training_log  # noqa: E402
from rlfp_ros.learning.runs.training_log import TrainingLog  # noqa: E402

pytestmark = pytest.mark.usefixtures("seeded_torch")

Session = Callable[..., list[bytes]]
NEVER = 10**9
STEPS, CHECKPOINT = 160, 60  # environment steps of `sac`
ROUND = 30  # decisions of the expert


def die_in_a_new_process(session: Session, run: Path, kill_at: int) -> None:
    process = multiprocessing.get_context("spawn").Process(target=session, args=(run, kill_at))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def weights(state: dict[str, Tensor]) -> list[bytes]:
    return [name.encode() + value.numpy().tobytes() for name, value in sorted(state.items())]


def sac_session(run: Path, kill_at: int = NEVER) -> list[bytes]:
    """Train with one checkpoint, after `CHECKPOINT` steps; die after `kill_at` steps."""
    torch.set_num_threads(1)
    training_log.CHECKPOINT_EVERY_S = -1.0
    log = TrainingLog(run, {"seed": 0})
    save = log.checkpoint

    def checkpoint(step: int, state: object, last: bool = False) -> None:
        if step == CHECKPOINT or last:
            save(step, state, last)  # type: ignore[arg-type]
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    log.checkpoint = checkpoint  # type: ignore[method-assign]
    settings = SacSettings(hidden=8, batch=8, first_steps=20)
    return weights(train(MakePointMass(), settings, STEPS, 0, log).state_dict())


def expert_session(run: Path, kill_at: int = NEVER) -> list[bytes]:
    """Train six rounds with a checkpoint after every second one; die after `kill_at` decisions."""
    torch.set_num_threads(1)
    expert.CHECKPOINT_ROUNDS = 2
    settings = expert.ExpertSettings(steps=6 * ROUND, round_steps=ROUND, random_rounds=1, updates_per_step=0.2)
    sac = settings.sac.changed(hidden=16, batch=16, capacity=200)
    environment = TaskEnvironment("reach", profile="none", observation="state", images_per_decision=3, past_actions=3)

    def show(done: int, text: str, **figures: float) -> None:
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)  # before this round's checkpoint

    lessons = expert.ExpertLessons(environment, settings.changed(sac=sac))
    return weights(expert.train_expert(lessons, 0, run, show).policy.state_dict())


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("session", "early", "late"),
    [(sac_session, CHECKPOINT, CHECKPOINT + 71), (expert_session, 3 * ROUND, 4 * ROUND)],
    ids=["sac", "expert"],
)
def test_work_after_the_last_checkpoint_changes_nothing(
    session: Session, early: int, late: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_log, "CHECKPOINT_EVERY_S", -1.0)  # restored after the test
    monkeypatch.setattr(expert, "CHECKPOINT_ROUNDS", 2)
    for name, kill_at in (("early", early), ("late", late)):
        (tmp_path / name).mkdir()
        die_in_a_new_process(session, tmp_path / name, kill_at)
    one, other = session(tmp_path / "early"), session(tmp_path / "late")
    assert len(one) > 4
    assert one == other
