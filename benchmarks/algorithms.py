"""Compares the algorithms of rlfp_ros/learning with Stable-Baselines3's: same environment, budget, settings and seeds.

    ./rlfp bench algorithms [--algorithms sac ppo] [--seeds 0 1 2] [--json FILE] [--document FILE]

One cell is one training, and takes minutes; its result is a file in the folder, and a cell whose file is there is not
run again: stop and continue as you like, or run several at once with other --algorithms. What is missing is shown as
missing. Settings that both know have the same value, networks the same size; inputs are normalised by running
statistics in both (there: VecNormalize). `--document` puts the table between the environment's marks in a page.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and OpenCV read it

import gymnasium
import numpy as np
import psutil
import torch

from rlfp_ros.cli.parsing import add_result, natural, parse_benchmark, positive
from rlfp_ros.evaluation.results import around, put_between, write_json
from rlfp_ros.learning.algorithms.a3c import A3cSettings
from rlfp_ros.learning.algorithms.algorithm import ALGORITHMS
from rlfp_ros.learning.algorithms.dqn import DqnSettings, action_set
from rlfp_ros.learning.algorithms.environments import EnvironmentMaker, TaskEnvironment, episode_seeds, shapes
from rlfp_ros.learning.algorithms.networks import batch_of_one
from rlfp_ros.learning.algorithms.point_mass import MakePointMass
from rlfp_ros.learning.algorithms.ppo import PpoSettings
from rlfp_ros.learning.algorithms.sac import SacSettings
from rlfp_ros.learning.runs.training_log import TrainingLog
from rlfp_ros.seeds import BENCHMARKS

STEPS = {  # environment steps of a training, by environment
    "reach": {"sac": 5_000, "ppo": 16_000, "dqn": 8_000, "a2c": 16_000, "a3c": 16_000},
    "point": {"sac": 1_500, "ppo": 8_000, "dqn": 4_000, "a2c": 8_000, "a3c": 8_000},
}
ALGORITHM_NAMES = tuple(STEPS["reach"])
PEERS = ("sac", "ppo", "dqn", "a2c")  # algorithms of Stable-Baselines3; its A2C is also compared with A3C
SOURCES = ("rlfp_ros", "stable_baselines3")
TEST_EPISODES = 20
# Student's t for a two-sided 95 % interval, by number of seeds
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
MARKS = ("<!-- benchmarks/algorithms.py {} begins -->", "<!-- benchmarks/algorithms.py {} ends -->")


@dataclass(frozen=True)
class Cell:
    """One training."""

    environment: str
    algorithm: str
    source: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.environment}-{self.algorithm}-{self.source}-{self.seed}"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench algorithms", description=__doc__.splitlines()[0])
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHM_NAMES), choices=ALGORITHM_NAMES)
    parser.add_argument(
        "--environment",
        default="reach",
        choices=STEPS,
        help="reach, or a point mass that costs nothing, to see what the algorithms cost",
    )
    parser.add_argument("--seeds", nargs="+", type=natural, default=[0, 1, 2])
    parser.add_argument(
        "--steps", type=positive, help="instead of each algorithm's own budget, for a first look in a folder of its own"
    )
    add_result(parser, "--folder", folder=True, default=Path("runs/algorithms"))
    parser.add_argument("--only-table", action="store_true", help="run nothing")
    add_result(parser, "--json")
    add_result(parser, "--document", help="put the table into this page")
    parser.add_argument("--cell", help=argparse.SUPPRESS)  # a process of the benchmark's own
    options = parse_benchmark(parser, argv)
    first, last = (mark.format(options.environment) for mark in MARKS)
    if options.document:
        around(options.document, first, last)
    if options.steps and not options.cell:
        options.folder /= f"{options.steps}_steps"  # or the budget's own cells would count as run
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.cell:
        environment, algorithm, source, seed = options.cell.split("-")
        steps = options.steps or STEPS[environment][algorithm]
        run_cell(Cell(environment, algorithm, source, int(seed)), steps, options.folder)
        return 0
    cells = [
        Cell(options.environment, algorithm, source, seed)
        for seed in options.seeds
        for algorithm in options.algorithms
        for source in SOURCES
        if source == SOURCES[0] or algorithm in PEERS
    ]
    for cell in [] if options.only_table else cells:
        if not (options.folder / f"{cell.name}.json").exists():
            print(f"{cell.name} ...", flush=True)
            steps = ["--steps", str(options.steps)] if options.steps else []
            command = [sys.executable, __file__, "--cell", cell.name, "--folder", str(options.folder), *steps]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    results = {
        cell.name: json.loads(file.read_text())
        for cell in cells
        if (file := options.folder / f"{cell.name}.json").exists()
    }
    text = table(results, options.environment, options.algorithms, options.seeds)
    print(text)
    if options.json:
        write_json(options.json, results)
    if options.document:
        put_between(options.document, first, last, f"\n{text}")
    return 0


def run_cell(cell: Cell, steps: int, folder: Path) -> None:
    """Train, test, write the cell's file."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    make_env: EnvironmentMaker = MakePointMass()
    if cell.environment == "reach":
        make_env = TaskEnvironment("reach", profile="none", observation="state", image_size=16)
    train = train_ours if cell.source == "rlfp_ros" else train_peer
    wall, cpu = time.perf_counter(), _cpu_s()
    log, act = train(cell, make_env, steps)
    wall, cpu = time.perf_counter() - wall, _cpu_s() - cpu
    returns, successes = test(make_env, act)
    result = {
        "steps": steps,
        "training_return": statistics.fmean(episode.episode_return for episode in log.episodes),
        "curve": [(episode.step, round(episode.episode_return, 1), episode.success) for episode in log.episodes],
        "test_return": statistics.fmean(returns),
        "test_success": statistics.fmean(successes),
        "cpu_ms_per_step": 1000 * cpu / steps,
        "wall_ms_per_step": 1000 * wall / steps,
        "load": os.getloadavg()[0],
    }
    write_json(folder / f"{cell.name}.json", result)


