"""Asynchronous advantage actor-critic, and A2C, its synchronous form: Mnih et al. 2016, https://arxiv.org/abs/1602.01783.

Each worker is a process with its own environment. It copies the shared weights, plays a few steps, and computes the
gradient of that segment. In A3C it applies the gradient to the shared weights at once, although other workers may have
changed them. In A2C all workers wait for each other and their mean gradient is applied, so a training is repeatable.
Weights are one shared vector, and so are RMSprop's statistics (the paper's "shared RMSProp", equations S2 and S3). A
lock protects each application; the paper has none.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier, Lock
from typing import Any

import gymnasium
import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from rlfp_ros.learning.algorithms.algorithm import algorithm
from rlfp_ros.learning.algorithms.environments import EnvironmentMaker, episode_seeds, shapes
from rlfp_ros.learning.algorithms.networks import ActorCritic, batch_of_one
from rlfp_ros.learning.runs import processes
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.learning.runs.training_log import TrainingLog
from rlfp_ros.seeds import MAX_WORKERS


class A3cSettings(TrainingSettings):
    """Hyperparameters."""

    workers: int = Field(2, ge=1, le=MAX_WORKERS)  # processes
    synchronous: bool = False  # True for A2C
    hidden: int = Field(128, ge=1, le=8192)  # units in each of two layers
    learning_rate: float = Field(7e-4, gt=0, le=1)  # falls linearly to zero
    segment: int = Field(16, ge=1)  # environment steps from which one gradient is computed
    discount: float = Field(0.96, ge=0, le=1)  # per environment step; a horizon of 0.8 s at 30 Hz
    value_weight: float = Field(0.5, ge=0)  # weight of the value's squared error
    entropy_weight: float = Field(0.0, ge=0)  # weight of the entropy bonus
    # Norm to which the gradient of all parameters is clipped. With large returns the value's gradient dominates the
    # policy's. When it has fallen, RMSprop's mean square of the policy is still small and the policy's steps are far
    # too long. Returns of the order of 1 (`reward_scale`) avoid this.
    largest_gradient: float = Field(0.5, gt=0)
    decay: float = Field(0.99, ge=0, lt=1)  # decay of RMSprop's mean square per update
    smallest: float = Field(1e-5, gt=0)  # added to that mean square
    initial_log_std: float = Field(-0.5, ge=-5, le=2)  # logarithm of the actions' standard deviation at the start
    reward_scale: float = Field(0.1, gt=0)  # rewards are multiplied by this before anything learns from them


def n_step_returns(reward: Tensor, ended: Tensor, after: Tensor, discount: float) -> Tensor:
    """Compute the returns [T] of a segment: rewards up to its end or the episode's end, then the value there.

    `after` [T] is the value of the state after step t, 0 after a terminal step. It is used at the end of an episode and
    at the end of the segment.
    """
    returns = torch.zeros_like(reward)
    following = float(after[-1])
    for step in reversed(range(len(reward))):
        if ended[step]:
            following = float(after[step])
        following = float(reward[step]) + discount * following
        returns[step] = following
    return returns


def segment_loss(network: ActorCritic, segment: dict[str, Any], settings: A3cSettings) -> Tensor:
    """Return the loss of one segment: policy gradient with n-step advantage, the value's squared error, the entropy."""
    steps = len(segment["reward"])
    policy, value = network.evaluate(segment["observation"])
    after = torch.zeros(steps)
    if segment["after"]:
        following = {
            name: torch.cat([seen[name] for seen in segment["after"].values()]) for name in segment["observation"]
        }
        with torch.no_grad():
            after[list(segment["after"])] = network.evaluate(following)[1]
    wanted = n_step_returns(segment["reward"], segment["ended"], after, settings.discount)
    advantage = wanted - value
    return (
        -(policy.log_prob(segment["action"]) * advantage.detach()).mean()
        + settings.value_weight * advantage.square().mean()
        - settings.entropy_weight * policy.entropy().mean()
    )


