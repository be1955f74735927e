"""chai-model-card.xml: the Applied Model Card of the Coalition for Health AI, schema v0.2.

Element names and their order are those of `https://mc.chai.org/v0.2/schema.xsd` (its
`EHRCompatability` is spelt so there; it is left out, as nothing here knows of an EHR). All fields
are Markdown, so texts that people wrote are escaped.
"""

import json
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree as xml

from cohortium.common.audit.evidence import Evidence, StudyFacts
from cohortium.common.audit.paper import subject
from cohortium.common.audit.paper.account import accounts, promise
from cohortium.common.audit.paper.safeguards import safeguards
from cohortium.common.audit.paper.text import PROVIDER, count, listed, markdown
from cohortium.common.document import one_line

NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"
LEVEL = 95
SAFETY = ("brier", "log_loss", "ece", "calibration", "observed_to_expected")

Parts = Sequence[tuple[str, "str | Parts"]]


def chai_cards(evidence: Evidence) -> dict[str, bytes]:
    """One for each model."""
    return {
        f"{folder}/chai-model-card.xml": _document(_card(evidence, facts))
        for folder, facts in subject.folders(evidence)
    }


def _document(parts: Parts) -> bytes:
    root = xml.Element("AppliedModelCard", xmlns=NAMESPACE)
    _add(root, parts)
    xml.indent(root)
    text = xml.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def _add(parent: xml.Element, parts: Parts) -> None:
    for name, content in parts:
        child = xml.SubElement(parent, name)
        if isinstance(content, str):
            child.text = _printable(content)
        else:
            _add(child, content)


def _printable(text: str) -> str:
    """XML 1.0 has no way to say most control characters."""
    return "\n".join(one_line(line, 10_000) for line in text.split("\n"))


def _card(evidence: Evidence, facts: StudyFacts) -> Parts:
    return (
        ("BasicInfo", _basic(evidence, facts)),
        ("ReleaseInfo", _release(facts)),
        ("ModelSummary", _summary(facts)),
        ("UsesAndDirections", _uses(facts)),
        ("Warnings", _warnings(facts)),
        ("TrustIngredients", _trust(evidence, facts)),
        ("KeyMetrics", _metrics(evidence, facts)),
        ("Resources", _resources(facts)),
        ("Bibliography", ""),
    )


def _basic(evidence: Evidence, facts: StudyFacts) -> Parts:
    return (
        ("ModelName", facts.study.name),
        ("ModelDeveloper", f"the consortium {evidence.consortium}: {_sites(facts)}"),
        ("DeveloperContact", PROVIDER),
    )


def _sites(facts: StudyFacts) -> str:
    return listed(facts.study.sites.names)


def _release(facts: StudyFacts) -> Parts:
    assert facts.model is not None
    said, model = facts.model.release, facts.model
    stage = f"released for the study's purpose by {markdown(said.name)}" if said else "not released"
    if model.overridden:
        stage += f"; {count(model.overridden, 'open flag')} overridden: {markdown(model.reason)}"
    return (
        ("ReleaseStage", stage),
        ("ReleaseDate", said.at if said else "not released"),
        ("ReleaseVersion", f"sha256:{model.sha256}"),
        ("GlobalAvailability", PROVIDER),
        ("RegulatoryApproval", f"Not a medical device as it is. {PROVIDER}"),
    )


def _summary(facts: StudyFacts) -> Parts:
    words = ("federated learning", facts.study.task.kind, "tabular", "healthcare")
    return (
        (
            "Summary",
            f"Predicts {markdown(facts.study.task.outcome)}. {markdown(facts.study.purpose.text)}",
        ),
        ("Keywords", tuple(("Keyword", word) for word in words)),
    )


