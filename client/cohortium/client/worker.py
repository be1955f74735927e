"""The training process: one study's patients live here, and nowhere else.

Started by `WorkerProcess`, never by people. It reads frames on standard input and answers on what
was standard output; whatever a library prints goes to standard error.
"""

import os
import sys
from pathlib import Path
from typing import IO

from cohortium.client.config import Dataset
from cohortium.client.isolation import confine
from cohortium.client.jobs import Done, Job, Setup, read_frame, write_frame
from cohortium.client.site import describe
from cohortium.client.workshop import Inline
from cohortium.common.errors import CohortiumError, DataError, RefusedError
from cohortium.common.messages import EMPTY, Vector, unpack


def main() -> None:
    """Answer jobs until the pipe closes."""
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    first = read_frame(jobs)
    if first is not None:
        setup, _ = unpack(first, Setup)
        _work(setup, jobs, answers)


def _work(setup: Setup, jobs: IO[bytes], answers: IO[bytes]) -> None:
    from cohortium.client import local_round  # noqa: F401  all code is read before the confinement
    from cohortium.client.training.device import choose, use_threads

    use_threads(setup.threads)
    device = choose(setup.device)
    isolation = confine(setup.memory_bytes, setup.threads)
    write_frame(answers, Done(isolation=f"{device.description}; {isolation}"))
    workshop = Inline(setup.site, str(device.torch), lambda _: _dataset(setup))
    while (frame := read_frame(jobs)) is not None:
        job, vector = unpack(frame, Job)
        try:
            done, update = _do(workshop, setup, job, vector)
        except Exception as error:
            done, update = _failure(error), EMPTY
        write_frame(answers, done, update)


def _do(workshop: Inline, setup: Setup, job: Job, vector: Vector) -> tuple[Done, Vector]:
    study = setup.study
    if job.task == "prepare":
        prepared = workshop.prepare(study, job.statistics)
        return Done(**prepared.model_dump()), EMPTY
    if job.task == "measure":
        return Done(statistics=workshop.measure(study)), EMPTY
    if job.task == "train":
        update = workshop.train(study, job.statistics, vector, job.round)
        return Done(mechanism=update.mechanism), update.delta
    evaluation = workshop.evaluate(study, job.statistics, vector, job.minimum_cell)
    return Done(evaluation=evaluation), EMPTY


def _dataset(setup: Setup) -> Dataset:
    """The caps play no part here: the ledger stays with the daemon."""
    return Dataset(setup.dataset, Path(setup.path), setup.data_model, 0.0, 0.0)


def _failure(error: Exception) -> Done:
    """Our own one-liners as they are; of anything else only its class and place."""
    if isinstance(error, RefusedError):
        return Done(error="refused", rule=error.rule, text=error.explanation)
    if isinstance(error, DataError):
        return Done(error="data", text=str(error))
    if isinstance(error, CohortiumError):
        return Done(error="failed", text=str(error))
    return Done(error="failed", text=f"training broke down: {describe(error)}")


if __name__ == "__main__":
    main()
