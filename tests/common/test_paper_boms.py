"""Bills of materials and the CHAI card, by schemas that others wrote."""

import json
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as xml

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tests import evidence_samples as samples
from tests import outcomes

from cohortium.common.audit.evidence import StudyFacts
from cohortium.common.audit.paper.chai import NAMESPACE, chai_cards
from cohortium.common.audit.paper.mlbom import mlboms
from cohortium.common.audit.paper.sbom import sboms
from cohortium.common.audit.software import installed, licences
from cohortium.common.metrics import multiclass, regression, survival
from cohortium.common.metrics.performance import of_study
from cohortium.common.metrics.tallies import SiteEvaluation

MLBOM, SBOM = "model/made-up/mlbom.cdx.json", "model/made-up/sbom.cdx.json"
CHAI = "model/made-up/chai-model-card.xml"
TALLIES: dict[str, Any] = {
    "multiclass": multiclass.tally,
    "regression": regression.tally,
    "survival": survival.tally,
}


def kinds() -> dict[str, StudyFacts]:
    """A study of each kind of outcome, one without results, and a blinded one."""
    found = {
        "binary": samples.facts(),
        "blinded": samples.facts(samples.study(blinded=True)),
        "unmeasured": samples.facts(found={}),
        "without privacy": samples.facts(samples.study(private=False), released=False, card=""),
    }
    for kind, tally in TALLIES.items():
        study = outcomes.study(kind)
        evaluations = {
            site: SiteEvaluation(
                overall=tally(*outcomes.patients(kind, 200, seed), study, frozenset(), 0),
                groups={},
            )
            for seed, site in enumerate(study.sites.names)
        }
        found[kind] = replace(
            samples.facts(found={}),
            study=study,
            evaluations=evaluations,
            performance=of_study(evaluations, study),
        )
    return found


KINDS = kinds()


