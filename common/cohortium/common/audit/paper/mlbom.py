"""mlbom.cdx.json: a model as CycloneDX 1.6 has it: parameters, data, results by group, risks."""

from collections.abc import Iterable, Iterator

from cohortium.common.audit.evidence import Evidence, StudyFacts
from cohortium.common.audit.paper import subject
from cohortium.common.audit.paper.account import accounts, promise
from cohortium.common.audit.paper.bom import Values, bom, properties
from cohortium.common.audit.paper.safeguards import safeguards
from cohortium.common.audit.paper.text import PROVIDER, decimal

FAMILIES = dict.fromkeys(("logistic", "linear", "cox"), "generalised linear model")
TASKS = {
    "regression": "regression",
    "survival": "survival analysis",
    "labelling": "sequence labelling",
    "contacts": "contact prediction",
    "reconstruction": "reconstruction",
    "generation": "generation",
}


def mlboms(evidence: Evidence) -> dict[str, bytes]:
    """One for each model."""
    return {
        f"{folder}/mlbom.cdx.json": _mlbom(evidence, facts)
        for folder, facts in subject.folders(evidence)
    }


def _mlbom(evidence: Evidence, facts: StudyFacts) -> bytes:
    data = [_dataset(facts, site) for site in subject.sources(facts)]
    refs = [found["bom-ref"] for found in data]
    model = _model(evidence, facts, refs)
    return bom(evidence, model, data, dependencies=[{"ref": "model", "dependsOn": refs}])


def _model(evidence: Evidence, facts: StudyFacts, data: list[str]) -> Values:
    study, model = facts.study, facts.model
    assert model is not None
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": study.name,
        "version": f"sha256:{model.sha256[:16]}",
        "description": f"Predicts {study.task.outcome}; {promise(facts)}",
        "hashes": [{"alg": "SHA-256", "content": model.sha256}],
        "modelCard": {
            "modelParameters": _parameters(facts, data),
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(facts))},
            "considerations": _considerations(facts),
        },
        "properties": properties(
            {
                "cohortium:study": facts.digest,
                "cohortium:parameters": str(model.parameters),
                "cohortium:bytes": str(model.bytes),
                "cohortium:privacy": promise(facts),
                "cohortium:released": model.release.at if model.release else "not released",
                **{f"cohortium:{one.name}": f"{one.state}: {one.words}"
                   for one in safeguards(evidence, facts)},
                **_spent(evidence, facts),
            }
        ),
    }  # fmt: skip


def _spent(evidence: Evidence, facts: StudyFacts) -> dict[str, str]:
    found = [
        (subject.called(evidence, facts, one.site), one.purpose, one)
        for one in accounts(evidence, facts)
    ]
    texts = sorted(
        (site, purpose, f"{one.epsilon} at delta {one.delta}; {one.words}")
        for site, purpose, one in found
    )
    return {
        f"cohortium:epsilon:{purpose}:{place}:{site}": text
        for place, (site, purpose, text) in enumerate(texts, start=1)
    }


def _parameters(facts: StudyFacts, data: list[str]) -> Values:
    study = facts.study
    hidden = " x ".join(map(str, getattr(study.model, "hidden", ())))
    return {
        "approach": {"type": "supervised"},
        "task": TASKS.get(study.task.kind, "classification"),
        "architectureFamily": FAMILIES.get(study.model.name, "neural network"),
        "modelArchitecture": f"{study.model.name} {hidden}".strip(),
        "datasets": [{"ref": ref} for ref in data],
        "inputs": [{"format": f"{name} ({_kind(facts, name)})"} for name in study.data.features],
        "outputs": [{"format": f"{study.task.outcome} ({study.task.kind})"}],
    }


def _kind(facts: StudyFacts, name: str) -> str:
    column = facts.study.data_model.columns[name]
    unit = getattr(column, "unit", "")
    return f"{column.kind}, {unit}" if unit else column.kind


def _metrics(facts: StudyFacts) -> Iterator[Values]:
    for one in (*subject.results(facts), *subject.group_results(facts)):
        yield _metric(one.label, one.slice, one.value, one.low, one.high)
    for gap in subject.contrasts(facts):
        if gap.gap is not None and subject.about_site(gap) is None:
            criterion = gap.criterion.replace("_", " ")
            outcome = f" of {gap.outcome}" if gap.outcome else ""
            name = f"gap in {criterion}{outcome} ({gap.verdict}, margin {gap.margin:g})"
            where = f"{gap.attribute}={gap.level} against {gap.reference}"
            yield _metric(name, where, gap.gap, gap.low, gap.high)


def _metric(name: str, where: str, value: float, low: float | None, high: float | None) -> Values:
    found: Values = {"type": name, "value": decimal(value)}
    if where:
        found["slice"] = where
    if low is not None and high is not None:
        found["confidenceInterval"] = {"lowerBound": decimal(low), "upperBound": decimal(high)}
    return found


def _considerations(facts: StudyFacts) -> Values:
    purpose = facts.study.purpose
    return {
        "users": [PROVIDER],
        "useCases": [purpose.text],
        "technicalLimitations": [
            "measured on held-out patients of the named sites; elsewhere it may do worse",
            f"any use but {purpose.duo} (GA4GH Data Use Ontology) is outside what sites approved",
        ],
        "ethicalConsiderations": [*_risks(facts)],
        "fairnessAssessments": [*_assessments(facts)],
    }


def _risks(facts: StudyFacts) -> Iterable[Values]:
    yield {"name": "patients may be told from parameters", "mitigationStrategy": promise(facts)}
    for flag in facts.flags:
        words = subject.answer(flag, facts)
        yield {"name": subject.flag_text(flag, facts), "mitigationStrategy": words}


def _assessments(facts: StudyFacts) -> Iterable[Values]:
    for one in subject.contrasts(facts):
        if subject.about_site(one) is None and one.verdict != "within margin":
            yield {
                "groupAtRisk": f"{one.attribute}: {one.level}",
                "harms": f"{subject.question(one)}: {one.verdict}" + _why(one.reason),
                "mitigationStrategy": PROVIDER,
            }
    for unseen in subject.invisible(facts):
        if unseen.site is None:
            yield {
                "groupAtRisk": f"{unseen.attribute}: {unseen.level}",
                "harms": f"not seen at any site: {unseen.reason}",
                "mitigationStrategy": PROVIDER,
            }


def _why(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _dataset(facts: StudyFacts, site: str) -> Values:
    """Data that stayed at a site: its name and what the schema says in public, nothing else."""
    study = facts.study
    consent = facts.consents.get(site)
    size = consent.patients if consent and not subject.blinded(facts) else ""
    return {
        "type": "data",
        "bom-ref": f"data:{site}",
        "name": f"{study.data.dataset} of {site}",
        "description": f"Patients' rows that stayed at {site}; data model {study.data_model.name}",
        "data": [
            {
                "type": "dataset",
                "name": study.data.dataset,
                "classification": "personal health data, not in this bundle",
                "sensitiveData": [*study.columns_read],
                "governance": {"custodians": [{"organization": {"name": site}}]},
            }
        ],
        "properties": properties({"cohortium:patients": size}),
    }