class SharedLearner:
    """Weights, statistics and the number of steps in shared memory, for all workers."""

    def __init__(self, network: ActorCritic, settings: A3cSettings, context: Any) -> None:
        self.weights = parameters_to_vector(network.parameters()).detach().clone().share_memory_()
        self.square = torch.zeros_like(self.weights).share_memory_()
        self.gradients = torch.zeros(settings.workers, len(self.weights)).share_memory_()
        normaliser = network.trunk.normaliser
        size = len(normaliser.mean)
        self.seen = torch.zeros(settings.workers, settings.segment, size).share_memory_()
        self.statistics = {name: value.clone().share_memory_() for name, value in normaliser.state_dict().items()}
        self.step = torch.zeros(1, dtype=torch.int64).share_memory_()
        self.lock: Lock = context.Lock()
        self.barrier: Barrier = context.Barrier(settings.workers)

    def apply(self, gradient: Tensor, rate: float, settings: A3cSettings) -> None:
        """Take one step of shared RMSProp."""
        self.square.mul_(settings.decay).addcmul_(gradient, gradient, value=1 - settings.decay)
        self.weights.addcdiv_(gradient, (self.square + settings.smallest).sqrt(), value=-rate)

    def load(self, network: ActorCritic) -> None:
        """Copy the weights into a worker's network; its normaliser is in shared memory already."""
        vector_to_parameters(self.weights.clone(), network.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state for a checkpoint."""
        return {"weights": self.weights.clone(), "square": self.square.clone()} | {
            name: value.clone() for name, value in self.statistics.items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        self.weights.copy_(state["weights"])
        self.square.copy_(state["square"])
        for name, value in self.statistics.items():
            value.copy_(state[name])


@algorithm("a2c", A3cSettings(synchronous=True), steps=300_000)
@algorithm("a3c", A3cSettings(), steps=300_000)
def train(make_env: EnvironmentMaker, settings: A3cSettings, steps: int, seed: int, log: TrainingLog) -> ActorCritic:
    """Learn for `steps` environment steps of all workers together.

    Scripts call it under `if __name__ == "__main__"`, because the workers are not forks of this process.
    """
    torch.manual_seed(seed)
    env = make_env()
    space, action_size = shapes(env)
    env.close()
    network = ActorCritic(space, action_size, settings.hidden, settings.initial_log_std)
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is then imported once, not by every worker
    shared = SharedLearner(network, settings, context)
    if log.resumed:
        shared.load_state_dict(log.resumed["shared"])
        shared.step.fill_(int(log.resumed["step"]))
    messages: multiprocessing.Queue[tuple[int, dict[str, Any]]] = context.Queue()
    arguments = (make_env, settings, steps, seed, shared, messages)
    workers = [context.Process(target=_work, args=(rank, *arguments), daemon=True) for rank in range(settings.workers)]
    processes.start(workers)
    try:
        while any(worker.is_alive() for worker in workers) or not messages.empty():
            try:
                log.episode(*messages.get(timeout=0.1))
            except queue.Empty:
                failed = [worker.exitcode for worker in workers if worker.exitcode not in (None, 0)]
                if failed:
                    raise RuntimeError(f"a worker died with exit code {failed[0]}") from None
            log.checkpoint(int(shared.step), lambda: {"shared": shared.state_dict()})
    finally:
        processes.end(workers)
    shared.load(network)
    network.trunk.normaliser.load_state_dict(shared.statistics)
    log.checkpoint(int(shared.step), lambda: {"shared": shared.state_dict()}, last=True)
    return network


def _work(
    rank: int,
    make_env: EnvironmentMaker,
    settings: A3cSettings,
    steps: int,
    seed: int,
    shared: SharedLearner,
    messages: Any,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C here too; the trainer ends this process
    threading.Thread(target=_end_with_the_trainer, daemon=True).start()
    torch.set_num_threads(1)
    first = int(shared.step)
    torch.manual_seed(seed * 1_000 + first + rank)
    env = make_env()
    space, action_size = shapes(env)
    network = ActorCritic(space, action_size, settings.hidden, settings.initial_log_std)
    for name in shared.statistics:
        setattr(network.trunk.normaliser, name, shared.statistics[name])
    play = _player(env, settings, network, episode_seeds(seed, first, rank))
    if settings.synchronous:
        shared.barrier.wait()  # all workers must read the number of steps before one changes it
    while int(shared.step) < steps:
        rate = settings.learning_rate * max(0.0, 1 - int(shared.step) / steps)
        shared.load(network)
        segment, infos = play()
        with shared.lock:
            for into_segment, info in infos:
                messages.put((int(shared.step) + into_segment, info))
        if not settings.synchronous:
            with shared.lock:
                network.trunk.normaliser.observe(segment["observation"]["vector"])
        else:
            shared.seen[rank] = segment["observation"]["vector"]
            shared.barrier.wait()
            if rank == 0:
                network.trunk.normaliser.observe(shared.seen.flatten(0, 1))
            shared.barrier.wait()
        network.zero_grad()
        segment_loss(network, segment, settings).backward()
        clip_grad_norm_(network.parameters(), settings.largest_gradient)
        gradients = (parameter.grad for parameter in network.parameters())
        gradient = parameters_to_vector([part for part in gradients if part is not None])
        if not settings.synchronous:
            with shared.lock:
                shared.apply(gradient, rate, settings)
                shared.step += settings.segment
        else:
            shared.gradients[rank] = gradient
            shared.barrier.wait()
            if rank == 0:
                shared.apply(shared.gradients.mean(dim=0), rate, settings)
                shared.step += settings.segment * settings.workers
            shared.barrier.wait()
    env.close()


def _end_with_the_trainer() -> None:
    """End this worker if the trainer has ended: a killed trainer cannot end it, and workers would wait forever."""
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    trainer.join()
    os._exit(1)


def _player(
    env: gymnasium.Env[dict[str, np.ndarray], np.ndarray],
    settings: A3cSettings,
    network: ActorCritic,
    seeds: Iterator[int],
) -> Callable[[], tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]]:
    """Return a function that plays the next segment and returns its arrays and the finished episodes."""
    observation, _ = env.reset(seed=next(seeds))

    def play() -> tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]:
        nonlocal observation
        observations, actions, rewards, ended, after, infos = [], [], [], [], {}, []
        for index in range(settings.segment):
            observations.append(observation)
            action = network.sample(batch_of_one(observation))[0].numpy()
            observation, reward, terminated, truncated, info = env.step(action.clip(-1, 1))
            actions.append(action)
            rewards.append(settings.reward_scale * float(reward))
            ended.append(terminated or truncated)
            if not terminated and (truncated or index == settings.segment - 1):
                after[index] = batch_of_one(observation)
            if ended[-1]:
                infos.append((index + 1, {"episode": info["episode"], "success": bool(info.get("success", False))}))
                observation, _ = env.reset(seed=next(seeds))
        segment = {
            "observation": {
                name: torch.from_numpy(np.stack([one[name] for one in observations])) for name in observations[0]
            },
            "action": torch.from_numpy(np.stack(actions)),
            "reward": torch.tensor(rewards),
            "ended": torch.tensor(ended),
            "after": after,
        }
        return segment, infos

    return play
