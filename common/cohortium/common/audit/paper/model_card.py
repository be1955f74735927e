"""model-card.md: the card of a released model with the front matter of Hugging Face.

The text is the card that left with the model; what is added are results with intervals that
programs can read. The scalars of the front matter are JSON, which YAML 1.2 includes.
"""

import json
import re
from collections.abc import Iterator

from cohortium.common.audit.evidence import Evidence, StudyFacts
from cohortium.common.audit.paper import subject
from cohortium.common.audit.paper.account import accounts, promise
from cohortium.common.audit.paper.safeguards import safeguards
from cohortium.common.audit.paper.text import PROVIDER, markdown, paragraphs, percent, table
from cohortium.common.document import one_line
from cohortium.common.study import Study

PIPELINES = {
    "regression": "tabular-regression",
    "labelling": "token-classification",
    "contacts": "other",
    "reconstruction": "feature-extraction",
    "generation": "other",
}
CLASSIFICATION = "tabular-classification"
LEVEL = 0.95
_FRONT = re.compile(r"\A---\n.*?\n---\n+", re.DOTALL)


def model_cards(evidence: Evidence) -> dict[str, bytes]:
    """One for each model."""
    return {
        f"{folder}/model-card.md": _card(evidence, facts)
        for folder, facts in subject.folders(evidence)
    }


def _card(evidence: Evidence, facts: StudyFacts) -> bytes:
    assert facts.model is not None
    body = _FRONT.sub("", facts.model.card).strip()
    return paragraphs(
        "\n".join(_front_matter(facts)), body or _without_card(evidence, facts), _added(facts)
    )


def modalities(study: Study) -> list[str]:
    """What kinds of inputs a model reads, each once; numbers are a table's."""
    kinds = ("tabular" if b.kind in ("table", "numbers") else b.kind for b in study.layout.blocks)
    return list(dict.fromkeys(kinds))


def _front_matter(facts: StudyFacts) -> Iterator[str]:
    study = facts.study
    pipeline = PIPELINES.get(study.task.kind, CLASSIFICATION)
    tags = ["federated-learning", "healthcare", *modalities(study), study.task.kind]
    if study.privacy.mechanism != "none":
        tags.append("differential-privacy")
    yield "---"
    yield "license: other"
    yield "license_name: not-stated"
    yield f"pipeline_tag: {pipeline}"
    yield "library_name: cohortium"
    yield f"tags: {json.dumps(tags)}"
    found = [*subject.results(facts), *subject.group_results(facts)]
    if found:
        yield "model-index:"
        yield f"- name: {_text(study.name)}"
        yield "  results:"
        for where in dict.fromkeys(one.slice for one in found):
            yield from _results(facts, pipeline, [one for one in found if one.slice == where])
    yield "---"


def _results(facts: StudyFacts, pipeline: str, found: list[subject.Result]) -> Iterator[str]:
    where = found[0].slice
    name = f"held-out patients of {facts.study.data.dataset}" + (f", {where}" if where else "")
    yield f"  - task: {{type: {pipeline}, name: {_text(facts.study.task.outcome)}}}"
    yield f"    dataset: {{type: private, name: {_text(name)}}}"
    yield "    metrics:"
    for one in found:
        yield f"    - type: {_text(one.measure)}"
        yield f"      name: {_text(one.label)}"
        yield f"      value: {_number(one.value)}"
        if one.low is not None and one.high is not None:
            args = {"level": LEVEL, "low": round(one.low, 6), "high": round(one.high, 6)}
            yield f"      args: {json.dumps(args)}"


def _text(value: str) -> str:
    return json.dumps(one_line(value, 200), ensure_ascii=False)


def _number(value: float) -> str:
    return json.dumps(round(value, 6))


def _without_card(evidence: Evidence, facts: StudyFacts) -> str:
    """The least to say of a model that nobody released."""
    study = facts.study
    lines = [f"- {markdown(one.line)}" for one in safeguards(evidence, facts)]
    return "\n\n".join(
        (
            f"# {markdown(study.name)}",
            f"Predicts {markdown(study.task.outcome)}. Not a medical device.",
            "**This model is not released: nobody signed for it, and no card was made.**",
            "## Purpose",
            markdown(study.purpose.text),
            f"Data use {study.purpose.duo}; {markdown(study.purpose.legal_basis)}.",
            f"## Privacy\n\n{markdown(promise(facts))}.\n\n{_spent(evidence, facts)}",
            "## Safeguards\n\n" + "\n".join(lines),
            f"## Licence\n\n{PROVIDER}",
        )
    )


def _spent(evidence: Evidence, facts: StudyFacts) -> str:
    rows = [
        (subject.called(evidence, facts, one.site), one.purpose, one.epsilon, one.delta, one.words)
        for one in accounts(evidence, facts)
    ]
    if not rows:
        return "Spent: no account is in the evidence."
    return table(
        ("site", "for", "epsilon", "delta", "in words"),
        [tuple(map(markdown, row)) for row in sorted(rows)],
    )


def _added(facts: StudyFacts) -> str:
    """What the evidence says beside the card."""
    assert facts.model is not None
    said = facts.model.release
    answer = (
        f"Released by {markdown(said.name)} on {said.at}: {markdown(said.meaning)}."
        if said
        else "Not released."
    )
    if facts.model.overridden:
        answer += (
            f" {facts.model.overridden} open flags were overridden: {markdown(facts.model.reason)}"
        )
    words = f"Intervals in the front matter are {percent(LEVEL)} confidence intervals"
    return (
        "## In this bundle\n\n"
        f"SHA-256 of the model file: `{facts.model.sha256}`; of the study: `{facts.digest}`. "
        f"{answer}\n\n{words}. A licence is not part of a study: {PROVIDER}."
    )
