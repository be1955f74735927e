"""What a study leaves behind: the final model as a file, and its report, both from the store."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from safetensors.torch import save

from cohortium.common import arrays
from cohortium.common.audit.log import EventLog
from cohortium.common.messages import Consent, Spent, Vector
from cohortium.common.metrics.performance import Performance, performance
from cohortium.common.metrics.summary import GroupSummary
from cohortium.common.metrics.summary import Summary as Scores
from cohortium.common.models.building import build_seeded
from cohortium.common.preprocessing.encode import feature_names
from cohortium.common.study import Study
from cohortium.server.aggregation.optimizer import final_model
from cohortium.server.checkpoints import Checkpoints
from cohortium.server.config import CoordinatorConfig
from cohortium.server.reports.report import write_report
from cohortium.server.reports.report_data import (
    GroupReport,
    ModelReport,
    Proof,
    ReportData,
    RoundReport,
    SiteReport,
    Summary,
    Traffic,
)
from cohortium.server.store import RoundRecord, Store, StudyRow, of_main_model

MODEL_FILE = "model.safetensors"
LOAD = "from safetensors.torch import load_file; parameters = load_file('model.safetensors')"


@dataclass(frozen=True)
class Evidence:
    """Facts about the deployment that a report states, as they were measured."""

    config: CoordinatorConfig
    tls: str
    ca_fingerprint: str


def publish(row: StudyRow, store: Store, log: EventLog, evidence: Evidence, out: Path) -> Path:
    """Write the model (of a completed study) and the report into `out`; returns report.html."""
    out.mkdir(parents=True, exist_ok=True)
    model = _write_model(row, store, out) if row.state == "completed" else None
    return write_report(_report(row, store, log, evidence, model), out)


def final_vector(row: StudyRow, store: Store) -> Vector:
    """The final model of a completed study: float32 (parameters,)."""
    return final_model(Checkpoints(store.database, row.digest).load(row.study.training.rounds))


def _write_model(row: StudyRow, store: Store, out: Path) -> ModelReport:
    study, vector = row.study, final_vector(row, store)
    names = feature_names(study)
    module = build_seeded(study.model, len(names), 1, study.training.seed)
    arrays.load_into(module, vector)
    tensors = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    content = save(tensors, metadata=_metadata(study, row.digest, names))
    (out / MODEL_FILE).write_bytes(content)
    return ModelReport(
        file=MODEL_FILE,
        sha256=hashlib.sha256(content).hexdigest(),
        parameters=vector.size,
        load=LOAD,
    )


def _metadata(study: Study, digest: str, names: tuple[str, ...]) -> dict[str, str]:
    """Under one key: safetensors writes several in an order that changes with the process."""
    facts = {
        "study": study.name,
        "study_digest": digest,
        "model": study.model.model_dump(mode="json"),
        "inputs": names,
        "preprocessing": study.preprocessing.model_dump(mode="json"),
        "privacy": study.privacy.model_dump(mode="json"),
    }
    return {"cohortium": json.dumps(facts, sort_keys=True)}


def _report(
    row: StudyRow, store: Store, log: EventLog, evidence: Evidence, model: ModelReport | None
) -> ReportData:
    study, rounds = row.study, store.rounds(row.digest)
    consents = store.consents(row.digest)
    main = of_main_model(rounds)
    scores = next((r.summary for r in reversed(main) if r.summary is not None), None)
    sites = tuple(_site(name, consents.get(name), rounds, scores) for name in study.sites.names)
    head = log.head()
    return ReportData(
        study=study.name,
        purpose=study.purpose.text,
        legal_basis=study.purpose.legal_basis,
        outcome=study.task.outcome,
        state=row.state + (f" ({row.cause})" if row.cause else ""),
        sites=sites,
        groups=_groups(study, scores),
        performance=_performance(study, main),
        rounds=tuple(_round(record) for record in main),
        summary=_summary(scores),
        model=model,
        proof=Proof(
            tls=evidence.tls or None,
            ca_fingerprint=evidence.ca_fingerprint,
            study_digest=row.digest,
            coordinator_log_size=head.size,
            coordinator_log_head=head.digest,
            started=_time(row.submitted_ms),
            finished=_time(row.ended_ms) if row.ended_ms else None,
            version=version("cohortium"),
            hosts=(evidence.config.host,),
        ),
    )


def _site(
    name: str, consent: Consent | None, rounds: list[RoundRecord], scores: Scores | None
) -> SiteReport:
    spent = _last_spent(name, rounds)
    found = scores.sites.get(name) if scores else None
    reasons = [record.refused[name] for record in rounds if name in record.refused]
    if consent is not None and consent.decision == "refused":
        reasons.append(f"{consent.rule}: {consent.explanation}")
    if found is not None and found.reason:
        reasons.append(found.reason)
    return SiteReport(
        name=name,
        patients_band=(consent.patients if consent else "") or "unknown",
        approved_by=", ".join(consent.approvers) or None if consent else None,
        approved_at=(consent.approved_at or None) if consent else None,
        epsilon_spent=spent.epsilon if spent else None,
        epsilon_lifetime=spent.lifetime_epsilon if spent else None,
        epsilon_cap=spent.cap_epsilon if spent else None,
        delta=spent.delta if spent else None,
        sampler=spent.sampler if spent else None,
        noise_multiplier=spent.noise_multiplier if spent else None,
        steps=spent.steps if spent else None,
        accuracy=found.accuracy if found else None,
        majority=found.majority if found else None,
        auroc=found.auroc if found else None,
        log_loss=found.log_loss if found else None,
        n=found.n if found else None,
        messages=_traffic(name, rounds),
        reasons=tuple(dict.fromkeys(reasons)),
    )


def _last_spent(name: str, rounds: list[RoundRecord]) -> Spent | None:
    return next((record.spent[name] for record in reversed(rounds) if name in record.spent), None)


def _traffic(name: str, rounds: list[RoundRecord]) -> tuple[Traffic, ...]:
    total: dict[str, tuple[int, int]] = {}
    for record in rounds:
        for kind, size in record.received.get(name, {}).items():
            count, before = total.get(kind, (0, 0))
            total[kind] = (count + 1, before + size)
    return tuple(
        Traffic(kind=kind, count=count, bytes=size) for kind, (count, size) in total.items()
    )


def _performance(study: Study, rounds: list[RoundRecord]) -> tuple[Performance, ...]:
    """Of the last round that was measured; the sites in the order that the study names."""
    shown = next((r.evaluations for r in reversed(rounds) if r.evaluations), None)
    if shown is None:
        return ()
    tallies = {name: shown[name].overall for name in study.sites.names if name in shown}
    return performance(tallies, study.evaluation.thresholds)


def _groups(study: Study, scores: Scores | None) -> tuple[GroupReport, ...]:
    """In the order that the study declares; `unknown` levels last."""
    found = {(group.attribute, group.level): group for group in scores.groups} if scores else {}
    declared = [
        (a, level) for a in study.fairness.attributes for level in study.attribute_levels(a)
    ]
    ordered = [key for key in declared if key in found]
    return tuple(_group(found[key]) for key in [*ordered, *(k for k in found if k not in ordered)])


def _group(group: GroupSummary) -> GroupReport:
    return GroupReport(
        attribute=group.attribute,
        level=group.level,
        accuracy=group.accuracy.value,
        accuracy_low=group.accuracy.low,
        accuracy_high=group.accuracy.high,
        sensitivity=group.sensitivity.value,
        sensitivity_low=group.sensitivity.low,
        sensitivity_high=group.sensitivity.high,
        selection_rate=group.selection_rate.value,
        selection_rate_low=group.selection_rate.low,
        selection_rate_high=group.selection_rate.high,
        n=group.accuracy.of or None,
        sites_shown=group.accuracy.sites_shown,
        sites_total=group.sites,
        reason=None if group.accuracy.sites_shown else "suppressed at every site",
    )


def _round(record: RoundRecord) -> RoundReport:
    scores = record.summary
    return RoundReport(
        round=record.round,
        seconds=record.seconds,
        accuracy=scores.accuracy.unweighted if scores else None,
        auroc=scores.auroc.unweighted if scores else None,
        log_loss=scores.log_loss.unweighted if scores else None,
        replied=record.replied,
        missing=record.missing,
    )


def _summary(scores: Scores | None) -> Summary:
    if scores is None:
        return Summary()
    return Summary(
        accuracy_mean=scores.accuracy.unweighted,
        accuracy_weighted=scores.accuracy.weighted,
        auroc_mean=scores.auroc.unweighted,
        log_loss_mean=scores.log_loss.unweighted,
        majority_accuracy=scores.majority.weighted,
        sites_measured=scores.accuracy.sites,
    )


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