def _cpu_s() -> float:
    """Return the processor time of this process and its children, including those of a fork server."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    alive = sum(sum(child.cpu_times()[:4]) for child in psutil.Process().children(recursive=True))
    return alive + sum(usage.ru_utime + usage.ru_stime for usage in used)


Act = Callable[[dict[str, np.ndarray]], np.ndarray]


def test(make_env: EnvironmentMaker, act: Act) -> tuple[list[float], list[float]]:
    """Returns and successes of the action to deploy, on seeds that no training played."""
    env = make_env()
    returns, successes = [], []
    for seed in BENCHMARKS.episodes(BENCHMARKS.first, TEST_EPISODES, "the first seed"):
        observation, info = env.reset(seed=seed)
        ended = False
        while not ended:
            observation, _, terminated, truncated, info = env.step(act(observation))
            ended = terminated or truncated
        returns.append(float(info["episode"]["r"]))
        successes.append(float(info["success"]))
    env.close()
    return returns, successes


def train_ours(cell: Cell, make_env: EnvironmentMaker, steps: int) -> tuple[TrainingLog, Act]:
    algorithm = ALGORITHMS[cell.algorithm]
    log = TrainingLog()
    agent = algorithm.train(make_env, peer_settings(cell), steps, cell.seed, log)

    def act(observation: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return agent(batch_of_one(observation))[0].numpy()

    return log, act


def peer_settings(cell: Cell) -> Any:
    """Return our settings without double Q-learning, which Stable-Baselines3 does not have."""
    changes: dict[str, Any] = {}
    if cell.environment == "point":
        changes["discount"] = 0.9
        if cell.algorithm not in ("a3c", "a2c"):  # whose learning rate is made for small returns
            changes["reward_scale"] = 1.0
        if cell.algorithm in ("sac", "dqn"):
            changes["first_steps"] = 200
    if cell.algorithm == "dqn":
        changes["double"] = False
    return ALGORITHMS[cell.algorithm].settings.changed(**changes)


# --- Stable-Baselines3 -----------------------------------------------------------------------------------------------


class PeerEnvironment(gymnasium.Wrapper[np.ndarray, Any, dict[str, np.ndarray], np.ndarray]):
    """The same environment for Stable-Baselines3: only the vector, scaled rewards, discrete actions for DQN."""

    def __init__(self, env: Any, seeds: Iterator[int], reward_scale: float, levels: int | None) -> None:
        super().__init__(env)
        self._seeds = seeds
        self.observation_space = env.observation_space["vector"]
        self._scale, self._actions = reward_scale, None
        if levels:
            self._actions = action_set(env.action_space.shape[0], levels).numpy()
            self.action_space = gymnasium.spaces.Discrete(len(self._actions))

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(seed=next(self._seeds))  # the seeds that our trainings play
        return observation["vector"], info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._actions is not None:
            action = self._actions[int(action)]
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation["vector"], self._scale * float(reward), terminated, truncated, info


@dataclass(frozen=True)
class MakePeer:
    """Travels to SubprocVecEnv's processes."""

    make_env: EnvironmentMaker
    seed: int
    worker: int
    reward_scale: float
    levels: int | None

    def __call__(self) -> gymnasium.Env[Any, Any]:
        torch.set_num_threads(1)
        seeds = episode_seeds(self.seed, worker=self.worker)
        return PeerEnvironment(self.make_env(), seeds, self.reward_scale, self.levels)


