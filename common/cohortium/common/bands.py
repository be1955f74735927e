"""Public size bands: how many patients a site has, said coarsely enough to hide one of them."""

import math

EDGES = (1, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


def band(patients: int) -> tuple[int, int | None]:
    """The band [low, high) that holds a number of patients; the last has no upper end.

    Raises:
        ValueError: fewer than one patient.
    """
    if patients < 1:
        raise ValueError("a band needs at least one patient")
    low = max(edge for edge in EDGES if edge <= patients)
    higher = [edge for edge in EDGES if edge > patients]
    return low, higher[0] if higher else None


def text(patients: int) -> str:
    """As people read it: `100-199`, or `100000 or more`."""
    low, high = band(patients)
    return f"{low}-{high - 1}" if high else f"{low} or more"


def least(said: str) -> int:
    """The lower end of a band as `text` writes it; 0 for anything else."""
    return LEAST.get(said, 0)


def nominal(patients: int) -> int:
    """The public number that stands for every size in the band: the middle on a log scale."""
    low, high = band(patients)
    return round(math.sqrt(low * (high or 2 * low)))


LEAST = {text(edge): edge for edge in EDGES}
