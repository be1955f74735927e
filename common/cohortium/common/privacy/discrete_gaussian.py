"""Whole-number noise for counts, exact: no floating-point number takes part in a draw.

Canonne, Kamath & Steinke 2020, The discrete Gaussian for differential privacy, algorithms 1 to 3,
with random bits of the operating system's. Noise of variance sigma^2 on counts that one patient
changes by a vector of length d is as private as continuous noise: zCDP of d^2 / (2 sigma^2)
(theorem 14 there), the same as a full-batch Gaussian with noise multiplier sigma / d.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cohortium.common.privacy.noise import NoiseSource

Below = Callable[[int], int]  # a uniform whole number from 0 below one that is given

FINEST = 2**20  # of a variance, which is rounded up to whole parts of so many


def discrete_gaussian(shape: tuple[int, ...], std: float, source: NoiseSource) -> NDArray[np.int64]:
    """Independent draws, P(x) proportional to exp(-x^2 / (2 std^2)); std above 0."""
    variance = Fraction(math.ceil(Fraction(std) ** 2 * FINEST), FINEST)
    draws = [_gaussian(variance, source.below) for _ in range(math.prod(shape))]
    return np.array(draws, np.int64).reshape(shape)


def _gaussian(variance: Fraction, below: Below) -> int:
    """Algorithm 3: a discrete Laplace draw of scale t, kept with the probability that is left."""
    t = math.isqrt(variance.numerator // variance.denominator) + 1
    while True:
        y = _laplace(t, below)
        if _accepts((abs(y) - variance / t) ** 2 / (2 * variance), below):
            return y


def _laplace(t: int, below: Below) -> int:
    """Algorithm 2 with s = 1: P(y) proportional to exp(-|y| / t)."""
    while True:
        u = below(t)
        if not _accepts(Fraction(u, t), below):
            continue
        v = 0
        while _accepts(Fraction(1), below):
            v += 1
        negative = below(2)
        magnitude = u + t * v
        if magnitude or not negative:
            return -magnitude if negative else magnitude


def _accepts(gamma: Fraction, below: Below) -> bool:
    """Algorithm 1: true with probability exp(-gamma), gamma 0 or more."""
    while gamma > 1:
        if not _accepts(Fraction(1), below):
            return False
        gamma -= 1
    k = 1
    while below(k * gamma.denominator) < gamma.numerator:
        k += 1
    return k % 2 == 1
