"""How numbers, times and hashes are said to people."""

import math
from collections.abc import Iterable

FALSE_ALARMS = 0.01
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
MEANS = {
    "update": "change of the model's parameters in a round",
    "evaluated": "counts and sums of held-out patients, after disclosure control",
    "calibrated": "sums for the calibration of the final model",
    "validated": "mean loss on patients held out to decide when to stop, rounded",
    "measured": "sums over training patients, for a common scale",
    "consent": "the decision on a study",
    "refusal": "a refusal",
}


def size(amount: int) -> str:
    """`312 bytes`, `4.0 KiB`."""
    value, unit = float(amount), 0
    while value >= 1024 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{amount} bytes" if unit == 0 else f"{value:.1f} {UNITS[unit]}"


def day(at: str) -> str:
    """A time as people read it: `2026-11-22 14:03 UTC`."""
    return f"{at[:10]} {at[11:16]} UTC" if len(at) >= 16 else at


def second(at: str) -> str:
    """The same to the second."""
    return f"{at[:10]} {at[11:19]} UTC"


def count(number: int, one: str, many: str = "") -> str:
    """`1 flag`, `2 flags`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(words: Iterable[str]) -> str:
    """`a, b and c`."""
    *first, last = list(words) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def epsilon(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "unlimited"


def found(epsilon: float, delta: float, false_alarms: float = FALSE_ALARMS) -> float:
    """The most members that any attack finds at so many false alarms, as shares.

    Kairouz, Oh, Viswanath 2015, Theorem 2.1: FPR + e^epsilon FNR and e^epsilon FPR + FNR are both
    at least 1 - delta.
    """
    if epsilon > 700:
        return 1.0
    low = math.exp(epsilon) * false_alarms + delta
    high = 1 - math.exp(-epsilon) * (1 - delta - false_alarms)
    return min(1.0, max(0.0, min(low, high)))


IN_WORDS = "an attacker who accepts 1% false alarms finds a patient who is in the data in at most "


def share_found(share: float) -> str:
    """`5.4%`: how often at most an attacker is right; rounded up."""
    percent = math.ceil(round(1000 * share, 6)) / 10
    return "100%" if percent > 99 else f"{percent:.1f}%"


def numbers(rounds: Iterable[int]) -> str:
    """Round numbers as people say them: `1 to 3, 7`."""
    runs: list[list[int]] = []
    for number in sorted(set(rounds)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def short(digest: str) -> str:
    """The first digits of a hash, for people; the whole is in the CSV."""
    return digest.removeprefix("sha256:")[:12]
