"""Named parts of a flat vector."""

from __future__ import annotations

import torch
from torch import Tensor


class Layout:
    """The parts of a vector, by name, in order.

    Parameters
    ----------
    sizes
        Number of values of each part.
    """

    def __init__(self, **sizes: int) -> None:
        self._parts: dict[str, slice] = {}
        self.size = 0  # of the whole vector
        for name, size in sizes.items():
            self._parts[name] = slice(self.size, self.size + size)
            self.size += size

    def __getitem__(self, name: str) -> slice:
        """The place of a part, for the last dimension of an array or tensor."""
        return self._parts[name]

    def join(self, **parts: Tensor) -> Tensor:
        """Concatenate parts [B, size of the part] to vectors [B, size]; each part must be given once."""
        if set(parts) != set(self._parts):
            raise ValueError(f"parts are {', '.join(parts)}, expected {', '.join(self._parts)}")
        for name, place in self._parts.items():
            if parts[name].shape[-1] != place.stop - place.start:
                raise ValueError(f"{name} has {parts[name].shape[-1]} values, expected {place.stop - place.start}")
        return torch.cat([parts[name] for name in self._parts], dim=-1)
