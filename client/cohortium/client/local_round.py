"""From an approved study to one round of training, or one evaluation, on this site's cohort.

Every number that matters to privacy comes from the study that the site approved, never from the
request that asks for the round.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cohortium.client import beside, explaining
from cohortium.client.calibration import Inquiry, groups_of
from cohortium.client.cohort import Cohort
from cohortium.client.results import Evaluation, Results
from cohortium.client.scoring import mean_loss, scores
from cohortium.client.training import cox, full_batch, newton, plain, private
from cohortium.client.training.batches import batches_of
from cohortium.client.training.optimiser import of_round
from cohortium.client.training.team import ALONE, Team
from cohortium.client.training.update import LocalUpdate
from cohortium.common.messages import EMPTY, Calibrated
from cohortium.common.metrics import noisy
from cohortium.common.metrics.calibration import EVERYBODY, by_level, flat, logits
from cohortium.common.metrics.calibration_disclosure import Patients, answer
from cohortium.common.metrics.evaluation import FEDERATED
from cohortium.common.metrics.evaluation import evaluate as count
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.models.building import study_module
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.noise import NoiseSource
from cohortium.common.privacy.plan import planned, planned_noise
from cohortium.common.study import Study
from cohortium.common.task import SurvivalTask

Vector = npt.NDArray[np.float32]

NO_CLIPPING = 1e30  # without privacy a gradient keeps its length


def weight(study: Study, cohort: Cohort) -> float:
    """How much this site's update counts: its public band, one, or (if allowed) its true size."""
    weights = {"bands": cohort.nominal, "equal": 1, "exact": cohort.patients}
    return float(weights[study.strategy.weighting])


def train(
    study: Study,
    cohort: Cohort,
    start: Vector,
    round_number: int,
    site: str,
    device: str,
    team: Team = ALONE,
) -> LocalUpdate:
    """One round from the model `start`, float32 (parameters,); rounds count from 1.

    Raises:
        ProtocolError: `start` does not fit the study's model.
        RefusedError: the model cannot be trained privately.
    """
    update = _trained(study, cohort, start, round_number, site, device, team)
    if study.strategy.q is None or update.loss is not None:
        return update
    loss = mean_loss(study, start, cohort.features, cohort.labels)
    return LocalUpdate(update.delta, update.mechanism, loss)


def _trained(
    study: Study,
    cohort: Cohort,
    start: Vector,
    round_number: int,
    site: str,
    device: str,
    team: Team,
) -> LocalUpdate:
    module = study_module(study)
    mechanism = planned(study)
    if team.sharded:
        _refuse_parts(study)
    data = (module, start, cohort.features, cohort.labels)
    place = torch.device(device)
    if study.strategy.name == "newton":
        return newton.train(study.model.name, *data[1:], weight(study, cohort))
    if study.training.batches == "full":
        return _full_batch(study, cohort, mechanism, data, place, team)
    if mechanism is None:
        return _plain(study, cohort, round_number, site, data, place, team)
    plan = private_plan(study, cohort.nominal, round_number)
    return private.train(*data, plan, NoiseSource(), place, team)


def _refuse_parts(study: Study) -> None:
    from cohortium.client.training.sharded import refusal

    if study.privacy.mechanism != "none" or study.training.batches == "full":
        raise refusal("training on gradients of single patients (privacy, full batches)")
    if study.model.name == "gan":
        raise refusal("a gan, whose generator follows the whole discriminator")


def private_plan(study: Study, nominal: int, round_number: int = 1) -> private.PrivatePlan:
    """How a site of so many patients, by its public band, trains a study with Poisson batches."""
    mechanism = planned(study)
    assert mechanism is not None
    assert study.privacy.clip_norm is not None
    return private.PrivatePlan(
        outcome=study.task.kind,
        optimiser=of_round(study.training, round_number),
        local_steps=study.training.local_steps,
        sample_rate=mechanism.sample_rate,
        expected_batch_size=mechanism.sample_rate * nominal,
        clip_norm=study.privacy.clip_norm,
        noise_multiplier=mechanism.noise_multiplier,
        class_weights=study.training.class_weights,
    )


