"""Studies with what their sites would send, made by hand, on which the report is tested.

Four hospitals as those of the UCI heart disease data: two large ones, one with nearly only ill
patients, one of veterans with hardly a woman.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohortium.common.document import parse
from cohortium.common.metrics.auroc import auroc, auroc_variance
from cohortium.common.metrics.summary import summarise
from cohortium.common.metrics.tallies import (
    AtHorizon,
    BinaryTally,
    Bins,
    Called,
    SiteEvaluation,
    SurvivalTally,
)
from cohortium.common.metrics.value import Compared, Crossed, Value
from cohortium.common.study import Study
from cohortium.server.measured import Measured
from cohortium.server.reports.findings import (
    CalibrationLine,
    FlagState,
    ReleaseReport,
)
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

SITES = ("cleveland", "hungarian", "switzerland", "va-long-beach")
SIZES = {"cleveland": 303, "hungarian": 261, "switzerland": 46, "va-long-beach": 130}
ILL = {"cleveland": 0.46, "hungarian": 0.36, "switzerland": 0.95, "va-long-beach": 0.75}
FEMALE = {"cleveland": 0.33, "hungarian": 0.28, "switzerland": 0.1, "va-long-beach": 0.03}
MINIMUM_CELL = 10
THRESHOLDS = (0.5, 0.3)
FEW = f"fewer than {MINIMUM_CELL} patients in a cell"

Array = NDArray[np.float64]


def heart_study(**evaluation: Any) -> Study:
    """Ill or well, looked at by sex, age band and both."""
    return _study(
        {"kind": "binary", "label": "ill", "positive_codes": ["1"]},
        {"thresholds": THRESHOLDS, **evaluation},
        {"sites": {"names": SITES, "min_sites": 3}},
    )


def heart(**evaluation: Any) -> ReportData:
    """The report of a private study with gaps, groups that nobody sees, and an open flag."""
    study = heart_study(**evaluation)
    rng = np.random.default_rng(7)
    evaluations = {site: _hospital(rng, site) for site in SITES}
    return _report(study, evaluations).model_copy(
        update={
            "worth": _worth(),
            "release": _release(),
            "calibration": (*_pooled_calibration(), *Measured(study, evaluations).calibration()),
        }
    )


def survival() -> ReportData:
    """Four clinics, the time to a relapse; one shows nothing."""
    study = _study(
        {"kind": "survival", "time": "days", "event": "relapse", "horizons": (365, 730, 1825)},
        {},
        {"sites": {"names": SITES, "min_sites": 3, "evaluate_only": ("va-long-beach",)}},
    )
    rng = np.random.default_rng(11)
    evaluations = {site: _clinic(rng, site) for site in SITES}
    return _report(study, evaluations)


def _study(task: dict[str, Any], evaluation: dict[str, Any], more: dict[str, Any]) -> Study:
    number = {"kind": "number", "low": 0, "high": 4000}
    columns = {
        "age": {"kind": "number", "low": 18, "high": 100, "unit": "a"},
        "sex": {"kind": "flag", "no_label": "female", "yes_label": "male"},
        "chol": number,
        "ill": {"kind": "flag"},
        "days": number,
        "relapse": {"kind": "flag"},
    }
    values = {
        "name": "heart-study",
        "purpose": {
            "text": "Tell before an angiography who has a narrowed coronary artery.",
            "duo": "HMB",
            "legal_basis": "public data, CC BY 4.0",
        },
        "data": {"dataset": "heart", "features": ["age", "sex", "chol"]},
        "data_model": {"name": "heart", "columns": columns},
        "task": task,
        "model": {"name": "logistic"},
        "split": {"test_fraction": 0.5},
        "training": {"rounds": 15, "batches": "full"},
        "strategy": {"learning_rate": 2.0},
        "privacy": {"mechanism": "gaussian", "epsilon": 3.0, "delta": 1e-5, "clip_norm": 1.0},
        "evaluation": evaluation,
        "fairness": {
            "attributes": ["sex", "age"],
            "bands": {"age": (50, 60)},
            "intersections": (("sex", "age"),),
            "reference": {"sex": "male"},
        },
        **more,
    }
    return parse(values, Study, "report_samples")


def _hospital(rng: np.random.Generator, site: str) -> SiteEvaluation:
    n = SIZES[site]
    ill = rng.random(n) < ILL[site]
    female = rng.random(n) < FEMALE[site]
    age = rng.normal(55, 9, n)
    # Of ill women the model finds fewer, of the young it says too little.
    logit = rng.normal(0, 1, n) + 1.6 * (ill - 0.5) - 1.0 * (female & ill) + (age - 55) / 25
    score = 1 / (1 + np.exp(-(0.4 + 1.5 * logit)))
    sex = {"female": female, "male": ~female}
    ages = {"<50": age < 50, "50 to <60": (age >= 50) & (age < 60), ">=60": age >= 60}
    both = {f"{s} x {a}": sex[s] & ages[a] for s in sex for a in ages}
    return SiteEvaluation(
        overall=binary_tally(score, ill, overall=True),
        groups={
            name: {level: binary_tally(score[rows], ill[rows]) for level, rows in levels.items()}
            for name, levels in {"sex": sex, "age": ages, "sex x age": both}.items()
        },
    )


def binary_tally(score: Array, ill: NDArray[np.bool_], *, overall: bool = False) -> BinaryTally:
    """What a site sends, with small cells left out (not: what follows from them)."""
    n, positives = len(score), int(ill.sum())
    if not n:
        return BinaryTally(
            n=0,
            positives=0,
            correct=0,
            tp=0,
            fp=0,
            tn=0,
            fn=0,
            log_loss=None,
            auroc=None,
            reason="no patients",
        )
    if small(n) or small(positives) or small(n - positives):
        hidden = n if not small(n) else None
        return BinaryTally(
            n=hidden,
            positives=None,
            correct=None,
            tp=None,
            fp=None,
            tn=None,
            fn=None,
            log_loss=None,
            auroc=None,
            reason=FEW,
        )
    at = [
        Called(tp=int((ill & (score > t)).sum()), fp=int((~ill & (score > t)).sum()))
        for t in THRESHOLDS
    ]
    first = at[0]
    shown = not any(map(small, (first.tp, first.fp, positives - first.tp)))
    wrong = (score - ill) ** 2
    inside = np.where(ill, score, 1 - score)
    return BinaryTally(
        n=n,
        positives=positives,
        correct=first.tp + n - positives - first.fp,
        tp=first.tp if shown else None,
        fp=first.fp if shown else None,
        tn=n - positives - first.fp if shown else None,
        fn=positives - first.tp if shown else None,
        log_loss=float(-np.log(inside).mean()),
        auroc=auroc(score, ill),
        auroc_variance=auroc_variance(score, ill),
        brier=float(wrong.mean()),
        brier_squares=float((wrong**2).mean()),
        mean_score=float(score.mean()),
        undecided=float((score * (1 - score)).mean()),
        further=tuple(at[1:]) if shown else (),
        bins=_bins(score, ill) if overall else None,
        reason="" if shown else FEW,
    )


def small(count: int) -> bool:
    return 0 < count < MINIMUM_CELL


def _bins(score: Array, ill: NDArray[np.bool_]) -> Bins | None:
    for count in (8, 4, 2):
        place = np.minimum((score * count).astype(int), count - 1)
        n = [int((place == i).sum()) for i in range(count)]
        yes = [int((ill & (place == i)).sum()) for i in range(count)]
        if not any(small(cell) for i in range(count) for cell in (yes[i], n[i] - yes[i])):
            means = [float(score[place == i].mean()) if n[i] else None for i in range(count)]
            return Bins(n=tuple(n), positives=tuple(yes), mean_score=tuple(means))
    return None


def _clinic(rng: np.random.Generator, site: str) -> SiteEvaluation:
    def tally(n: int) -> SurvivalTally:
        if n < 40:
            return SurvivalTally(
                n=None,
                events=None,
                pairs=None,
                concordant=None,
                c_variance=None,
                horizons=(),
                reason=FEW,
            )
        risks = np.array([0.12, 0.26, 0.51]) * rng.uniform(0.85, 1.15)
        seen = np.clip(risks * rng.uniform(0.8, 1.3, 3), 0, 0.95)
        seen.sort()
        pairs = n * (n - 1) / 4
        return SurvivalTally(
            n=n,
            events=int(n * 0.4),
            pairs=pairs,
            concordant=pairs * rng.uniform(0.62, 0.72),
            c_variance=0.2 / n,
            horizons=tuple(
                AtHorizon(
                    brier=0.09 + 0.05 * place,
                    brier_variance=0.02 / n,
                    predicted=float(risks[place]),
                    observed=float(seen[place]),
                    observed_variance=float(seen[place] * (1 - seen[place]) / n),
                )
                for place in range(3)
            ),
        )

    n = SIZES[site]
    sex = {"female": tally(int(n * FEMALE[site])), "male": tally(int(n * (1 - FEMALE[site])))}
    return SiteEvaluation(overall=tally(n if n > 50 else 20), groups={"sex": sex})


def _report(study: Study, evaluations: Mapping[str, SiteEvaluation]) -> ReportData:
    found, scores = Measured(study, evaluations), summarise(evaluations)
    return ReportData(
        study=study.name,
        purpose=study.purpose.text,
        legal_basis=study.purpose.legal_basis,
        outcome=study.task.outcome,
        kind=study.task.kind,
        state="completed",
        promise=Promise(spent=2.9731, epsilon=3.0, delta=1e-5),
        sites=tuple(_site(name, study, scores.sites[name]) for name in study.sites.names),
        summary=Summary(
            headline={key: mean.unweighted for key, mean in scores.headline.items()},
            weighted={key: mean.weighted for key, mean in scores.headline.items()},
            majority_accuracy=scores.majority.weighted,
            sites_measured=max(mean.sites for mean in scores.headline.values()),
        ),
        performance=found.performance(),
        by_group=found.by_group(),
        audit=found.audit(),
        reliability=found.reliability(),
        net_benefit=found.net_benefit(),
        calibration=found.calibration(),
        horizons=found.horizons(),
        worth=Value(reason="the study trains no other model to compare with"),
        rounds=tuple(
            RoundReport(
                round=number,
                seconds=0.8 + number / 100,
                headline={"log_loss": 0.4 + 0.3 / number, "accuracy": 0.8 - 0.3 / number},
                replied=SITES if number != 7 else SITES[:3],
                missing=() if number != 7 else SITES[3:],
            )
            for number in range(1, 16)
        ),
        model=ModelReport(file="model.safetensors", sha256="0c" * 32, parameters=1_209),
        proof=Proof(
            study_digest="5d" * 32,
            version="0.1.0",
            tls="TLSv1.3",
            hosts=("cleveland.example.org",),
        ),
    )


def _site(name: str, study: Study, scores: Any) -> SiteReport:
    return SiteReport(
        name=name,
        patients_band=f"{SIZES[name] // 50 * 50} to {SIZES[name] // 50 * 50 + 49}",
        approved_by=f"Dr. {name.title()}",
        approved_at="2026-11-22T14:03:42.123Z",
        epsilon_spent=2.9731,
        epsilon_lifetime=4.1,
        epsilon_cap=8.0,
        delta=1e-5,
        sampler="full-batch",
        noise_multiplier=0.9814,
        steps=15,
        headline=dict(scores.headline),
        majority=scores.majority,
        n=scores.n,
        external=name in study.sites.evaluate_only,
        messages=(
            Traffic(kind="update", count=15, bytes=12_340),
            Traffic(kind="evaluated", count=15, bytes=SIZES[name] * 13),
        ),
        reasons=(scores.reason,) if scores.reason else (),
    )


def _worth() -> Value:
    n, each = {"cleveland": 303, "hungarian": 261, "switzerland": None, "va-long-beach": 130}, []
    for place, (site, count) in enumerate(n.items()):
        known = count is not None
        each.append(
            Compared(
                other="own",
                measure="accuracy",
                site=site,
                n=count,
                federated=0.8 if known else None,
                other_value=0.77 if known else None,
                difference=0.05 - place / 50 if known else None,
                low=-0.01 - place / 40 if known else None,
                high=0.11 - place / 60 if known else None,
                reason="" if known else FEW,
            )
        )
    each.append(
        Compared(
            other="own",
            measure="accuracy",
            site=None,
            n=694,
            federated=0.79,
            other_value=0.765,
            difference=0.025,
            low=0.004,
            high=0.046,
        )
    )
    for level, gain in (("female", -0.03), ("male", 0.04)):
        each.append(
            Compared(
                other="own",
                measure="accuracy",
                site=None,
                attribute="sex",
                level=level,
                n=300,
                federated=0.75,
                other_value=0.75 - gain,
                difference=gain,
                low=gain - 0.04,
                high=gain + 0.04,
                extra=-0.07 if level == "female" else None,
                extra_low=-0.13 if level == "female" else None,
                extra_high=-0.01 if level == "female" else None,
            )
        )
    models = ("all sites", *(f"without {site}" for site in SITES))
    crossed = tuple(
        Crossed(
            model=model,
            measure="auroc",
            sites={s: None if s == "switzerland" else 0.8 - i / 100 for s in SITES},
        )
        for i, model in enumerate(models)
    )
    return Value(compared=tuple(each), crossed=crossed)


def _release() -> ReleaseReport:
    return ReleaseReport(
        state="not released",
        flags=(
            FlagState(
                id="1f0c2d3e",
                gate="fairness",
                site=None,
                subject="equal_opportunity of sex female against male",
                numbers="-0.26",
                open=True,
            ),
            FlagState(
                id="9a8b7c6d",
                gate="quarantine",
                site="switzerland",
                subject="replies were left out as implausible",
                numbers="in round 3",
                open=False,
                decision="accept",
                reason="switzerland has corrected its table",
                by="Dr. E. Haddad",
                at="2026-11-23T09:00:00Z",
            ),
        ),
    )


def _pooled_calibration() -> tuple[CalibrationLine, ...]:
    whole = CalibrationLine(
        site=None,
        sites=3,
        intercept=-0.31,
        intercept_low=-0.52,
        intercept_high=-0.1,
        slope=0.84,
        slope_low=0.69,
        slope_high=0.99,
    )
    female = whole.model_copy(update={"attribute": "sex", "level": "female", "slope": 0.6})
    return whole, female
