"""Gaussian noise on whole numbers, drawn exactly: no floating point, hence no gap to look through.

Canonne, Kamath & Steinke 2020, "The Discrete Gaussian for Differential Privacy", Algorithms 1 to 3:
rejection from a discrete Laplace distribution by coins whose probabilities are exact. Everything is
made of `below(n)`, a uniform whole number from 0 to n - 1; by default the operating system's.
"""

import secrets
from collections.abc import Callable
from fractions import Fraction
from math import isqrt

import numpy as np
from numpy.typing import NDArray

Below = Callable[[int], int]


def draws(n: int, variance: Fraction, below: Below = secrets.randbelow) -> NDArray[np.int64]:
    """n independent draws, shape (n,), of x with probability proportional to exp(-x^2 / (2 v)).

    Args:
        variance: the parameter v > 0; the draws' own variance is at most that.
        below: only tests may be given one that can be repeated.
    """
    return np.array([_draw(variance, below) for _ in range(n)], np.int64)


def _draw(variance: Fraction, below: Below) -> int:
    """Algorithm 3. What a Laplace draw y of scale t is kept by is exp(-(|y| - v/t)^2 / (2 v))."""
    top, bottom = variance.numerator, variance.denominator
    scale = isqrt(top // bottom) + 1
    while True:
        y = _laplace(scale, below)
        off = abs(y) * scale * bottom - top
        if _coin(off * off, 2 * top * bottom * scale * scale, below):
            return y


def _laplace(scale: int, below: Below) -> int:
    """Algorithm 2 with s = 1: y with probability proportional to exp(-|y| / scale)."""
    while True:
        rest = below(scale)
        if not _coin(rest, scale, below):
            continue
        wholes = 0
        while _coin(1, 1, below):
            wholes += 1
        size, negative = rest + scale * wholes, below(2)
        if size or not negative:
            return -size if negative else size


def _coin(top: int, bottom: int, below: Below) -> bool:
    """Algorithm 1: True with probability exp(-top / bottom)."""
    while top > bottom:
        if not _at_most_one(1, 1, below):
            return False
        top -= bottom
    return _at_most_one(top, bottom, below)


def _at_most_one(top: int, bottom: int, below: Below) -> bool:
    """Where top / bottom is at most 1: the first k of a run of coins top / (bottom k) is odd."""
    k = 1
    while below(bottom * k) < top:
        k += 1
    return k % 2 == 1
