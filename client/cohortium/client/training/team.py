"""Several processes of one site that train one model together (torch.distributed).

Every process runs the same round on the same patients: it takes its share of each batch, all add
their gradients up, and every one takes the same step. With privacy the first draws each batch and
the noise: a patient is clipped once, in one process, and noise is added once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Team:
    """Which process of how many this is; alone, everything below does nothing.

    sharded: each holds a part of the model only (`sharded.py`).
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @property
    def first(self) -> bool:
        """Whether this process is the one that draws, and answers."""
        return self.rank == 0

    def share(self, rows: "Tensor") -> "Tensor":
        """This process' part of rows (n, ...): each is in exactly one process' part."""
        return rows[self.rank :: self.size]

    def add_up(self, tensors: "Sequence[Tensor]") -> None:
        """Put the sum over all processes in each tensor's place; same shapes everywhere."""
        if self.size == 1 or not tensors:
            return
        from torch import distributed  # slow to import, and the daemon knows this class

        whole = _together(tensors)
        distributed.all_reduce(whole)
        _put_back(whole, tensors)

    def hear_first(self, tensors: "Sequence[Tensor]") -> None:
        """Put what the first process holds in each tensor's place."""
        if self.size == 1 or not tensors:
            return
        from torch import distributed

        whole = _together(tensors)
        distributed.broadcast(whole, src=0)
        _put_back(whole, tensors)

    def batch_of_first(self, batch: NDArray[np.int64], device: "torch.device") -> "Tensor":
        """The batch that the first process drew, whatever this one did; int64 (n,)."""
        import torch
        from torch import distributed

        if self.size == 1:
            return torch.from_numpy(batch).to(device)
        drawn = torch.from_numpy(batch).to(_place(device))
        length = torch.tensor([len(batch)], device=drawn.device)
        distributed.broadcast(length, src=0)
        if not self.first:
            drawn = torch.empty(int(length), dtype=torch.int64, device=drawn.device)
        distributed.broadcast(drawn, src=0)
        return drawn.to(device)


ALONE = Team()


def _together(tensors: "Sequence[Tensor]") -> "Tensor":
    import torch

    whole = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return whole.to(_place(whole.device))


def _place(device: "torch.device") -> "torch.device":
    """Where processes talk of what lies on a device: gloo knows the processor's memory best."""
    import torch
    from torch import distributed

    return torch.device("cpu") if distributed.get_backend() == "gloo" else device


def _put_back(whole: "Tensor", tensors: "Sequence[Tensor]") -> None:
    import torch

    sizes = [tensor.numel() for tensor in tensors]
    for tensor, part in zip(tensors, torch.split(whole, sizes), strict=True):
        tensor.copy_(part.reshape(tensor.shape))