def evaluate(
    study: Study,
    cohort: Cohort,
    model: Vector,
    minimum_cell: int,
    *,
    last: bool = False,
    personal: Vector = EMPTY,
    device: str = "cpu",
) -> Evaluation:
    """Metrics of a model on held-out patients.

    Args:
        last: of the final model: the site's own models are made, and measured beside it.
        personal: Ditto's model of this site; empty where it has none.
    """
    noise = planned_noise(study)
    if noise is not None and not last:
        return Evaluation(noisy.nothing())
    federated = scores(study, model, cohort.test_features)
    if not last:
        return Evaluation(_counted(study, cohort, {FEDERATED: federated}, minimum_cell, last=False))
    others = beside.make(study, cohort, model, personal, device)
    scored = {FEDERATED: federated, **others.scored}
    alone = {name: _counted(study, cohort, {FEDERATED: said}, 0) for name, said in scored.items()}
    models = {**alone, FEDERATED: _counted(study, cohort, scored, 0)}
    stays = Results(models=models, recalibration=others.recalibration, own=others.own)
    if noise is None:
        counted = _counted(study, cohort, scored, minimum_cell)
        explained = explaining.leaves(study, cohort, model, minimum_cell)
        return Evaluation(counted.model_copy(update={"explained": explained}), stays)
    patients = (cohort.test_labels.astype(np.float64), cohort.test_attributes)
    return Evaluation(noisy.evaluate(federated, *patients, study, noise, others.scored), stays)


def _counted(
    study: Study,
    cohort: Cohort,
    scored: Mapping[str, beside.Scores],
    minimum_cell: int,
    last: bool = True,
) -> SiteEvaluation:
    return count(scored, cohort.test_labels, cohort.test_attributes, study, minimum_cell, last=last)


def calibrate(
    study: Study, cohort: Cohort, model: Vector, inquiry: Inquiry, minimum_cell: int
) -> Calibrated:
    """Sums for the calibration of a model on held-out patients, after disclosure control."""
    everybody = {EVERYBODY: np.ones(len(cohort.test_labels), bool)}
    members = everybody | groups_of(study, cohort.test_attributes)
    patients = Patients(
        x=logits(scores(study, model, cohort.test_features)),
        positive=cohort.test_labels > 0.5,
        groups={group: members[group] for group in inquiry.shown if group in members},
    )
    points = flat(inquiry.points.overall, inquiry.points.groups)
    points = {group: point for group, point in points.items() if group in patients.groups}
    found = answer(patients, points, minimum_cell)
    return Calibrated(overall=found.get(EVERYBODY), groups=by_level(found))


Job = tuple[nn.Module, Vector, npt.NDArray[np.float32], npt.NDArray[np.float32]]


def _full_batch(
    study: Study,
    cohort: Cohort,
    mechanism: Mechanism | None,
    data: Job,
    device: torch.device,
    team: Team,
) -> LocalUpdate:
    rows = cohort.patients if study.strategy.weighting == "exact" else cohort.nominal
    if isinstance(study.task, SurvivalTask) and study.task.likelihood == "cox":
        update = cox.train(*data, rows, device)
    else:
        plan = full_batch_plan(study, rows)
        update = full_batch.train(*data, plan, NoiseSource(), device, team)
    delta = update.delta
    if study.training.l1:  # behind clipping and noise: it is no patient's
        delta = (delta - study.training.l1 * np.sign(data[1])).astype(np.float32)
    return (
        LocalUpdate(delta, update.mechanism, update.loss) if mechanism else LocalUpdate(delta, None)
    )


def full_batch_plan(study: Study, rows: int) -> full_batch.FullBatchPlan:
    """How a site takes its one step over everybody; `rows` is what the sum is divided by."""
    mechanism = planned(study)
    return full_batch.FullBatchPlan(
        outcome=study.task.kind,
        clip_norm=study.privacy.clip_norm or NO_CLIPPING,
        noise_multiplier=mechanism.noise_multiplier if mechanism else 0.0,
        nominal_rows=rows,
        tell_loss=mechanism is not None and study.strategy.q is not None,
        class_weights=study.training.class_weights,
    )


def _plain(
    study: Study,
    cohort: Cohort,
    round_number: int,
    site: str,
    data: Job,
    device: torch.device,
    team: Team,
) -> LocalUpdate:
    training = study.training
    plan = plain.PlainPlan(
        outcome=study.task.kind,
        optimiser=of_round(training, round_number),
        proximal=study.strategy.proximal_mu,
        seed=training.seed + round_number,
        accumulate=training.accumulate,
        precision=training.precision,
        class_weights=training.class_weights,
    )
    batches = batches_of(study, cohort.labels, round_number, site)
    if team.sharded:
        from cohortium.client.training import sharded  # slow to import, and hardly ever wanted

        return sharded.train(*data, plan, batches, device, team)
    return plain.train(*data, plan, batches, device, team=team)
