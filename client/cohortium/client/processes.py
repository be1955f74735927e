"""Training in processes of their own: one for each study, ended at once by the kill switch."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal

import numpy as np

from cohortium.client.calibration import Inquiry
from cohortium.client.config import Dataset, SiteDir
from cohortium.client.jobs import Done, Job, Setup, read_frame, write_frame
from cohortium.client.results import Evaluation
from cohortium.client.training.update import LocalUpdate
from cohortium.client.turns import Turns
from cohortium.client.workshop import Prepared
from cohortium.common import timeouts
from cohortium.common.errors import CohortiumError, DataError, RefusedError, StorageError
from cohortium.common.messages import EMPTY, Calibrated, Vector, unpack
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.ledger_row import CrossCheck
from cohortium.common.study import Study

SPOILT = ("site.device", "site.memory")  # a process that failed so is not used again
PASSED_ON = ("PATH", "LANG", "LC_ALL", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "PYTHONPATH")


@dataclass(frozen=True)
class Limits:
    """What training one study may use, and how many may train at the same time.

    processes: that train it together and share threads and memory; `sharded`: and its model.
    """

    device: Literal["auto", "cuda", "mps", "cpu"]
    threads: int
    memory_bytes: int
    at_once: int = 2
    processes: int = 1
    sharded: bool = False


Halted = Callable[[str], RefusedError | None]


class Processes:
    """A `Workshop` whose work is done in one confined process for each study.

    Several threads may use it, each for another study. `RefusedError` has rule `site.device`,
    `site.memory` or `site.training` where the machine failed; the next job gets a new process.

    Args:
        home: the site's state directory; `workers/` and `scratch/` below it are ours.
        halted: asked, by a study's digest, while a job runs: a refusal ends the process at once.
        on_start: told a study's digest and in words how its process is confined.
    """

    def __init__(
        self,
        site: str,
        limits: Limits,
        home: Path,
        load_dataset: Callable[[str], Dataset],
        halted: Halted,
        on_start: Callable[[str, str], None],
    ) -> None:
        self._site = site
        self._limits = limits
        self._home = home
        self._load_dataset = load_dataset
        self._halted = halted
        self._on_start = on_start
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._turns = Turns(limits.at_once)
        # A process dies with the thread that started it (prctl(2), PR_SET_PDEATHSIG).
        self._starter = ThreadPoolExecutor(1)
        shutil.rmtree(home / "scratch", ignore_errors=True)
        shutil.rmtree(home / "workers", ignore_errors=True)

    def prepare(self, study: Study, statistics: Statistics | None = None) -> Prepared:
        done, _ = self._do(study, Job(task="prepare", statistics=statistics))
        return Prepared(
            patients=done.patients,
            band=done.band,
            weight=done.weight,
            travelling=done.travelling,
        )

    def measure(self, study: Study) -> Statistics:
        done, _ = self._do(study, Job(task="measure"))
        assert done.statistics is not None
        return done.statistics

    def reduction(self, study: Study, mechanism: Mechanism | None) -> tuple[int, Vector]:
        done, sums = self._do(study, Job(task="reduction", plan=mechanism))
        return done.patients, sums

    def train(
        self, study: Study, statistics: Statistics | None, start: Vector, round_number: int
    ) -> LocalUpdate:
        job = Job(task="train", statistics=statistics, round=round_number)
        done, delta = self._do(study, job, start)
        return LocalUpdate(delta.astype(np.float32, copy=False), done.mechanism, done.loss)

    def personalise(
        self,
        study: Study,
        statistics: Statistics | None,
        start: Vector,
        personal: Vector,
        round_number: int,
    ) -> Vector:
        job = Job(task="personalise", statistics=statistics, round=round_number, personal=True)
        _, model = self._do(study, job, np.concatenate([start, personal]))
        return model.astype(np.float32)

    def validate(
        self, study: Study, statistics: Statistics | None, model: Vector, minimum_cell: int
    ) -> float | None:
        job = Job(task="validate", statistics=statistics, minimum_cell=minimum_cell)
        done, _ = self._do(study, job, model)
        return done.loss

    def evaluate(
        self,
        study: Study,
        statistics: Statistics | None,
        model: Vector,
        minimum_cell: int,
        last: bool = False,
        personal: Vector = EMPTY,
    ) -> Evaluation:
        job = Job(
            task="evaluate",
            statistics=statistics,
            minimum_cell=minimum_cell,
            last=last,
            personal=bool(len(personal)),
        )
        both = np.concatenate([model, personal]) if len(personal) else model
        done, _ = self._do(study, job, both)
        assert done.evaluation is not None
        return Evaluation(done.evaluation, done.stays)

    def calibrate(
        self,
        study: Study,
        statistics: Statistics | None,
        model: Vector,
        inquiry: Inquiry,
        minimum_cell: int,
    ) -> Calibrated:
        job = Job(
            task="calibrate", statistics=statistics, minimum_cell=minimum_cell, inquiry=inquiry
        )
        done, _ = self._do(study, job, model)
        assert done.calibrated is not None
        return done.calibrated

    def cross_check(self, study: Study, plan: Mechanism, delta: float) -> CrossCheck | None:
        done, _ = self._do(study, Job(task="cross_check", plan=plan, delta=delta))
        return done.cross_check

    def close(self, study: str) -> None:
        """End a study's process, if it has one, and wipe its scratch directory."""
        process = self._workers.pop(study, None)
        if process is not None:
            end_group(process.pid)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):  # what it no longer read
                        pipe.close()
        with contextlib.suppress(OSError):  # a disk that became read-only
            marker(self._home, study).unlink(missing_ok=True)
        shutil.rmtree(self._scratch(study), ignore_errors=True)

    def close_all(self) -> None:
        """End every process."""
        for study in list(self._workers):
            self.close(study)

    def _do(self, study: Study, job: Job, vector: Vector = EMPTY) -> tuple[Done, Vector]:
        def look() -> None:
            if (refusal := self._halted(study.digest)) is not None:
                raise refusal

        look()
        with self._turns.take("", look):
            worker = self._living(study.digest) or self._start(study)
            return self._exchange(study.digest, worker, job, vector)

    def _living(self, study: str) -> subprocess.Popen[bytes] | None:
        """A study's process; one that a pause or the system killed between two rounds is buried."""
        process = self._workers.get(study)
        if process is None or (process.poll() is None and marker(self._home, study).exists()):
            return process
        self.close(study)
        return None

    def _start(self, study: Study) -> subprocess.Popen[bytes]:
        try:
            return self._begin(study)
        except OSError as error:
            self.close(study.digest)
            raise StorageError(
                f"{error.filename or self._home}: no training process can be started "
                f"({error.strerror}); free some space, or let the daemon's user write there"
            ) from None
        except BaseException:
            self.close(study.digest)
            raise

    def _begin(self, study: Study) -> subprocess.Popen[bytes]:
        dataset = self._load_dataset(study.data.dataset)
        scratch = self._scratch(study.digest)
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        process = self._starter.submit(self._open, scratch).result()
        self._workers[study.digest] = process
        mark = marker(self._home, study.digest)
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(json.dumps({"pid": process.pid}), encoding="utf-8")
        setup = Setup(
            site=self._site,
            device=self._limits.device,
            threads=self._limits.threads,
            processes=self._limits.processes,
            sharded=self._limits.sharded,
            dataset=dataset.name,
            path=str(dataset.path),
            data_model=dataset.data_model,
            study=study,
        )
        done, _ = self._exchange(study.digest, process, setup, EMPTY)
        self._on_start(study.digest, done.isolation)
        return process

    def _open(self, scratch: Path) -> subprocess.Popen[bytes]:
        with (self._home / "worker.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "cohortium.client.worker", *self._confinement()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=scratch,
                env=self._environment(scratch),
                start_new_session=True,
            )

    def _exchange(
        self, study: str, process: subprocess.Popen[bytes], message: Setup | Job, vector: Vector
    ) -> tuple[Done, Vector]:
        """One frame there and one back, with an eye on the kill switch."""
        answers: SimpleQueue[bytes | None] = SimpleQueue()
        threading.Thread(
            target=_talk, args=(process, message, vector, answers), daemon=True
        ).start()
        while True:
            try:
                body = answers.get(timeout=timeouts.HALT_LOOK_S)
                break
            except Empty:
                refusal = self._halted(study)
                if refusal is not None:
                    self.close(study)
                    raise refusal from None
        if body is None:
            refusal = self._halted(study)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(
                    timeouts.HALT_LOOK_S
                )  # for its own exit status, not that of our signal
            self.close(study)
            raise refusal or RefusedError(
                "site.training",
                f"the training process ended (exit status {process.returncode}); out of memory or "
                "killed? the site's operator looks into worker.log",
            )
        done, update = unpack(body, Done)
        if done.rule in SPOILT:
            self.close(study)
        return _made(done), update

    def _scratch(self, study: str) -> Path:
        return self._home / "scratch" / study[:16]

    def _confinement(self) -> tuple[str, str, str, str]:
        limits, keys = self._limits, SiteDir(self._home.resolve()).signing_key.parent
        each = limits.memory_bytes // limits.processes
        return str(each), str(limits.threads), str(keys), str(limits.processes)

    def _environment(self, scratch: Path) -> dict[str, str]:
        kept = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        threads = str(self._limits.threads)
        return {**kept, "TMPDIR": str(scratch), "HOME": str(scratch), "OMP_NUM_THREADS": threads}


def _made(done: Done) -> Done:
    if done.error == "refused":
        raise RefusedError(done.rule, done.text)
    if done.error == "data":
        raise DataError(done.text)
    if done.error:
        raise CohortiumError(done.text)
    return done


def marker(home: Path, study: str) -> Path:
    """The file that names a study's process while it runs."""
    return home / "workers" / f"{study}.json"


def end_group(pid: int) -> None:
    """Kill a process and all that it started; nothing if it is gone."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _talk(
    process: subprocess.Popen[bytes],
    message: Setup | Job,
    vector: Vector,
    answers: SimpleQueue[bytes | None],
) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(OSError):  # a process that stopped reading may have said why
            write_frame(process.stdin, message, vector)
        answers.put(read_frame(process.stdout))
    except (OSError, ValueError, CohortiumError):
        answers.put(None)
