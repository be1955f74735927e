"""Models of a site's own, trained on its patients without noise; they never leave it.

They answer what joining was worth, and whom the noise of a private federation harmed. The recipe
is fixed, so that nobody can tune the comparison: minibatch SGD in batches of the study's
`batch_size`, or 32, at the study's learning rate and momentum where it trains in minibatches
without privacy (`batches = "shuffle"`), or 0.05 and 0.9.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cohortium.client.cohort import Cohort
from cohortium.client.results import Fit
from cohortium.client.training import plain
from cohortium.client.training.batch_order import own_stream
from cohortium.client.training.sgd import Sgd
from cohortium.common import arrays
from cohortium.common.errors import DataError
from cohortium.common.loss import per_example
from cohortium.common.models.building import build_seeded
from cohortium.common.study import Study

Vector = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float32]

BATCH_SIZE, LEARNING_RATE, MOMENTUM = 32, 0.05, 0.9
PASSES, PATIENCE = 100, 10  # over the patients, at most, and without a better one before stopping
LEAST_TO_WATCH = 25  # with fewer patients none is held back to find the number of passes
FEW_PASSES = 20
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
    """Minibatch SGD of one study."""

    study: Study
    sgd: Sgd
    batch_size: int
    device: torch.device

    def slower(self) -> "Recipe":
        rate = self.sgd.learning_rate / 4
        return replace(self, sgd=replace(self.sgd, learning_rate=rate))

    def one_pass(
        self,
        module: nn.Module,
        start: Vector,
        patients: Patients,
        number: int,
        proximal: float = 0.0,
        anchor: Vector | None = None,
    ) -> Vector:
        """The model after the `number`-th pass, from 1, over all patients in a new order."""
        rows, seed = len(patients.labels), self.study.training.seed
        plan = plain.PlainPlan(self.study.task.kind, self.sgd, proximal, seed + number)
        steps = -(-rows // self.batch_size)
        batches = own_stream(rows, self.batch_size, steps, number, seed, STREAM)
        data = (patients.features, patients.labels)
        update = plain.train(module, start, *data, plan, batches, self.device, anchor)
        return start + update.delta


def recipe(study: Study, device: str) -> Recipe:
    """The one that the module's documentation gives."""
    training = study.training
    rate, momentum = LEARNING_RATE, MOMENTUM
    if training.batches == "shuffle" and training.learning_rate is not None:
        rate, momentum = training.learning_rate, training.momentum
    sgd = Sgd(rate, momentum, training.weight_decay)
    return Recipe(study, sgd, training.batch_size or BATCH_SIZE, torch.device(device))


def train_own(
    study: Study, features: Floats, labels: Floats, device: str = "cpu"
) -> tuple[Vector, Fit]:
    """A model of the study's kind from its initial parameters, on patients of this site alone.

    A fifth of them, drawn by the study's seed, is held back to find after how many passes the loss
    no longer falls, and whether a quarter of the rate does better; then all train so. The same
    arguments give the same model.

    Raises:
        DataError: it diverges however slowly it learns.
    """
    patients = Patients(features, labels)
    how, module = recipe(study, device), _module(study, patients)
    start, parts = arrays.flatten(module), _held_back(patients, study.training.seed)
    loss, fit = _fit(how, module, start, *parts)
    for _ in range(QUARTERED):
        slower = how.slower()
        lower, found = _fit(slower, module, start, *parts)
        if lower >= loss:
            break
        how, loss, fit = slower, lower, found
    model = start
    for number in range(1, fit.passes + 1):
        model = how.one_pass(module, model, patients, number)
    if not np.isfinite(model).all():
        raise DataError(
            "evaluation.own_model: the site's own model diverges at every learning rate; scale "
            "the inputs (preprocessing.scaling)"
        )
    return model, fit


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
    rate = how.sgd.learning_rate / (1 - how.sgd.momentum)
    sgd = Sgd(min(rate, 1 / pull) if pull else rate, 0.0, how.sgd.weight_decay)
    patients = Patients(cohort.features, cohort.labels)
    how = replace(how, sgd=sgd)
    new = how.one_pass(_module(study, patients), personal, patients, number, pull, federated)
    return new if np.isfinite(new).all() else personal


def _held_back(patients: Patients, seed: int) -> tuple[Patients, Patients]:
    """A fifth to watch and the rest to train on; all of them for both where they are few."""
    rows = len(patients.labels)
    if rows < LEAST_TO_WATCH:
        return patients, patients
    order = np.random.default_rng((seed, STREAM)).permutation(rows)
    return patients.select(order[: rows // 5]), patients.select(order[rows // 5 :])


def _fit(
    how: Recipe, module: nn.Module, start: Vector, watched: Patients, rest: Patients
) -> tuple[float, Fit]:
    """The lowest loss on the patients watched, and after how many passes; 0 if it never fell."""
    arrays.load_into(module.to(how.device), start)
    model, lowest, best = start, _loss(how, module, watched), 0
    last = PASSES if watched is not rest else FEW_PASSES
    for number in range(1, last + 1):
        model = how.one_pass(module, model, rest, number)
        loss = _loss(how, module, watched)
        if loss < lowest:
            lowest, best = loss, number
        if not np.isfinite(model).all() or number - best >= PATIENCE:
            break
    return lowest, Fit(passes=best, learning_rate=how.sgd.learning_rate)


def _loss(how: Recipe, module: nn.Module, watched: Patients) -> float:
    """Mean loss of the module as it was trained last."""
    module.eval()
    with torch.no_grad():
        logits = module(torch.from_numpy(watched.features).to(how.device))
        labels = torch.from_numpy(watched.labels).to(how.device)
        return float(per_example(how.study.task.kind, logits, labels).mean())


def _module(study: Study, patients: Patients) -> nn.Module:
    inputs = patients.features.shape[1]
    return build_seeded(study.model, inputs, study.outputs, study.training.seed)