def _uses(facts: StudyFacts) -> Parts:
    purpose = facts.study.purpose
    approved = f"Any data use but {purpose.duo} (GA4GH), which is what the sites approved"
    outside = f"{approved}; patients unlike those of {_sites(facts)}."
    return (
        ("IntendedUseAndWorkflow", f"{markdown(purpose.text)} Workflow: {PROVIDER}"),
        ("PrimaryIntendedUsers", PROVIDER),
        ("HowToUse", PROVIDER),
        (
            "TargetedPatientPopulation",
            f"As in the data model {facts.study.data_model.name}; inclusion: {PROVIDER}",
        ),
        ("CautionedOutOfScopeSettings", outside),
    )


def _warnings(facts: StudyFacts) -> Parts:
    flags = [
        f"- {markdown(subject.flag_text(flag, facts))}: {'OPEN' if flag.open else flag.decision}"
        for flag in facts.flags
    ]
    gaps = [
        f"- {markdown(subject.question(one))}: {one.verdict}"
        for one in subject.contrasts(facts)
        if subject.about_site(one) is None and one.verdict != "within margin"
    ]
    unseen = [f"- {markdown(f'{one.attribute}: {one.level}')} was seen at no site ({one.reason})"
              for one in subject.invisible(facts) if one.site is None]  # fmt: skip
    nobody = "Nobody looked: the study names no attribute, or nothing could be shown."
    return (
        (
            "KnownRisksAndLimitations",
            "\n".join([f"Privacy: {promise(facts)}.", *(flags or ["No flag was raised."])]),
        ),
        (
            "KnownBiasesOrEthicalConsiderations",
            "\n".join([*gaps, *unseen]) or (nobody if not subject.contrasts(facts) else
            "Every declared comparison over all sites was within its margin."),
        ),
        ("ClinicalRiskLevel", PROVIDER),
    )  # fmt: skip


def _trust(evidence: Evidence, facts: StudyFacts) -> Parts:
    study = facts.study
    rounds = count(study.training.rounds, "round")
    system = {
        "OutcomesAndOutputs": f"{markdown(study.task.outcome)} ({study.task.kind})",
        "ModelType": f"{study.model.name}, trained by {study.strategy.name} in {rounds}",
        "InputDataSource": f"Patients' rows at {_sites(facts)}; they did not leave the sites.",
        "OutputAndInputDataTypes": f"Inputs: {listed(study.data.features)}.",
        "DevelopmentDataCharacterization": _data(facts),
        "BiasMitigationApproaches": _mitigation(facts),
        "OngoingMaintenance": PROVIDER,
        "Security": "\n".join(f"- {one.line}" for one in safeguards(evidence, facts)),
        "Transparency": "Study, approvals and flags are in the bundle that this card is part of.",
    }
    people = {"FundingSource": PROVIDER, "StakeholdersConsulted": PROVIDER}
    return (
        ("AISystemFacts", tuple(system.items())),
        ("TransparencyInformation", tuple(people.items())),
    )


def _data(facts: StudyFacts) -> str:
    if subject.blinded(facts):
        return f"{count(len(facts.study.sites.names), 'site')}; sizes are {subject.NOT_SAID}."
    bands = (
        f"{site}: {consent.patients or 'size unknown'}"
        for site, consent in sorted(facts.consents.items())
        if consent.decision == "approved"
    )
    return f"Patients by site, in public bands: {listed(bands, 'unknown')}."


def _mitigation(facts: StudyFacts) -> str:
    asked = facts.study.mitigation
    steps = []
    if asked.recalibrate:
        steps.append("each site recalibrates the model on its own patients; the fit stays there")
    if asked.ditto is not None:
        steps.append(f"each site trains a personal model (Ditto, {asked.ditto:g})")
    if facts.study.strategy.q is not None:
        steps.append(f"sites with a higher loss count more (q-FFL, q = {facts.study.strategy.q:g})")
    return listed(steps, "None in the study.")


