"""Engines that are broken on purpose: each is the real one but for one mistake."""

import os
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from cohortium.client.training import full_batch, private
from cohortium.client.training.private import OwnNoise
from cohortium.common.privacy.noise import NoiseSource

Break = Callable[[pytest.MonkeyPatch], None]


class Scaled(OwnNoise):
    """Adds noise of another deviation than is accounted."""

    factor = 1.0
    noise_multiplier: float

    def add_noise(self) -> None:
        accounted = self.noise_multiplier
        self.noise_multiplier = accounted * self.factor
        super().add_noise()
        self.noise_multiplier = accounted


class Halved(Scaled):
    factor = 0.5


class Tenth(Scaled):
    """Noise for a mean is added to a sum: too little by the batch, here of ten."""

    factor = 0.1


class Hundredth(Scaled):
    factor = 0.01


class SlightlyLess(Scaled):
    factor = 0.97


class TenthLess(Scaled):
    factor = 0.9


class ClippedLater(OwnNoise):
    """Clips at more than the clip norm that noise is measured in."""

    def clip_and_accumulate(self) -> None:
        super().clip_and_accumulate()
        for parameter in self.params:
            parameter.summed_grad *= 1.2


class Truncated(OwnNoise):
    """Noise ends below four deviations: whoever is beyond is certain."""

    noise_multiplier: float

    def add_noise(self) -> None:
        super().add_noise()
        most = 3.9 * self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = parameter.grad - parameter.summed_grad
            parameter.grad = parameter.summed_grad + noise.clamp(-most, most)


class NoClipping(OwnNoise):
    def clip_and_accumulate(self) -> None:
        for parameter in self.params:
            parameter.summed_grad = parameter.grad_sample.sum(dim=0)


class ClippedByLayer(OwnNoise):
    """Each layer gets the whole clip norm: a patient adds its root of the layers' number."""

    def clip_and_accumulate(self) -> None:
        for parameter in self.params:
            grads = torch.nan_to_num(parameter.grad_sample, 0.0, 0.0, 0.0)
            norms = torch.linalg.vector_norm(grads.flatten(1), dim=1)
            factors = self.max_grad_norm / norms.clamp(min=self.max_grad_norm)
            parameter.summed_grad = torch.einsum("i,i...->...", factors, grads)


class NotANumber(OwnNoise):
    """Clips as Opacus alone does: a gradient that overflows spoils the sum, and tells."""

    def clip_and_accumulate(self) -> None:
        super(OwnNoise, self).clip_and_accumulate()


class Shuffled:
    """Passes over the patients in an order drawn anew, cut into batches of equal size."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(3)
        self._left: list[int] = []
        self._patients = 0

    def __call__(self, n: int, rate: float, source: NoiseSource) -> NDArray[np.int64]:
        if not self._left or n != self._patients:
            self._patients, self._left = n, self._rng.permutation(n).tolist()
        size = round(n * rate)
        batch, self._left = self._left[:size], self._left[size:]
        return np.array(sorted(batch), np.int64)


def rotating(n: int, rate: float, source: NoiseSource) -> NDArray[np.int64]:
    """Sizes as of coins, but always the same patients first."""
    return np.arange(int((source.uniform(n) < rate).sum()), dtype=np.int64)


def _same_key(source: NoiseSource) -> None:
    source._keystream = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
    source._process = os.getpid()


def optimiser(kind: type[OwnNoise]) -> Break:
    return lambda patch: patch.setattr(private, "OwnNoise", kind)


def sampler(sample: Callable[[int, float, NoiseSource], NDArray[np.int64]]) -> Break:
    return lambda patch: patch.setattr(private, "poisson_sample", sample)


def seeded(patch: pytest.MonkeyPatch) -> None:
    """Every source of noise in this process begins with the same key."""
    patch.setattr(NoiseSource, "_rekey", _same_key)


def repeating(patch: pytest.MonkeyPatch) -> None:
    """One source gives the same noise again and again."""
    gaussian = NoiseSource.gaussian
    first: WeakKeyDictionary[NoiseSource, NDArray[np.float32]] = WeakKeyDictionary()

    def again(self: NoiseSource, shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
        if self not in first:
            first[self] = gaussian(self, shape, std)
        return first[self]

    patch.setattr(NoiseSource, "gaussian", again)


def weak_source(module: str, factor: float) -> Break:
    """Where a module of the self-test makes sources of noise, they give too little or much."""

    class Weak(NoiseSource):
        def gaussian(self, shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
            return super().gaussian(shape, factor * std)

    where = f"cohortium.client.selftest.{module}.NoiseSource"
    return lambda patch: patch.setattr(where, Weak)


def full_batch_unclipped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(full_batch, "_clipped", lambda flat, clip_norm: flat.sum(dim=0))
