"""Pink noise, which explores farther than independent noise of the same size.

References
----------
Eberhard, Hollenstein, Pinneri and Martius 2023, Pink noise is all you need,
https://openreview.net/forum?id=hQ9V5QN27eS.
"""

from __future__ import annotations

import numpy as np


def pink_noise(rng: np.random.Generator, length: int, size: int) -> np.ndarray:
    """Draw `size` independent sequences of `length` values, [length, size].

    Each has a standard deviation of 1, and its power falls with the frequency.
    """
    frequencies = np.fft.rfftfreq(length)
    frequencies[0] = frequencies[1]
    shape = (size, len(frequencies))
    spectrum = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(frequencies)
    noise = np.fft.irfft(spectrum, length, axis=1)
    scaled: np.ndarray = (noise / noise.std(axis=1, keepdims=True)).T
    return scaled
