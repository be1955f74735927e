"""The report of a study, from what the store holds of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from cohortium.common.audit.log import EventLog
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Consent, Spent
from cohortium.common.metrics.summary import Mean, SiteScores
from cohortium.common.metrics.summary import Summary as Scores
from cohortium.common.study import Study
from cohortium.server.config import CoordinatorConfig
from cohortium.server.explained import explained_by
from cohortium.server.measured import Measured
from cohortium.server.model_file import describe
from cohortium.server.reports.blinding import blinded
from cohortium.server.reports.findings import ReleaseReport
from cohortium.server.reports.report import write_report
from cohortium.server.reports.report_data import (
    ModelReport,
    Promise,
    Proof,
    ReportData,
    RoundReport,
    SiteReport,
    Summary,
    Traffic,
)
from cohortium.server.store import RoundRecord, Store, StudyRow, of_main_model
from cohortium.server.value import value_of


@dataclass(frozen=True)
class Evidence:
    """Facts about the deployment that a report states, as they were measured."""

    config: CoordinatorConfig
    tls: str
    ca_fingerprint: str


def publish(
    row: StudyRow,
    store: Store,
    log: EventLog,
    evidence: Evidence,
    out: Path,
    *,
    shared_by: SigningKey | None = None,
    release: ReleaseReport | None = None,
) -> Path:
    """Write the report into `out`; returns report.html.

    It names the model of a completed study by its hash: the file itself leaves by `study export`.

    Args:
        shared_by: the coordinator's key, for a report that others read: where the study says
            `blinded`, it names no site. None for the coordinator's own copy.
        release: whether the model was released, as far as it is known.
    """
    out.mkdir(parents=True, exist_ok=True)
    whole = row.state == "completed" and not row.study.transfer.own
    model = describe(row, store) if whole else None
    data = _report(row, store, log, evidence, model, release)
    if not row.study.evaluation.blinded:
        return write_report(data, out)
    if shared_by is None:
        return write_report(data.model_copy(update={"blinding": "coordinator"}), out)
    return write_report(blinded(data, _secret(shared_by, row.digest)), out)


def _secret(key: SigningKey, study: str) -> bytes:
    """What pseudonyms are drawn from: always the same, and nobody's who has not the key.

    A signature by Ed25519 is deterministic, and one over this text is used for nothing else.
    """
    return hashlib.sha256(key.sign(b"cohortium-blinding-v1\n" + study.encode())).digest()


def _report(
    row: StudyRow,
    store: Store,
    log: EventLog,
    evidence: Evidence,
    model: ModelReport | None,
    release: ReleaseReport | None,
) -> ReportData:
    study, rounds = row.study, store.rounds(row.digest)
    consents = store.consents(row.digest)
    main = of_main_model(rounds)
    scores = next((r.summary for r in reversed(main) if r.summary is not None), None)
    sites = tuple(_site(name, study, consents, rounds, scores) for name in study.sites.names)
    last = next((record for record in reversed(main) if record.evaluations), None)
    found = Measured(study, last.evaluations if last else {}, last.calibration if last else None)
    head = log.head()
    return ReportData(
        study=study.name,
        purpose=study.purpose.text,
        legal_basis=study.purpose.legal_basis,
        outcome=study.task.outcome,
        kind=study.task.kind,
        state=_state(row, release),
        own=study.transfer.own,
        promise=_promise(study, sites),
        sites=sites,
        summary=_summary(scores),
        performance=found.performance(),
        by_group=found.by_group(),
        audit=found.audit(),
        reliability=found.reliability(),
        net_benefit=found.net_benefit(),
        calibration=found.calibration(),
        horizons=found.horizons(),
        worth=value_of(study, rounds),
        explained=explained_by(study, last.evaluations if last else {}),
        release=release,
        rounds=tuple(_round(record) for record in main),
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


def _state(row: StudyRow, release: ReleaseReport | None) -> str:
    if release is not None and release.state != "not released":
        return release.state
    return row.state + (f" ({row.cause})" if row.cause else "")


def _promise(study: Study, sites: tuple[SiteReport, ...]) -> Promise:
    spent = [site.epsilon_spent for site in sites if site.epsilon_spent is not None]
    return Promise(
        spent=max(spent, default=None),
        epsilon=study.privacy.epsilon,
        delta=study.privacy.delta,
        noise_epsilon=study.evaluation.noise_epsilon,
    )


def _site(
    name: str,
    study: Study,
    consents: Mapping[str, Consent],
    rounds: list[RoundRecord],
    scores: Scores | None,
) -> SiteReport:
    consent, spent = consents.get(name), _last_spent(name, rounds)
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
        headline=_site_headline(found) if found else {},
        majority=found.majority if found else None,
        n=found.n if found else None,
        external=name in study.sites.evaluate_only,
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


def _site_headline(found: SiteScores) -> dict[str, float | None]:
    """Rounds of older versions have no headline of their own."""
    older = {"log_loss": found.log_loss, "auroc": found.auroc, "accuracy": found.accuracy}
    return dict(found.headline) or older


def _headline(scores: Scores) -> dict[str, Mean]:
    older = {"log_loss": scores.log_loss, "auroc": scores.auroc, "accuracy": scores.accuracy}
    return dict(scores.headline) or older


def _round(record: RoundRecord) -> RoundReport:
    means = _headline(record.summary) if record.summary else {}
    return RoundReport(
        round=record.round,
        seconds=record.seconds,
        headline={key: mean.unweighted for key, mean in means.items()},
        replied=record.replied,
        missing=record.missing,
    )


def _summary(scores: Scores | None) -> Summary:
    if scores is None:
        return Summary()
    means = _headline(scores)
    return Summary(
        headline={key: mean.unweighted for key, mean in means.items()},
        weighted={key: mean.weighted for key, mean in means.items()},
        majority_accuracy=scores.majority.weighted,
        sites_measured=max(mean.sites for mean in means.values()),
    )


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
