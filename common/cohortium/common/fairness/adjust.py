"""p values of many questions at once."""

from collections.abc import Sequence


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Adjusted for the chance of a single false alarm (Holm 1979), in the order given."""
    adjusted, reached, count = [0.0] * len(p), 0.0, len(p)
    for rank, place in enumerate(sorted(range(count), key=lambda i: p[i])):
        reached = max(reached, min(1.0, (count - rank) * p[place]))
        adjusted[place] = reached
    return tuple(adjusted)


def benjamini_hochberg(p: Sequence[float]) -> tuple[float, ...]:
    """Adjusted for the share of false alarms among all (Benjamini & Hochberg 1995)."""
    adjusted, reached, count = [0.0] * len(p), 1.0, len(p)
    for place in sorted(range(count), key=lambda i: p[i], reverse=True):
        reached = min(reached, len(p) / count * p[place])
        adjusted[place], count = reached, count - 1
    return tuple(adjusted)
