"""The processes that train a study together with its training process.

They are started by it, confined as it is and in its group, so that the kill switch ends all; they
are told each round as it is, read the patients from the registered file themselves, and only
gradients pass between them, over a loopback interface that leads nowhere else. Each round's answer
is that of the first, which started them.
"""

import ctypes
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from cohortium.client.isolation import PR_SET_DUMPABLE, PR_SET_PDEATHSIG
from cohortium.client.jobs import Job, Setup, read_frame, write_frame
from cohortium.client.training.device import choose, of_rank
from cohortium.client.training.team import ALONE, Team
from cohortium.common.errors import RefusedError
from cohortium.common.messages import Vector, unpack

JOIN_S = 120.0  # until all have loaded their libraries; a round itself may take longer
ROUND = timedelta(days=1)  # a process that has ended is noticed by its connection


class Ranks:
    """The further processes of a training process; none where the site wants one."""

    def __init__(self, setup: Setup, device: torch.device) -> None:
        self._setup, self._device = setup, device
        self._others: list[subprocess.Popen[bytes]] = []

    def follow(self, job: Job, vector: Vector) -> Team:
        """Let the others do a round of training, too; who does it together.

        Raises:
            RefusedError: they could not be started.
        """
        if self._setup.processes == 1 or job.task != "train":
            return ALONE
        if not self._others:
            self._start()
        try:
            for process in self._others:
                assert process.stdin is not None
                write_frame(process.stdin, job, vector)
        except OSError:
            raise _failed() from None
        return Team(0, self._setup.processes, self._setup.sharded)

    def explain(self, error: Exception) -> Exception:
        """Why a round failed: another process that ended, or the error itself."""
        ended = any(process.poll() is not None for process in self._others)
        return _failed() if ended else error

    def end(self) -> None:
        """End the others; the next round starts new ones."""
        for process in self._others:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        self._others.clear()
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def _start(self) -> None:
        meeting = Path.cwd() / "ranks"
        meeting.unlink(missing_ok=True)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        command = [sys.executable, "-m", "cohortium.client.ranks", str(meeting)]
        for rank in range(1, self._setup.processes):
            process = subprocess.Popen(
                [*command, str(rank)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
            self._others.append(process)
            assert process.stdin is not None
            write_frame(process.stdin, self._setup)
        try:
            join(self._device, meeting, 0, self._setup.processes)
        except (RuntimeError, ValueError):
            self.end()
            raise _failed() from None


def _failed() -> RefusedError:
    return RefusedError(
        "site.training",
        "the processes that train together cannot reach each other, or one of them ended; the "
        "site operator looks into worker.log, or sets [training] processes = 1 in site.toml",
    )


def join(device: torch.device, meeting: Path, rank: int, size: int) -> None:
    """Meet the other processes: over NCCL where each has a GPU of its own, else over gloo."""
    alone = device.type == "cuda" and torch.cuda.device_count() >= size
    if device.type == "cuda":
        torch.cuda.set_device(of_rank(device, rank))
    distributed.init_process_group(
        "nccl" if alone else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=JOIN_S),
    )
    distributed.barrier()
    distributed.distributed_c10d._set_pg_timeout(ROUND)


def main() -> None:
    """One of the further processes: does the rounds that it is told until the pipe closes."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, 9)
    libc.prctl(PR_SET_DUMPABLE, 0)

    from cohortium.client.workbench import inline  # it knows this module, too

    meeting, rank = Path(sys.argv[1]), int(sys.argv[2])
    first = read_frame(sys.stdin.buffer)
    assert first is not None
    setup, _ = unpack(first, Setup)
    device = choose(setup.device)
    workshop = inline(setup, replace(device, torch=of_rank(device.torch, rank)))
    join(device.torch, meeting, rank, setup.processes)
    workshop.team = Team(rank, setup.processes, setup.sharded)
    while (body := read_frame(sys.stdin.buffer)) is not None:
        job, start = unpack(body, Job)
        workshop.train(setup.study, job.statistics, start, job.round)


if __name__ == "__main__":
    main()
