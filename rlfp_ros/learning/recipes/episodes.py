"""Whole episodes that a policy with memory learns from."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from rlfp_ros.learning.recipes.collector import Experience


@dataclass(frozen=True)
class Lesson:
    """An episode of L decisions, or a part of one. Observations include the one after the last decision."""

    vector: Tensor  # [L + 1, V]
    privileged: Tensor  # [L + 1, P]
    action: Tensor  # [L, A], as it was played
    expert: Tensor  # [L, A], what the expert would have done
    reward: Tensor  # [L]
    terminated: Tensor  # [L], 1 if the decision ended the episode by success

    @classmethod
    def of(cls, experience: Experience, first: int, last: int) -> Self:
        """Return the decisions from `first` to before `last`."""
        assert experience.teacher is not None

        def seen(name: str) -> Tensor:
            before, after = experience.observation[name], experience.next_observation[name]
            return torch.from_numpy(np.concatenate([before[first:last], after[last - 1 : last]]))

        def rows(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values[first:last])

        return cls(
            seen("vector"),
            seen("privileged"),
            rows(experience.action),
            rows(experience.teacher),
            rows(experience.reward),
            rows(experience.terminated).float(),
        )

    @classmethod
    def joined(cls, parts: list[Lesson]) -> Self:
        """Return consecutive parts as one."""

        def seen(of: Callable[[Lesson], Tensor]) -> Tensor:
            return torch.cat([*(of(part)[:-1] for part in parts), of(parts[-1])[-1:]])

        def rows(of: Callable[[Lesson], Tensor]) -> Tensor:
            return torch.cat([of(part) for part in parts])

        return cls(
            seen(lambda part: part.vector),
            seen(lambda part: part.privileged),
            rows(lambda part: part.action),
            rows(lambda part: part.expert),
            rows(lambda part: part.reward),
            rows(lambda part: part.terminated),
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all fields, in their order."""
        return tuple(getattr(self, part.name) for part in dataclasses.fields(self))


@dataclass
class PlayedEpisodes:
    """Episodes of all collectors. Those that continue in the next round are not drawn yet."""

    finished: list[Lesson] = field(default_factory=list)
    unfinished: dict[int, list[Lesson]] = field(default_factory=dict)  # by collector

    def add(self, collector: int, experience: Experience) -> None:
        """Add a round of one collector."""
        cuts = [0, *experience.begins.nonzero()[0].tolist(), len(experience.begins)]
        for first, last in itertools.pairwise(cuts):
            parts = self.unfinished.setdefault(collector, [])
            if experience.begins[first : first + 1].any() and parts:
                self.finished.append(Lesson.joined(parts))
                parts.clear()
            if last > first:
                parts.append(Lesson.of(experience, first, last))

    def end(self) -> None:
        """Count unfinished episodes too, because nothing continues them."""
        self.finished += [Lesson.joined(parts) for parts in self.unfinished.values() if parts]
        self.unfinished.clear()

    def draw(self, count: int) -> tuple[Lesson, Tensor]:
        """Draw episodes, [count, L, ...], padded with zeros, and whether there is a decision, [count, L]."""
        picks = [self.finished[int(pick)] for pick in torch.randint(0, len(self.finished), (count,))]
        together = [
            nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
            for parts in zip(*(pick.tensors() for pick in picks), strict=True)
        ]
        there = nn.utils.rnn.pad_sequence([torch.ones(len(pick.reward)) for pick in picks], batch_first=True)
        return Lesson(*together), there
