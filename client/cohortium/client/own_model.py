"""Models of a site's own, trained on its patients without noise; they never leave it.

They answer what joining was worth, and whom the noise of a private federation harmed. The recipe
is fixed, so that nobody can tune the comparison: minibatches of the study's `batch_size`, or 32,
with the study's optimiser where it trains in minibatches without privacy (`batches = "shuffle"`),
at its rate without a schedule, or SGD at 0.05 with momentum 0.9; and the study's class weights.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cohortium.client.cohort import Cohort
from cohortium.client.results import Fit
from cohortium.client.training import plain
from cohortium.client.training.batch_order import Batch, own_stream
from cohortium.client.training.optimiser import Optimiser, of_round
from cohortium.common import arrays
from cohortium.common.errors import DataError
from cohortium.common.loss import per_example, weighted
from cohortium.common.models.building import study_module
from cohortium.common.study import Study

Vector = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float32]

BATCH_SIZE, LEARNING_RATE, MOMENTUM = 32, 0.05, 0.9
PASSES, PATIENCE = 100, 10  # over the patients, at most, and without a better one before stopping
FOLDS = 5
ONE_FOLD_FROM = 200  # patients from which on one fifth says enough
FEW, FEW_PASSES = 10, 20  # with fewer patients nobody is held back, and so many passes are made
QUARTERED = 10  # times at most
STREAM = 2**20  # no position of a site: batches are not those of the federated rounds


@dataclass(frozen=True, eq=False)
class Patients:
    """Rows to train on, or to watch: features (n, f) and labels as the cohort has them."""

    features: Floats
    labels: Floats

    def select(self, rows: npt.NDArray[np.int64]) -> "Patients":
        return Patients(self.features[rows], self.labels[rows])


@dataclass(frozen=True)
class Recipe:
    """Training in minibatches for one study."""

    study: Study
    optimiser: Optimiser
    batch_size: int
    device: torch.device

    def slower(self) -> "Recipe":
        rate = self.optimiser.learning_rate / 4
        return replace(self, optimiser=replace(self.optimiser, learning_rate=rate))

    def batches(self, rows: int, number: int) -> list[Batch]:
        """The `number`-th pass, from 1, over so many rows, in a new order."""
        steps, seed = -(-rows // self.batch_size), self.study.training.seed
        return own_stream(rows, self.batch_size, steps, number, seed, STREAM)


class _Training:
    """A model on its way, pass by pass."""

    def __init__(self, how: Recipe, patients: Patients) -> None:
        self._how = how
        self._features = torch.tensor(patients.features, device=how.device)
        self._labels = torch.tensor(patients.labels, device=how.device)
        self.module = study_module(how.study).to(how.device)
        self._optimiser = how.optimiser.of(self.module)
        self._passes = 0

    def go_on(self) -> None:
        """One pass more."""
        self.module.train()
        self._passes += 1
        for batch in self._how.batches(len(self._labels), self._passes):
            index = torch.from_numpy(batch).to(self._how.device)
            loss = self._losses(self._features[index], self._labels[index]).mean()
            self._optimiser.zero_grad()
            torch.autograd.backward(loss)
            self._optimiser.step()

    def loss(self, watched: Patients) -> float:
        """Summed over patients."""
        self.module.eval()
        features = torch.from_numpy(watched.features).to(self._how.device)
        labels = torch.from_numpy(watched.labels).to(self._how.device)
        with torch.no_grad():
            return float(self._losses(features, labels).double().sum())

    def _losses(self, features: Tensor, labels: Tensor) -> Tensor:
        study = self._how.study
        losses = per_example(study.task.kind, self.module(features), labels)
        return weighted(losses, labels, study.training.class_weights)


def recipe(study: Study, device: str) -> Recipe:
    """The one that the module's documentation gives."""
    training = study.training
    optimiser = Optimiser(LEARNING_RATE, MOMENTUM, training.weight_decay)
    if training.batches == "shuffle":
        optimiser = of_round(training.model_copy(update={"schedule": "constant"}), training.rounds)
    return Recipe(study, optimiser, training.batch_size or BATCH_SIZE, torch.device(device))


