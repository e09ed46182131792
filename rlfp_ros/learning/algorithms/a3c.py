"""Asynchronous advantage actor-critic, and A2C, its synchronous form: Mnih et al. 2016, https://arxiv.org/abs/1602.01783.

Each worker is a process with an environment of its own. It takes the shared weights, plays a few steps, and computes
the gradient of that piece. A3C: it applies the gradient at once to the shared weights, whatever the others have done
meanwhile. A2C: all wait for each other and their mean gradient is applied, which gives the same result every time.
Weights are one shared vector, and so are RMSprop's statistics (the paper's "shared RMSProp", equations S2 and S3). A
lock holds each short application together; the paper goes without.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier, Lock
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from rlfp_ros.learning.algorithms.environments import EnvironmentMaker, episode_seed, shapes
from rlfp_ros.learning.algorithms.networks import ActorCritic, batch_of_one
from rlfp_ros.learning.runs.training_log import TrainingLog


@dataclass(frozen=True)
class A3cSettings:
    """Hyperparameters."""

    workers: int = 2  # processes
    synchronous: bool = False  # A2C
    hidden: int = 128  # units in each of two layers
    learning_rate: float = 7e-4  # falls linearly to zero
    piece: int = 16  # environment steps from which one gradient is computed
    discount: float = 0.96  # an environment step; 0.8 s of foresight at 30 Hz
    value_weight: float = 0.5  # of the value's squared error
    entropy_weight: float = 0.0  # of the entropy bonus
    # Norm to which gradients are cut, all parameters' together. Of large returns the value's gradient crowds out the
    # policy's; when it has fallen, RMSprop's mean square has not yet grown, and the policy's steps are far too long.
    # With returns of the order of 1 (`reward_scale`) that does not happen.
    largest_gradient: float = 0.5
    decay: float = 0.99  # of RMSprop's mean square
    smallest: float = 1e-5  # added to that mean square
    initial_log_std: float = -0.5  # of the actions
    reward_scale: float = 0.1  # rewards are multiplied by this before anything learns from them


def n_step_returns(reward: Tensor, ended: Tensor, after: Tensor, discount: float) -> Tensor:
    """Returns [T] of a piece: rewards up to its end or its episode's, then the value there.

    `after` [T] is the value of what followed step t, 0 after a terminal one; it counts where an episode ended and at
    the piece's end.
    """
    returns = torch.zeros_like(reward)
    following = float(after[-1])
    for step in reversed(range(len(reward))):
        if ended[step]:
            following = float(after[step])
        following = float(reward[step]) + discount * following
        returns[step] = following
    return returns


def piece_loss(network: ActorCritic, piece: dict[str, Any], settings: A3cSettings) -> Tensor:
    """Policy gradient with the n-step advantage, the value's squared error and the entropy, of one piece."""
    # One pass for the piece and what came after its steps.
    steps = len(piece["reward"])
    policy, value = network.evaluate(piece["observation"])
    after = torch.zeros(steps)
    if piece["after"]:
        following = {name: torch.cat([seen[name] for seen in piece["after"].values()]) for name in piece["observation"]}
        with torch.no_grad():
            after[list(piece["after"])] = network.evaluate(following)[1]
    wanted = n_step_returns(piece["reward"], piece["ended"], after, settings.discount)
    advantage = wanted - value
    return (
        -(policy.log_prob(piece["action"]) * advantage.detach()).mean()
        + settings.value_weight * advantage.square().mean()
        - settings.entropy_weight * policy.entropy().mean()
    )