def problem(text: str) -> str:
    """What CycloneDX 1.6's schema says against a document, "" for nothing."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return str(error) if error else ""


@pytest.mark.parametrize("kind", KINDS)
def test_bills_of_materials_of_every_kind_of_model_fit_the_strict_schema(kind: str) -> None:
    evidence = samples.evidence(KINDS[kind])
    for made in (mlboms(evidence)[MLBOM], sboms(evidence)[SBOM]):
        assert problem(made.decode()) == ""


def test_the_schema_notices_a_key_that_is_not_its_own() -> None:
    document = json.loads(mlboms(samples.evidence(KINDS["binary"]))[MLBOM])
    document["metadata"]["component"]["modelCard"]["fairness"] = 1
    assert problem(json.dumps(document)) != ""


def metrics(facts: StudyFacts) -> list[dict[str, Any]]:
    card = json.loads(mlboms(samples.evidence(facts))[MLBOM])["metadata"]["component"]["modelCard"]
    found: list[dict[str, Any]] = card["quantitativeAnalysis"]["performanceMetrics"]
    return found


def test_a_row_of_the_fairness_audit_is_a_sliced_metric_with_its_interval() -> None:
    facts = KINDS["binary"]
    assert facts.audit is not None
    gap = next(
        one for one in facts.audit.contrasts
        if one.level == "female" and one.criterion == "equal_opportunity" and one.site is None
    )  # fmt: skip
    metric = next(
        one
        for one in metrics(facts)
        if one.get("slice") == "sex=female against male" and "equal opportunity" in one["type"]
    )
    assert gap.low is not None
    assert float(metric["value"]) == pytest.approx(gap.gap, rel=1e-5)
    assert float(metric["confidenceInterval"]["lowerBound"]) == pytest.approx(gap.low, rel=1e-4)
    assert gap.verdict in metric["type"]


@pytest.mark.parametrize(
    ("kind", "measure"), [("regression", "mae"), ("survival", "concordance"), ("multiclass", "acc")]
)
def test_results_of_other_kinds_are_in_the_bill(kind: str, measure: str) -> None:
    assert any(one["type"].startswith(measure) for one in metrics(KINDS[kind])) or measure == (
        "concordance"  # one of each site alone: two sites give no mean
    )


def test_a_serial_number_is_of_the_content_and_of_nothing_else() -> None:
    def serial(facts: StudyFacts) -> str:
        found: str = json.loads(mlboms(samples.evidence(facts))[MLBOM])["serialNumber"]
        return found

    assert serial(KINDS["binary"]) == serial(samples.facts())
    assert serial(KINDS["binary"]) != serial(KINDS["blinded"])


def test_a_licence_is_an_expression_only_where_its_metadata_says_spdx() -> None:
    found = json.loads(sboms(samples.evidence())[SBOM])["components"]
    by_name = {one["name"]: one for one in found}
    assert by_name["numpy"]["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert by_name["torch"]["licenses"] == [{"license": {"name": "BSD"}}]
    assert by_name["torch"]["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"


def test_what_is_really_installed_fits_the_schema_too_without_tools_of_developers() -> None:
    software = installed()
    assert {"cohortium", "numpy", "torch", "flwr", "pydantic-core"} <= set(software)
    assert not {"pytest", "mypy", "hypothesis", "ruff"} & set(software)
    evidence = replace(samples.evidence(), software=software, licences=licences(software))
    made = sboms(evidence)[SBOM]
    assert problem(made.decode()) == ""
    assert licences(["numpy", "no-such-package"])["numpy"].spdx


# The order of https://mc.chai.org/v0.2/schema.xsd; those in brackets may be left out.
SCHEMA = {
    "AppliedModelCard": "BasicInfo ReleaseInfo ModelSummary UsesAndDirections Warnings "
    "TrustIngredients KeyMetrics Resources Bibliography",
    "BasicInfo": "ModelName ModelDeveloper DeveloperContact",
    "ReleaseInfo": "ReleaseStage ReleaseDate ReleaseVersion GlobalAvailability "
    "[EHRCompatability] [RegulatoryApproval]",
    "ModelSummary": "Summary Keywords",
    "UsesAndDirections": "IntendedUseAndWorkflow PrimaryIntendedUsers HowToUse "
    "TargetedPatientPopulation CautionedOutOfScopeSettings",
    "Warnings": "KnownRisksAndLimitations KnownBiasesOrEthicalConsiderations ClinicalRiskLevel",
    "TrustIngredients": "AISystemFacts TransparencyInformation",
    "AISystemFacts": "OutcomesAndOutputs ModelType [FoundationModels] InputDataSource "
    "OutputAndInputDataTypes DevelopmentDataCharacterization BiasMitigationApproaches "
    "OngoingMaintenance [Security] [Transparency]",
    "TransparencyInformation": "FundingSource [ThirdPartyInformation] StakeholdersConsulted",
    "KeyMetrics": "UsefulnessUsabilityEfficacy FairnessEquity SafetyReliability",
    **dict.fromkeys(
        ("UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability"),
        "MetricGoal Results Interpretation TestType TestingDataDescription "
        "ValidationProcessAndJustification",
    ),
    "MetricResult": "Label ValueJson",
    "Resources": "[EvaluationReferences] [ClinicalTrial] PeerReviewedPublications "
    "[ReimbursementStatus] PatientConsentOrDisclosure",
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_chai_card_has_the_elements_of_its_schema_in_their_order(kind: str) -> None:
    root = xml.fromstring(chai_cards(samples.evidence(KINDS[kind]))[CHAI])
    assert root.tag == f"{{{NAMESPACE}}}AppliedModelCard"
    for element in root.iter():
        name = element.tag.removeprefix(f"{{{NAMESPACE}}}")
        have = [child.tag.removeprefix(f"{{{NAMESPACE}}}") for child in element]
        if name in SCHEMA:
            known = SCHEMA[name].split()
            kept = [one.strip("[]") for one in known if one[0] != "[" or one.strip("[]") in have]
            assert have == kept, name
        elif name in ("Results", "Keywords"):
            assert len(have) >= 1
        else:
            assert have == [], name


def test_every_value_of_the_chai_card_is_json_with_its_interval() -> None:
    root = xml.fromstring(chai_cards(samples.evidence(KINDS["binary"]))[CHAI])
    values = [json.loads(one.text or "") for one in root.iter(f"{{{NAMESPACE}}}ValueJson")]
    assert {one["kind"] for one in values} == {"estimate_ci"}
    assert all(one["lower"] <= one["estimate"] <= one["upper"] for one in values)
    assert {one["level"] for one in values} == {95}
