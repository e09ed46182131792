"""Learning with memory: turns sequences of the replay buffer into transitions that include the actor's memory.

The memory is a gated recurrent unit (Cho et al. 2014, https://arxiv.org/abs/1406.1078) in the actor. It starts from
zeros at the start of a sequence (Hausknecht and Stone 2015, https://arxiv.org/abs/1507.06527). The first steps only
fill it (burn-in, Kapturowski et al. 2019, R2D2, https://openreview.net/forum?id=r1lyTjAqYX); gradients flow back
through the later ones. A deployed policy has the memory as `state` and `next_state`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlfp_ros.learning.algorithms.replay import SequenceBatch, TransitionBatch

MEMORY = "memory"  # part of an observation, [B, S]: the actor's memory before it


def unroll(
    remember: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, starts: Tensor, state: Tensor, burn_in: int
) -> Tensor:
    """Compute the memory before each step of a sequence, [N, L, S].

    Parameters
    ----------
    remember
        Computes the next memory [N, S] from the inputs [N, D] and the memory of a step.
    inputs
        Inputs of the memory, [N, L, D].
    starts
        Whether an episode starts with a step, [N, L]; the memory is then empty.
    state
        The memory before the first step, [N, S].
    burn_in
        Steps that only fill the memory; no gradient flows back through them.
    """
    before = []
    for step in range(inputs.shape[1]):
        if step == burn_in:
            state = state.detach()
        state = state * ~starts[:, step, None]
        before.append(state)
        state = remember(inputs[:, step], state)
    return torch.stack(before, dim=1)


def transitions(sequences: SequenceBatch, memory: Tensor, burn_in: int) -> TransitionBatch:
    """Return the transitions of `sequences` after the burn-in, each with the actor's memory before it.

    Parameters
    ----------
    sequences
        Runs of L + 1 frames.
    memory
        Memory before each frame, [N, L + 1, S].
    burn_in
        Steps at the start of each run that are not used for learning.
    """
    frames = sequences.observation | {MEMORY: memory}
    joined = sequences.joined[:, burn_in:]

    def steps(values: Tensor) -> Tensor:
        return values[:, burn_in:][joined]

    return TransitionBatch(
        {name: steps(values[:, :-1]) for name, values in frames.items()},
        steps(sequences.action),
        steps(sequences.reward),
        steps(sequences.discount),
        {name: steps(values[:, 1:]) for name, values in frames.items()},
        None if sequences.teacher is None else steps(sequences.teacher),
    )