def train_peer(cell: Cell, make_env: EnvironmentMaker, steps: int) -> tuple[TrainingLog, Act]:
    import stable_baselines3 as sb3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

    settings = peer_settings(cell)
    workers = settings.workers if isinstance(settings, A3cSettings) else 1
    levels = settings.levels if isinstance(settings, DqnSettings) else None
    _, action_size = shapes(make_env())
    makers: list[Callable[[], Any]] = [
        MakePeer(make_env, cell.seed, rank, settings.reward_scale, levels) for rank in range(workers)
    ]
    vector: Any = SubprocVecEnv(makers, start_method="spawn") if workers > 1 else DummyVecEnv(makers)
    vector = VecNormalize(vector, norm_reward=False, gamma=settings.discount)
    log = TrainingLog()

    class Listen(BaseCallback):
        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    log.episode(self.num_timesteps, info)
            return True

    widths: dict[str, Any] = {"net_arch": [settings.hidden] * 2, "activation_fn": torch.nn.ReLU}
    shared: dict[str, Any] = {"gamma": settings.discount, "seed": cell.seed, "device": "cpu"}

    def falling(left: float) -> float:
        return left * settings.learning_rate

    if isinstance(settings, SacSettings):
        model: Any = sb3.SAC(
            "MlpPolicy",
            vector,
            settings.learning_rate,
            settings.capacity,
            settings.first_steps,
            settings.batch,
            settings.target_rate,
            train_freq=settings.update_every,
            n_steps=settings.return_steps,
            ent_coef=f"auto_{settings.initial_temperature}",
            policy_kwargs=widths,
            target_entropy=-action_size,
            **shared,
        )
    elif isinstance(settings, DqnSettings):
        model = sb3.DQN(
            "MlpPolicy",
            vector,
            settings.learning_rate,
            settings.capacity,
            settings.first_steps,
            settings.batch,
            train_freq=settings.update_every,
            n_steps=settings.return_steps,
            policy_kwargs=widths,
            target_update_interval=settings.copy_every * settings.update_every,
            exploration_fraction=settings.exploration,
            exploration_initial_eps=settings.first_epsilon,
            exploration_final_eps=settings.last_epsilon,
            **shared,
        )
    elif isinstance(settings, PpoSettings):
        model = sb3.PPO(
            "MlpPolicy",
            vector,
            falling,
            settings.rollout,
            settings.batch,
            settings.epochs,
            gae_lambda=settings.trace,
            clip_range=settings.clip,
            ent_coef=settings.entropy_weight,
            vf_coef=settings.value_weight,
            max_grad_norm=settings.largest_gradient,
            policy_kwargs=widths | {"log_std_init": settings.initial_log_std},
            **shared,
        )
    else:
        model = sb3.A2C(
            "MlpPolicy",
            vector,
            falling,
            settings.segment,
            ent_coef=settings.entropy_weight,
            vf_coef=settings.value_weight,
            max_grad_norm=settings.largest_gradient,
            rms_prop_eps=settings.smallest,
            policy_kwargs=widths | {"log_std_init": settings.initial_log_std},
            **shared,
        )
    model.learn(steps, callback=Listen())
    vector.close()
    actions = None if levels is None else action_set(action_size, levels).numpy()

    def act(observation: dict[str, np.ndarray]) -> np.ndarray:
        action, _ = model.predict(vector.normalize_obs(observation["vector"]), deterministic=True)
        return action if actions is None else actions[int(action)]

    return log, act


