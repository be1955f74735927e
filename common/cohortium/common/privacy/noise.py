"""Gaussian noise and coins that nobody can predict or undo.

AES-256-CTR keystream under a key from the operating system, 53-bit uniforms, Box-Muller in
float64. Each value is the sum of four independent draws, halved, which hides the gaps between
floating-point numbers from an attacker (Holohan & Braghin 2021, Section 5.1, n = 2); it becomes
float32 last. There is no seed: noise that can be repeated can be subtracted.
"""

import math
import os

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

DRAWS = 4
BLOCK = 16384  # values at a time: what is worked on stays in the processor's cache


class NoiseSource:
    """One keystream, used once from front to back. A forked process gets its own key."""

    def __init__(self) -> None:
        self._zeros = bytes(8 * BLOCK)
        self._rekey()

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Independent uniforms on [0, 1), multiples of 2^-53, shape (n,)."""
        values = np.empty(n)
        for start in range(0, n, BLOCK):
            part = values[start : start + BLOCK]
            np.multiply(self._words(len(part)) >> np.uint64(11), 2.0**-53, out=part)
        return values

    def gaussian(self, shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
        """Independent N(0, std^2) values; the largest possible is about 17 std."""
        values = np.empty(math.prod(shape), np.float32)
        for start in range(0, len(values), BLOCK):
            part = values[start : start + BLOCK]
            pairs = -(-len(part) // 2)
            total = self.normals(pairs)
            for _ in range(DRAWS - 1):
                total += self.normals(pairs)
            part[:] = total[: len(part)] * (std / math.sqrt(DRAWS))
        return values.reshape(shape)

    def normals(self, pairs: int) -> NDArray[np.float64]:
        """2 x pairs standard normals, one draw each: cosines first, then the sines (Box-Muller)."""
        uniforms = self.uniform(2 * pairs)
        radius, angle = uniforms[:pairs], uniforms[pairs:]
        np.subtract(1.0, radius, out=radius)  # (0, 1]: its logarithm is finite
        np.log(radius, out=radius)
        radius *= -2.0
        np.sqrt(radius, out=radius)
        angle *= 2 * math.pi
        values = np.empty(2 * pairs)
        # torch: numpy's float64 sine takes three times as long
        torch.cos(torch.from_numpy(angle), out=torch.from_numpy(values[:pairs]))
        torch.sin(torch.from_numpy(angle), out=torch.from_numpy(values[pairs:]))
        values[:pairs] *= radius
        values[pairs:] *= radius
        return values

    def _words(self, n: int) -> NDArray[np.uint64]:
        if self._process != os.getpid():
            self._rekey()
        return np.frombuffer(self._keystream.update(self._zeros[: 8 * n]), np.uint64)

    def _rekey(self) -> None:
        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16)))
        self._keystream: CipherContext = cipher.encryptor()
        self._process = os.getpid()


def gaussian(shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
    """Independent N(0, std^2) values from a source of their own."""
    return NoiseSource().gaussian(shape, std)


def poisson_sample(n: int, rate: float, source: NoiseSource) -> NDArray[np.int64]:
    """Ascending indices below n, each in by its own coin of probability `rate`."""
    return np.flatnonzero(source.uniform(n) < rate).astype(np.int64, copy=False)