def train_own(
    study: Study, features: Floats, labels: Floats, device: str = "cpu"
) -> tuple[Vector, Fit]:
    """A model of the study's kind from its initial parameters, on patients of this site alone.

    After how many passes the loss on patients held back is lowest, and whether a quarter of the
    rate does better, is found by five folds drawn by the study's seed, or from 200 patients on by
    one of them; then all train so. The same arguments give the same model.

    Raises:
        DataError: it diverges however slowly it learns.
    """
    patients, how = Patients(features, labels), recipe(study, device)
    with torch.random.fork_rng(devices=[how.device] if how.device.type == "cuda" else []):
        torch.manual_seed(study.training.seed)
        how, passes = _found(how, patients)
        training = _Training(how, patients)
        for _ in range(passes):
            training.go_on()
    model = arrays.flatten(training.module)
    if not np.isfinite(model).all():
        raise DataError(
            "evaluation.own_model: the site's own model diverges at every learning rate; scale "
            "the inputs (preprocessing.scaling)"
        )
    return model, Fit(passes=passes, learning_rate=how.optimiser.learning_rate)


def train_personal(
    study: Study, cohort: Cohort, personal: Vector, federated: Vector, number: int, device: str
) -> Vector:
    """Ditto's personal model after round `number` (Li et al. 2021, Algorithm 1).

    One pass of v <- v - rate (gradient + ditto (v - federated)), without momentum, at the recipe's
    effective rate or 1 / ditto, whichever is lower. A pass that diverges leaves it as it was.

    Args:
        personal: float32 (d,), after the round before.
        federated: float32 (d,), what this round starts from.
    """
    pull = study.mitigation.ditto or 0.0
    how = recipe(study, device)
    rate = how.optimiser.learning_rate / (1 - how.optimiser.momentum)
    if how.optimiser.name != "sgd":  # whose rate says nothing of plain steps
        rate = LEARNING_RATE
    decay = how.optimiser.weight_decay
    sgd = Optimiser(min(rate, 1 / pull) if pull else rate, 0.0, decay, l1=how.optimiser.l1)
    how, rows = replace(how, optimiser=sgd), len(cohort.labels)
    plan = plain.PlainPlan(
        study.task.kind,
        sgd,
        pull,
        study.training.seed + number,
        class_weights=study.training.class_weights,
    )
    update = plain.train(
        study_module(study),
        personal,
        cohort.features,
        cohort.labels,
        plan,
        how.batches(rows, number),
        how.device,
        anchor=federated,
    )
    new = personal + update.delta
    return new if np.isfinite(new).all() else personal


def _found(how: Recipe, patients: Patients) -> tuple[Recipe, int]:
    """The rate and the number of passes that do best on patients held back."""
    folds = list(_folds(patients, how.study.training.seed))
    if not folds:
        return how, FEW_PASSES
    loss, passes = _best(how, folds)
    for _ in range(QUARTERED):
        slower = how.slower()
        lower, found = _best(slower, folds)
        if lower >= loss:
            break
        how, loss, passes = slower, lower, found
    return how, passes


def _folds(patients: Patients, seed: int) -> Iterator[tuple[Patients, Patients]]:
    """Who is watched, and who is trained on."""
    rows = len(patients.labels)
    if rows < FEW:
        return
    fold = np.random.default_rng((seed, STREAM)).permutation(rows) % FOLDS
    for number in range(1 if rows >= ONE_FOLD_FROM else FOLDS):
        watched = np.flatnonzero(fold == number)
        yield patients.select(watched), patients.select(np.flatnonzero(fold != number))


def _best(how: Recipe, folds: Sequence[tuple[Patients, Patients]]) -> tuple[float, int]:
    """The lowest loss on those watched, and after how many passes; 0 if it never fell."""
    running = [(_Training(how, rest), watched) for watched, rest in folds]
    lowest, best = sum(training.loss(watched) for training, watched in running), 0
    for number in range(1, PASSES + 1):
        for training, _ in running:
            training.go_on()
        loss = sum(training.loss(watched) for training, watched in running)
        if loss < lowest:
            lowest, best = loss, number
        if not math.isfinite(loss) or number - best >= PATIENCE:
            break
    return lowest, best
