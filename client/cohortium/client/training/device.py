"""Where to compute."""

from dataclasses import dataclass
from typing import Literal

import torch

from cohortium.common.errors import UsageError

Wanted = Literal["auto", "cuda", "mps", "cpu"]


@dataclass(frozen=True)
class Device:
    """A torch device and one line for people that says which and why."""

    torch: torch.device
    description: str


def choose(wanted: Wanted = "auto") -> Device:
    """Take the wanted device; automatically CUDA before MPS before the CPU.

    Raises:
        UsageError: this machine has no such device.
    """
    available = _available()
    if wanted == "auto":
        name = next(iter(available))
        return Device(torch.device(name), f"{available[name]}, chosen automatically")
    if wanted not in available:
        raise UsageError(
            f'device: "{wanted}" was asked for, but torch finds only {", ".join(available)} here; '
            'change the site\'s setting to one of these or to "auto"'
        )
    return Device(torch.device(wanted), f"{available[wanted]}, as configured")


def _available() -> dict[str, str]:
    """Name and description of each usable device, best first."""
    found = {}
    if torch.cuda.is_available():
        found["cuda"] = f"GPU {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    found["cpu"] = f"CPU, {torch.get_num_threads()} threads"
    return found


def use_threads(threads: int) -> None:
    """How many threads torch may use for one operation."""
    torch.set_num_threads(threads)


def of_rank(device: torch.device, rank: int) -> torch.device:
    """Where one of several processes computes: on a GPU of its own where there are enough."""
    if device.type != "cuda":
        return device
    return torch.device("cuda", rank % torch.cuda.device_count())