def _metrics(evidence: Evidence, facts: StudyFacts) -> Parts:
    overall = subject.results(facts)
    safety = [one for one in overall if one.measure.startswith(SAFETY)]
    useful = [one for one in overall if one not in safety]
    fairness = facts.study.fairness
    margins = listed(
        (f"{key} {value:g}" for key, value in sorted(fairness.margins.items())), "the defaults"
    )
    goals = {
        "UsefulnessUsabilityEfficacy": f"Acceptance thresholds: {PROVIDER}",
        "FairnessEquity": f"No gap above its margin; primary {fairness.primary}, margins {margins}",
        "SafetyReliability": f"Thresholds: {PROVIDER}. Privacy: {_privacy(evidence, facts)}",
    }
    found = ((useful, PROVIDER), (_fairness(facts), _verdicts(facts)), (safety, PROVIDER))
    return tuple(
        (name, _metric(facts, goal, values, words))
        for (name, goal), (values, words) in zip(goals.items(), found, strict=True)
    )


def _metric(
    facts: StudyFacts, goal: str, found: Sequence[subject.Result], interpretation: str
) -> Parts:
    counted = f"Counted at each site and added up; {LEVEL} % intervals. Justification: {PROVIDER}"
    away = facts.study.sites.evaluate_only
    held_out = f"every patient of {listed(away)}, " if away and not subject.blinded(facts) else ""
    return (
        ("MetricGoal", goal),
        ("Results", tuple(_values(found))),
        ("Interpretation", interpretation),
        ("TestType", "Retrospective, on held-out patients at the sites"),
        ("TestingDataDescription", f"Held out before training: {held_out}{_split(facts)}."),
        ("ValidationProcessAndJustification", counted),
    )


def _split(facts: StudyFacts) -> str:
    split = facts.study.split
    if split.column is not None:
        return f"by the column {split.column}"
    return f"a share of {split.test_fraction:g} by seed {split.seed}"


def _values(found: Sequence[subject.Result]) -> Iterator[tuple[str, Parts]]:
    if not found:
        value = json.dumps({"kind": "text", "value": "not measured, or not shown"})
        yield "MetricResult", (("Label", "Not measured"), ("ValueJson", value))
    for one in found:
        label = f"{one.label}, {one.slice}" if one.slice else one.label
        yield "MetricResult", (("Label", label), ("ValueJson", json.dumps(_value(one))))


def _value(one: subject.Result) -> dict[str, str | float | int]:
    if one.low is None or one.high is None:
        return {"kind": "single", "value": round(one.value, 6)}
    return {
        "kind": "estimate_ci",
        "estimate": round(one.value, 6),
        "lower": round(one.low, 6),
        "upper": round(one.high, 6),
        "level": LEVEL,
    }


def _fairness(facts: StudyFacts) -> list[subject.Result]:
    """Groups' values, and the gaps between them over all sites."""
    gaps = [
        subject.Result(one.criterion, f"gap, {subject.question(one)}", "", one.gap, one.low,
                       one.high, one.n)
        for one in subject.contrasts(facts)
        if one.gap is not None and subject.about_site(one) is None
    ]  # fmt: skip
    return [*gaps, *subject.group_results(facts)]


def _verdicts(facts: StudyFacts) -> str:
    found = (f"{verdict} {number}" for verdict, number in subject.verdicts(facts).items())
    return f"Verdicts over all sites: {listed(found, 'no comparison was made')}. {PROVIDER}"


def _privacy(evidence: Evidence, facts: StudyFacts) -> str:
    spent = [
        f"{subject.called(evidence, facts, one.site)}: epsilon {one.epsilon} at delta "
        f"{one.delta} for {one.purpose} ({one.words})"
        for one in accounts(evidence, facts)
    ]
    return f"{promise(facts)}; spent: {listed(sorted(spent), 'no account is in the evidence')}"


def _resources(facts: StudyFacts) -> Parts:
    purpose = facts.study.purpose
    return (
        ("PeerReviewedPublications", PROVIDER),
        ("PatientConsentOrDisclosure", f"{markdown(purpose.legal_basis)}; data use {purpose.duo}"),
    )
