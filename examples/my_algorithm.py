"""The cross-entropy method, as an algorithm of your own: it searches the weights of a linear policy.

It plays one episode with each of a few random weight vectors, keeps the best, and searches closer to them.

./rlfp --plugin examples/my_algorithm.py train reach --algorithm cem --observation state --profile none

References: Rubinstein 1999, https://doi.org/10.1023/A:1010091220143.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rlfp_ros.learning.algorithms.algorithm import algorithm
from rlfp_ros.learning.algorithms.environments import EnvironmentMaker, episode_seeds, shapes
from rlfp_ros.learning.algorithms.networks import RunningNormaliser, TensorObservation, batch_of_one, vector_size
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.learning.runs.training_log import TrainingLog
from rlfp_ros.schema import ConfigurationError


class CemSettings(TrainingSettings):
    """Hyperparameters; `--set population=32` changes one."""

    population: int = Field(24, ge=2)  # episodes per generation
    elite: int = Field(6, ge=1)  # of them, the next generation is sampled around these
    spread: float = Field(0.5, gt=0)  # standard deviation of the first generation's weights


class LinearPolicy(nn.Module):
    """A linear map of the normalised observation, squashed into [-1, 1]."""

    def __init__(self, inputs: int, actions: int) -> None:
        super().__init__()
        self.normaliser = RunningNormaliser(inputs)
        self.linear = nn.Linear(inputs, actions)

    def forward(self, observation: TensorObservation) -> Tensor:
        """The action to deploy [B, A]."""
        return torch.tanh(self.linear(self.normaliser(observation["vector"])))


@algorithm("cem", CemSettings(), steps=100_000)
@torch.no_grad()
def train(make_env: EnvironmentMaker, settings: CemSettings, steps: int, seed: int, log: TrainingLog) -> LinearPolicy:
    """Learn for `steps` environment steps."""
    torch.manual_seed(seed)
    env = make_env()
    space, action_size = shapes(env)
    if "image" in space.spaces:
        raise ConfigurationError("cem does not learn from pixels; choose --observation features or state")
    policy = LinearPolicy(vector_size(space), action_size)
    mean = torch.zeros_like(parameters_to_vector(policy.parameters()))
    spread = torch.full_like(mean, settings.spread)
    step = 0
    if log.resumed:
        step, mean, spread = log.resumed["step"], log.resumed["mean"], log.resumed["spread"]
        policy.normaliser.load_state_dict(log.resumed["normaliser"])
    seeds = episode_seeds(seed, step)
    while step < steps:
        weights = mean + spread * torch.randn(settings.population, len(mean))
        returns, seen = torch.zeros(settings.population), []
        for index in range(settings.population):
            vector_to_parameters(weights[index], policy.parameters())
            observation, _ = env.reset(seed=next(seeds))
            ended = False
            while not ended:
                seen.append(torch.from_numpy(observation["vector"]))
                action = policy(batch_of_one(observation))[0].numpy()
                observation, reward, terminated, truncated, info = env.step(action)
                returns[index] += float(reward)
                ended, step = terminated or truncated, step + 1
            log.episode(step, info)
        policy.normaliser.observe(torch.stack(seen))
        best = weights[returns.topk(min(settings.elite, settings.population)).indices]
        mean, spread = best.mean(dim=0), best.std(dim=0, unbiased=False) + 0.02
        state = {"mean": mean, "spread": spread, "normaliser": policy.normaliser.state_dict()}
        log.checkpoint(step, lambda: state, last=step >= steps)  # noqa: B023 - called here
    env.close()
    vector_to_parameters(mean, policy.parameters())
    return policy
