"""A training process's work: jobs come as frames, answers go back as frames."""

from pathlib import Path
from typing import IO

import numpy as np
import torch

from cohortium.client.config import Dataset
from cohortium.client.jobs import Done, Job, Setup, read_frame, write_frame
from cohortium.client.ranks import Ranks
from cohortium.client.site import describe
from cohortium.client.training.device import Device, choose, use_threads
from cohortium.client.training.memory import out_of_memory
from cohortium.client.workshop import Inline
from cohortium.common.errors import CohortiumError, DataError, RefusedError, UsageError
from cohortium.common.messages import EMPTY, Vector, unpack


def work(jobs: IO[bytes], answers: IO[bytes], isolation: str) -> None:
    """Answer jobs until the pipe closes.

    Args:
        isolation: how this process is confined, in words.
    """
    first = read_frame(jobs)
    if first is None:
        return
    setup, _ = unpack(first, Setup)
    try:
        device = choose(setup.device)
    except UsageError as error:
        write_frame(answers, _failure(RefusedError("site.device", str(error))))
        return
    write_frame(answers, Done(isolation=f"{device.description}; {isolation}"))
    workshop = inline(setup, device)
    ranks = Ranks(setup, device.torch)
    while (asked := _next(jobs, answers)) is not None:
        try:
            workshop.team = ranks.follow(*asked)
            done, update = _do(workshop, setup, *asked)
        except Exception as error:
            done, update = _failure(ranks.explain(error)), EMPTY
            ranks.end()
        write_frame(answers, done, update)
    ranks.end()


def inline(setup: Setup, device: Device) -> Inline:
    """The work of one process, on its dataset and device."""
    use_threads(max(1, setup.threads // setup.processes))
    return Inline(setup.site, str(device.torch), lambda _: _dataset(setup))


def _next(jobs: IO[bytes], answers: IO[bytes]) -> tuple[Job, Vector] | None:
    """The next job and its model; none, too, where there is no memory for it."""
    try:
        frame = read_frame(jobs)
        return None if frame is None else unpack(frame, Job)
    except MemoryError as error:
        write_frame(answers, _failure(error))
        return None


def _do(workshop: Inline, setup: Setup, job: Job, vector: Vector) -> tuple[Done, Vector]:
    study = setup.study
    if job.task == "prepare":
        prepared = workshop.prepare(study, job.statistics)
        return Done(**prepared.model_dump()), EMPTY
    if job.task == "measure":
        return Done(statistics=workshop.measure(study)), EMPTY
    if job.task == "reduction":
        patients, sums = workshop.reduction(study, job.plan)
        return Done(patients=patients), sums
    if job.task == "train":
        update = workshop.train(study, job.statistics, vector, job.round)
        return Done(mechanism=update.mechanism, loss=update.loss), update.delta
    if job.task == "cross_check":
        assert job.plan is not None
        return Done(cross_check=workshop.cross_check(study, job.plan, job.delta)), EMPTY
    model, personal = np.split(vector, 2) if job.personal else (vector, EMPTY)
    if job.task == "personalise":
        return Done(), workshop.personalise(study, job.statistics, model, personal, job.round)
    if job.task == "validate":
        loss = workshop.validate(study, job.statistics, vector, job.minimum_cell)
        return Done(loss=loss), EMPTY
    if job.task == "calibrate":
        assert job.inquiry is not None
        found = workshop.calibrate(study, job.statistics, vector, job.inquiry, job.minimum_cell)
        return Done(calibrated=found), EMPTY
    told = workshop.evaluate(study, job.statistics, model, job.minimum_cell, job.last, personal)
    return Done(evaluation=told.leaves, stays=told.stays), EMPTY


def _dataset(setup: Setup) -> Dataset:
    """The caps play no part here: the ledger stays with the daemon."""
    return Dataset(setup.dataset, Path(setup.path), setup.data_model, 0.0, 0.0)


def _failure(error: Exception) -> Done:
    """Our own one-liners as they are; of anything else only its class and place."""
    error = _of_the_machine(error) or error
    if isinstance(error, RefusedError):
        return Done(error="refused", rule=error.rule, text=error.explanation)
    if isinstance(error, DataError):
        return Done(error="data", text=str(error))
    if isinstance(error, CohortiumError):
        return Done(error="failed", text=str(error))
    return Done(error="failed", text=f"training broke down: {describe(error)}")


def _of_the_machine(error: Exception) -> RefusedError | None:
    """What a library says of memory and devices, in our words; None for anything else."""
    said = str(error)
    if out_of_memory(error):
        return RefusedError(
            "site.memory",
            "the study needs more memory than training may have here (site.toml memory_gib; the "
            "site operator can raise it, the coordinator can make the model smaller)",
        )
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in said:
        return RefusedError(
            "site.device",
            "the device failed or disappeared while training; the site operator looks at the "
            "driver, or sets another device in site.toml",
        )
    return None