class Shared:
    """What the workers share: weights, statistics and the count of steps, in shared memory. Travels to processes."""

    def __init__(self, network: ActorCritic, settings: A3cSettings, context: Any) -> None:
        self.weights = parameters_to_vector(network.parameters()).detach().clone().share_memory_()
        self.square = torch.zeros_like(self.weights).share_memory_()
        self.gradients = torch.zeros(settings.workers, len(self.weights)).share_memory_()
        normaliser = network.trunk.normaliser
        size = len(normaliser.mean)
        self.seen = torch.zeros(settings.workers, settings.piece, size).share_memory_()
        self.statistics = {name: value.clone().share_memory_() for name, value in normaliser.state_dict().items()}
        self.step = torch.zeros(1, dtype=torch.int64).share_memory_()
        self.lock: Lock = context.Lock()
        self.barrier: Barrier = context.Barrier(settings.workers)

    def apply(self, gradient: Tensor, rate: float, settings: A3cSettings) -> None:
        """One step of shared RMSProp."""
        self.square.mul_(settings.decay).addcmul_(gradient, gradient, value=1 - settings.decay)
        self.weights.addcdiv_(gradient, (self.square + settings.smallest).sqrt(), value=-rate)

    def load(self, network: ActorCritic) -> None:
        """Bring a worker's own network up to date. The normaliser shares its memory and always is."""
        vector_to_parameters(self.weights.clone(), network.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a checkpoint needs."""
        return {"weights": self.weights.clone(), "square": self.square.clone()} | {
            name: value.clone() for name, value in self.statistics.items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self.weights.copy_(state["weights"])
        self.square.copy_(state["square"])
        for name, value in self.statistics.items():
            value.copy_(state[name])


def train(make_env: EnvironmentMaker, settings: A3cSettings, steps: int, seed: int, log: TrainingLog) -> ActorCritic:
    """Learn for `steps` environment steps, all workers' together. Call it under `if __name__ == "__main__"` in scripts:
    the workers are not forks of this process."""
    torch.manual_seed(seed)
    env = make_env()
    space, action_size = shapes(env)
    env.close()
    network = ActorCritic(space, action_size, settings.hidden, settings.initial_log_std)
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is then imported once, not by every worker
    shared = Shared(network, settings, context)
    if log.resumed:
        shared.load_state_dict(log.resumed["shared"])
        shared.step.fill_(int(log.resumed["step"]))
    messages: multiprocessing.Queue[tuple[int, dict[str, Any]]] = context.Queue()
    arguments = (make_env, settings, steps, seed, shared, messages)
    workers = [context.Process(target=_work, args=(rank, *arguments), daemon=True) for rank in range(settings.workers)]
    for worker in workers:
        worker.start()
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
        for worker in workers:
            worker.terminate()
            worker.join()
    shared.load(network)
    network.trunk.normaliser.load_state_dict(shared.statistics)
    log.checkpoint(int(shared.step), lambda: {"shared": shared.state_dict()}, last=True)
    return network


def _work(
    rank: int, make_env: EnvironmentMaker, settings: A3cSettings, steps: int, seed: int, shared: Shared, messages: Any
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches us too; the trainer ends us
    threading.Thread(target=_end_with_the_trainer, daemon=True).start()
    torch.set_num_threads(1)
    first = int(shared.step)
    torch.manual_seed(seed * 1_000 + first + rank)
    env = make_env()
    space, action_size = shapes(env)
    network = ActorCritic(space, action_size, settings.hidden, settings.initial_log_std)
    for name in shared.statistics:
        setattr(network.trunk.normaliser, name, shared.statistics[name])
    play = _player(env, settings, network, episode_seed(seed, first, rank))
    if settings.synchronous:
        shared.barrier.wait()  # nobody counts before all have read where the count stands
    while int(shared.step) < steps:
        rate = settings.learning_rate * max(0.0, 1 - int(shared.step) / steps)
        shared.load(network)
        piece, infos = play()
        with shared.lock:
            for into_piece, info in infos:
                messages.put((int(shared.step) + into_piece, info))
        if not settings.synchronous:
            with shared.lock:
                network.trunk.normaliser.observe(piece["observation"]["vector"])
        else:
            shared.seen[rank] = piece["observation"]["vector"]
            shared.barrier.wait()
            if rank == 0:
                network.trunk.normaliser.observe(shared.seen.flatten(0, 1))
            shared.barrier.wait()
        network.zero_grad()
        piece_loss(network, piece, settings).backward()
        clip_grad_norm_(network.parameters(), settings.largest_gradient)
        gradients = (parameter.grad for parameter in network.parameters())
        gradient = parameters_to_vector([part for part in gradients if part is not None])
        if not settings.synchronous:
            with shared.lock:
                shared.apply(gradient, rate, settings)
                shared.step += settings.piece
        else:
            shared.gradients[rank] = gradient
            shared.barrier.wait()
            if rank == 0:
                shared.apply(shared.gradients.mean(dim=0), rate, settings)
                shared.step += settings.piece * settings.workers
            shared.barrier.wait()
    env.close()


def _end_with_the_trainer() -> None:
    """A trainer that was killed cannot end its workers, and they would wait for each other for ever."""
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    trainer.join()
    os._exit(1)


def _player(
    env: gymnasium.Env[dict[str, np.ndarray], np.ndarray], settings: A3cSettings, network: ActorCritic, first_seed: int
) -> Callable[[], tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]]:
    """A function that plays the next piece: its arrays, and the episodes that ended in it."""
    observation, _ = env.reset(seed=first_seed)

    def play() -> tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]:
        nonlocal observation
        seen, actions, rewards, ended, after, infos = [], [], [], [], {}, []
        for index in range(settings.piece):
            seen.append(observation)
            action = network.sample(batch_of_one(observation))[0].numpy()
            observation, reward, terminated, truncated, info = env.step(action.clip(-1, 1))
            actions.append(action)
            rewards.append(settings.reward_scale * float(reward))
            ended.append(terminated or truncated)
            if not terminated and (truncated or index == settings.piece - 1):
                after[index] = batch_of_one(observation)
            if ended[-1]:
                infos.append((index + 1, {"episode": info["episode"], "success": bool(info.get("success", False))}))
                observation, _ = env.reset()
        piece = {
            "observation": {name: torch.from_numpy(np.stack([one[name] for one in seen])) for name in seen[0]},
            "action": torch.from_numpy(np.stack(actions)), "reward": torch.tensor(rewards),
            "ended": torch.tensor(ended), "after": after,
        }  # fmt: skip
        return piece, infos

    return play
