"""An actor with memory, for what one picture does not show: a gated recurrent unit (Cho et al. 2014,
https://arxiv.org/abs/1406.1078) beside the features.

It learns from sequences of the replay buffer (Hausknecht and Stone 2015, https://arxiv.org/abs/1507.06527): the memory
starts from zeros, some steps warm it up without being learnt from (burn-in, Kapturowski et al. 2019, R2D2,
https://openreview.net/forum?id=r1lyTjAqYX), and gradients run back through the steps after. Critics need none of it:
they see the simulator's whole state. Exported, the memory is the policy's `state` and `next_state`; zeros are the start
of an episode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlfp_ros.learning.algorithms.networks import layers
from rlfp_ros.learning.recipes.privileged_sac import Actor


class RecurrentActor(Actor):
    """As `Actor`, with a state [B, S] that goes from step to step. The layers see observation and memory."""

    def __init__(
        self, observation_size: int, points: tuple[int, ...], action_size: int, hidden: int, memory: int
    ) -> None:
        super().__init__(observation_size, points, action_size, hidden)
        self.state_size = memory
        self.observation_size = observation_size
        inputs = len(self.normaliser.mean)
        self.cell = nn.GRUCell(inputs, memory)
        self.layers = layers(inputs + memory, hidden, 2 * action_size)

    def join(self, observation: Tensor, state: Tensor) -> Tensor:
        return torch.cat([observation, state], dim=-1)

    def forward(self, joined: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, each [B, A], of observations with the state before them [B, O + S]."""
        mean, log_std, _ = self.step(*joined.split([self.observation_size, self.state_size], dim=-1))
        return mean, log_std

    def step(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs = self.normaliser(self.expand(observation))
        state = self.cell(inputs, state)
        return *self.spread(torch.cat([inputs, state], dim=-1)), state

    def remember(self, observation: Tensor, state: Tensor) -> Tensor:
        remembered: Tensor = self.cell(self.normaliser(self.expand(observation)), state)
        return remembered

    def unroll(self, observation: Tensor, continues: Tensor, burn_in: int) -> tuple[Tensor, Tensor]:
        """The states before and after each step [B, L, S] of observations [B, L, O].

        `continues` [B, L] bool: whether a step goes on with the episode of the step before; else its memory is empty.
        Nothing is learnt through the first `burn_in` steps.
        """
        state = observation.new_zeros(len(observation), self.state_size)
        before, after = [], []
        for place in range(observation.shape[1]):
            if place == burn_in:
                state = state.detach()
            state = state * continues[:, place, None]
            before.append(state)
            state = self.remember(observation[:, place], state)
            after.append(state)
        return torch.stack(before, dim=1), torch.stack(after, dim=1)


def remembering(
    actor: RecurrentActor, batch: dict[str, Tensor], seen: Tensor, length: int, burn_in: int
) -> dict[str, Tensor]:
    """What the actor learns from in sequences of `length` consecutive steps, `batch` [B L, ...].

    `seen` [B L, 2, O]: observation and next observation as the actor is to see them. They come back with what it
    remembers joined, and everything without the burn-in: [B (L - burn_in), ...], each row as good as any transition.
    """
    rows = {name: values.unflatten(0, (-1, length)) for name, values in batch.items()}
    same = (rows["next_observation"][:, :-1] == rows["observation"][:, 1:]).all(dim=-1)
    continues = torch.cat([torch.zeros_like(same[:, :1]), same], dim=1)
    observation, following = seen.unflatten(0, (-1, length)).unbind(dim=2)
    before, after = actor.unroll(observation, continues, burn_in)
    rows |= {"observation": actor.join(observation, before), "next_observation": actor.join(following, after)}
    return {name: values[:, burn_in:].flatten(0, 1) for name, values in rows.items()}