# --- the table -------------------------------------------------------------------------------------------------------


def table(results: dict[str, dict[str, Any]], environment: str, algorithms: list[str], seeds: list[int]) -> str:
    """Markdown: a row for each algorithm and source, means with 95 % intervals over the seeds."""
    rows = [
        "| algorithm | from | steps | seeds | return while training | return after | success after | "
        "CPU ms per step | wall ms per step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for algorithm in algorithms:
        for source in SOURCES if algorithm in PEERS else SOURCES[:1]:
            found = [
                results[name] for seed in seeds if (name := Cell(environment, algorithm, source, seed).name) in results
            ]
            label = "ours" if source == "rlfp_ros" else "Stable-Baselines3"
            if not found:
                rows.append(
                    f"| {algorithm} | {label} | {STEPS[environment][algorithm]} | 0 of {len(seeds)} | missing | | | | |"
                )
                continue
            cells = [
                interval([one[key] for one in found], digits)
                for key, digits in (
                    ("training_return", 1),
                    ("test_return", 1),
                    ("test_success", 2),
                    ("cpu_ms_per_step", 2),
                    ("wall_ms_per_step", 2),
                )
            ]
            count = str(len(found)) if len(found) == len(seeds) else f"{len(found)} of {len(seeds)}"
            rows.append(f"| {algorithm} | {label} | {found[0]['steps']} | {count} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", *comparisons(results, environment, algorithms, seeds)]) + "\n"


def comparisons(
    results: dict[str, dict[str, Any]], environment: str, algorithms: list[str], seeds: list[int]
) -> list[str]:
    """A line for each algorithm of which both are there: ours minus theirs, 95 % interval of the paired seeds."""
    lines = []
    for algorithm in algorithms:
        pairs = [
            (results[ours], results[theirs])
            for seed in seeds
            if (ours := Cell(environment, algorithm, SOURCES[0], seed).name) in results
            and (theirs := Cell(environment, algorithm, SOURCES[1], seed).name) in results
        ]
        if pairs:
            gained = interval([ours["training_return"] - theirs["training_return"] for ours, theirs in pairs], 1)
            cost = statistics.fmean(ours["cpu_ms_per_step"] / theirs["cpu_ms_per_step"] for ours, theirs in pairs)
            lines.append(
                f"- {algorithm}: return while training, ours minus theirs: {gained}; "
                f"CPU time per step, environment included: {cost:.2f} of theirs"
            )
    return lines


def interval(values: list[float], digits: int) -> str:
    """Mean and half-width of the 95 % interval by Student's t."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) not in T_95:
        return mean
    half = T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {half:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
