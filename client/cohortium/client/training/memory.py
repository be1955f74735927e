"""How many patients go through a model at a time: as many as memory holds, which changes nothing.

The batch that a step takes, and what is accounted for it, are the study's. How it is cut into
parts is the machine's affair: every part's gradients are added up before the step.
"""

import gc
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

MOST_ROWS = 65_536
OF_FREE = 0.4  # what a part may take of the memory that is free; an estimate is no promise
COPIES = 3  # of one patient's gradient at a time: itself, made finite, and scaled
BYTES = 4  # of a float32
ENOUGH = 2**40  # where a machine does not say how much there is


@dataclass
class Physical:
    """Walks through a batch `rows` patients at a time; half as many when memory runs out."""

    rows: int

    def over(self, batch: Tensor, work: Callable[[Tensor], None]) -> None:
        """Do `work` on part after part of `batch`, once on an empty one.

        Args:
            batch: (n, ...), any tensor whose first dimension is patients.
            work: has changed nothing when it raises.

        Raises:
            RuntimeError, MemoryError: one patient alone is too much, or what `work` raises
                for another reason.
        """
        start = 0
        while start == 0 or start < len(batch):
            part = batch[start : start + self.rows]
            if _done(work, part):
                start += max(1, len(part))
            else:
                self.rows = max(1, len(part) // 2)


def _done(work: Callable[[Tensor], None], part: Tensor) -> bool:
    """Whether there was memory enough; raises where there is not for one patient."""
    try:
        work(part)
        return True
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or len(part) <= 1:
            raise
    _give_back()  # not before the error, and with it all that it holds, is gone
    return False


def _give_back() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether a library says that there is no memory left, of the machine or of its device."""
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "can't allocate memory" in str(error)
        or "out of memory" in str(error)
    )


def fitting(module: nn.Module, example: Tensor, *, of_each: bool, device: torch.device) -> Physical:
    """As many rows as should fit: a power of two, so that little changes change nothing.

    Args:
        example: (n, f); of its first row, if any, the forward pass is measured.
        of_each: whether gradients of each patient are held at the same time.
    """
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    needed = _forward_bytes(module, example[:1]) + (COPIES * trained * BYTES if of_each else 0)
    rows = int(OF_FREE * free_bytes(device)) // max(1, needed)
    rows = max(1, min(rows, MOST_ROWS))
    return Physical(1 << (rows.bit_length() - 1))


def _forward_bytes(module: nn.Module, row: Tensor) -> int:
    """What one patient's forward pass leaves in memory for the backward pass, twice for its own."""
    held = {p.data_ptr() for p in module.parameters()}
    total = row.numel() * row.element_size()

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        if tensor.data_ptr() not in held:
            total += tensor.numel() * tensor.element_size()
        return tensor

    training = module.training
    module.eval()  # draws nothing
    try:
        if len(row):
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                module(row)
    finally:
        module.train(training)
    return 2 * total


def free_bytes(device: torch.device) -> int:
    """Of the device; on a processor of what this process may still take, and the machine has."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    if device.type == "mps":
        most = torch.mps.recommended_max_memory()
        return max(0, int(most - torch.mps.driver_allocated_memory()))
    return max(0, min(_allowed_bytes(), _kib("/proc/meminfo", "MemAvailable", ENOUGH)))


def _allowed_bytes() -> int:
    """What RLIMIT_DATA leaves (`isolation.py`)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY:
        return ENOUGH
    return limit - _kib("/proc/self/status", "VmData", 0)


def _kib(path: str, key: str, otherwise: int) -> int:
    """A number of KiB from a file of Linux's, in bytes."""
    try:
        lines = Path(path).read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
    except (OSError, StopIteration):
        return otherwise
