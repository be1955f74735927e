"""The model card: what somebody who gets the model without knowing us has to know.

Markdown with the front matter of Hugging Face. Everything in it comes from the study, from what
sites sent, or from signed documents; nothing depends on when it is written. Texts that people wrote
are escaped. Of a blinded study no site is named, and no number shown that is one site's.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from cohortium.common.audit.paper.model_card import CLASSIFICATION, PIPELINES, modalities
from cohortium.common.evaluating import Gate, Release
from cohortium.common.fairness.verdicts import Contrast
from cohortium.common.messages import Consent
from cohortium.common.metrics.performance import Estimate, Performance
from cohortium.common.study import Study
from cohortium.common.transfer import Transfer
from cohortium.common.tuning import tuned_in_words
from cohortium.common.using.answer import in_words
from cohortium.server.gates import (
    OVERALL,
    Flag,
    about_site,
    contributors,
    number,
    spent,
    subject_of,
)
from cohortium.server.release import Dossier, Judged
from cohortium.server.signed import Kept, Released
from cohortium.server.store import RoundRecord

LIMITS = """- Measured on patients of the hospitals above; elsewhere it may do worse.
- Signatures show who said what, not that what the hospitals recorded is true.
- A verdict speaks of the declared groups and margins, and of no other harm.
- Measure it on own patients before use, and again later; a person must be able to overrule it."""
LOAD = """```python
import json
from safetensors import safe_open

with safe_open("model.safetensors", framework="pt") as file:
    facts = json.loads(file.metadata()["cohortium"])  # task, model, recipe of the inputs
    parameters = {name: file.get_tensor(name) for name in file.keys()}
```

Each entry of `facts["recipe"]` says which column an input reads, what a gap becomes, and that the
input is (value - centre) / spread, clipped to +-limit where there is one. `cohortium predict` and
`load_model.py`, where it lies beside this card, do all of it for a table of patients."""


@dataclass(frozen=True)
class Facts:
    """What a card is made from, besides the signed documents."""

    dossier: Dossier
    rounds: Sequence[RoundRecord]
    consents: Mapping[str, Consent]
    performance: Sequence[Performance]
    judged: Sequence[Judged]
    release: Kept[Released]
    fingerprint: str

    @property
    def study(self) -> Study:
        return self.dossier.row.study

    @property
    def blinded(self) -> bool:
        return self.study.evaluation.blinded


def card(facts: Facts) -> str:
    """The whole card; the same text for the same facts."""
    study = facts.study
    parts = (
        _front_matter(study),
        _head(facts),
        _withdrawn(facts),
        _override(facts),
        _purpose(study),
        _data(facts),
        _training(facts),
        _privacy(facts),
        _evaluation(facts),
        _fairness(facts),
        _invisible(facts),
        _flags(facts),
        _section("Safeguards that were turned off", _listed(_turned_off(study)) or "None."),
        _section("Limits", LIMITS),
        _section("How to load it", LOAD, f"Where they lie beside this card: {in_words(study)}"),
        _proof(facts),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str) -> str:
    """A text that somebody wrote, without any meaning in Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", " ".join(text.split()))


def _front_matter(study: Study) -> str:
    tags = ["federated-learning", "healthcare", *modalities(study), study.task.kind]
    if study.privacy.mechanism != "none":
        tags.append("differential-privacy")
    lines = [
        "---",
        "license: unknown",
        f"pipeline_tag: {PIPELINES.get(study.task.kind, CLASSIFICATION)}",
        "library_name: cohortium",
        "tags:",
        *(f"- {tag}" for tag in tags),
        f"model_name: {json.dumps(study.name)}",
        "---",
    ]
    return "\n".join(lines)


def _head(facts: Facts) -> str:
    said = facts.release.document
    verb = "Makes" if facts.study.task.kind == "generation" else "Predicts"
    return (
        f"# {plain(facts.study.name)}\n\n"
        f"{verb} {plain(facts.study.task.outcome)}. Not a medical device.\n\n"
        f"Signed by **{plain(said.signer.name)}** on {said.at}: {said.meaning}."
    )


def _withdrawn(facts: Facts) -> str:
    gone = [one.flag for one in facts.judged if one.flag.gate == "withdrawal"]
    if not gone:
        return ""
    return _section("WITHDRAWN DATA", _listed(f"**{_line(flag, facts)}**" for flag in gone))


def _override(facts: Facts) -> str:
    said = facts.release.document
    if not said.overridden:
        return ""
    opened = [one.flag for one in facts.judged if one.open]
    return _section(
        "RELEASED OVER OPEN GATES",
        f"**{plain(said.signer.name)} released this with {len(said.overridden)} open flags.**",
        f"**The reason given: {plain(said.reason)}**",
        _listed(f"{flag.gate}: {_line(flag, facts)}" for flag in opened),
    )


def _purpose(study: Study) -> str:
    purpose = study.purpose
    return _section(
        "Purpose",
        plain(purpose.text),
        f"Data use {purpose.duo} (GA4GH Data Use Ontology); {plain(purpose.legal_basis)}.",
        "Any other use is outside what the hospitals approved.",
    )


def _data(facts: Facts) -> str:
    inputs = ", ".join(map(plain, facts.study.data.features))
    rows = []
    for name in facts.study.sites.names:
        consent = facts.consents.get(name)
        rows.append((name, (consent.patients if consent else "") or "unknown", _part(name, facts)))
    return _section(
        "Data",
        f"Patients stayed at their hospitals; numbers of them are public bands. Inputs: {inputs}.",
        _table(("site", "patients", "part"), _named(rows, facts)),
    )


def _part(name: str, facts: Facts) -> str:
    if name in facts.study.sites.evaluate_only:
        return "measured only"
    trained = sum(name in record.replied for record in facts.rounds)
    return f"trained in {trained} of {_trained_rounds(facts)} rounds" if trained else "took no part"


def _trained_rounds(facts: Facts) -> int:
    """Without the last one of a training that stopped early, in which nobody trained."""
    return sum(not record.stopped for record in facts.rounds)


def _training(facts: Facts) -> str:
    study = facts.study
    training, strategy, inputs = study.training, study.strategy, study.preprocessing
    before = f"It goes on from {plain(study.continues.name)}." if study.continues else ""
    begun = _transferred(study.transfer)
    return _section(
        "Training",
        f"Model `{study.model.name}`; {training.rounds} rounds of `{strategy.name}`, sites "
        f"weighted by `{strategy.weighting}`; batches `{training.batches}`, {training.local_steps} "
        f"local steps a round; seed {training.seed}; scaling `{inputs.scaling}`, missing values "
        f"`{inputs.missing}`. {before}".strip(),
        *([begun] if begun else []),
        *([f"It {plain(tuned)}."] if (tuned := tuned_in_words(study)) else []),
        *(f"{record.stopped.capitalize()}." for record in facts.rounds if record.stopped),
    )


def _transferred(transfer: Transfer) -> str:
    """What it began with, and which parameters were trained; empty where all began anew."""
    parts = []
    if transfer.start is not None:
        parts.append(f"It began with the parameters of a file, SHA-256 `{transfer.start}`.")
    if transfer.adapters is not None:
        layers = ", ".join(transfer.adapters.layers)
        parts.append(
            f"Trained were adapters of rank {transfer.adapters.rank} of layers `{layers}`, merged "
            "here, and what began anew."
        )
    if transfer.initialise:
        parts.append(f"`{', '.join(transfer.initialise)}` began anew.")
    if transfer.freeze:
        parts.append(f"`{', '.join(transfer.freeze)}` were not trained.")
    return " ".join(parts)


def _privacy(facts: Facts) -> str:
    privacy, noise = facts.study.privacy, facts.study.evaluation.noise_epsilon
    if privacy.epsilon is None or privacy.delta is None:
        words = "**None.** Training was not differentially private: parameters may reveal patients."
        return _section("Privacy", words)
    rows = []
    for name in contributors(facts.study, facts.rounds):
        found = spent(name, facts.rounds)
        cost = (f"{found.epsilon:.3f}", f"{found.delta:g}") if found else ("no account", "")
        rows.append((name, *cost))
    counts = "is not covered by it: small cells are hidden instead"
    return _section(
        "Privacy",
        f"Each patient was promised epsilon {privacy.epsilon:g} at delta {privacy.delta:g} over "
        f"all rounds (add or remove one patient), from gradients clipped at {privacy.clip_norm:g}. "
        "Spent, by each hospital's own ledger:",
        _table(("site", "epsilon", "delta"), _named(rows, facts)),
        f"What sites count for evaluation {counts if noise is None else f'costs {noise:g} more'}.",
    )


def _evaluation(facts: Facts) -> str:
    first = facts.study.evaluation.thresholds[0]
    rows = [
        (
            plain(one.measure.replace("_", " ")) + (f" at {first:g}" if one.threshold else ""),
            _estimate(one.pooled),
            _over_sites(one),
        )
        for one in facts.performance
        if one.threshold in (None, first)
    ]
    if not rows:
        return _section("Evaluation", "Not measured: no site sent an evaluation of this model.")
    return _section(
        "Evaluation",
        "On held-out patients of the same hospitals, with 95% intervals. The mean over sites is by "
        "random effects; a dash is not measured, or not shown.",
        _table(("measure", "all patients", "mean over sites"), rows),
    )


def _estimate(found: Estimate) -> str:
    return "-" if found.value is None else number(found.value) + _interval(found.low, found.high)


def _over_sites(found: Performance) -> str:
    effects = found.over_sites
    return number(effects.mean) + _interval(effects.low, effects.high) if effects else "-"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({number(low)} to {number(high)})"


def _fairness(facts: Facts) -> str:
    contrasts = facts.dossier.audit.contrasts
    by_site = defaultdict[tuple[str, ...], Counter[str]](Counter)
    for one in contrasts:
        if about_site(one) is not None:
            by_site[_question(one)][one.verdict] += 1
    rows = [_contrast(one, by_site[_question(one)]) for one in contrasts if about_site(one) is None]
    if not rows:
        words = "Not looked at: the study names no attribute, or nothing could be shown."
        return _section("Between groups of patients", words)
    return _section(
        "Between groups of patients",
        "Over the sites that show both groups, then how often each verdict was given at single "
        "sites. Margins were fixed in the study. What was inconclusive would likely have been "
        "found from the gap under `detectable` on.",
        _table(("groups", "gap", "margin", "detectable", "verdict", "at single sites"), rows),
    )


def _question(one: Contrast) -> tuple[str, ...]:
    return (one.attribute, one.level, one.criterion, one.outcome)


def _contrast(one: Contrast, by_site: Counter[str]) -> tuple[str, ...]:
    return (
        plain(subject_of(one).removesuffix(OVERALL)) + (", primary" if one.primary else ""),
        number(one.gap) + _interval(one.low, one.high),
        f"{one.margin:g}",
        number(one.detectable),
        f"**{one.verdict}**" if one.verdict == "GAP" else one.verdict,
        ", ".join(f"{count} {verdict}" for verdict, count in sorted(by_site.items())),
    )


def _invisible(facts: Facts) -> str:
    rows = [
        (plain(f"{one.attribute}: {one.level}"), plain(one.site or "every site"), plain(one.reason))
        for one in facts.dossier.audit.invisible
        if one.site is None or not facts.blinded
    ]
    table = _table(("group", "hidden at", "why"), rows)
    return _section("Groups that nobody could see", table) if rows else ""


def _flags(facts: Facts) -> str:
    rows = []
    for one in facts.judged:
        said = one.disposition.document if one.disposition and not one.open else None
        answer = f"{said.decision} by {plain(said.signer.name)}, {said.at}" if said else "**OPEN**"
        reason = plain(said.reason) if said else ""
        rows.append((one.flag.gate, _line(one.flag, facts), answer, reason))
    table = _table(("gate", "flag", "answer", "reason"), rows)
    return _section("Flags and who answered for them", table if rows else "No flag was raised.")


def _line(flag: Flag, facts: Facts) -> str:
    """A flag's text; of a blinded study without the site and what was measured there."""
    if flag.site and facts.blinded:
        return plain(f"one site: {flag.subject}")
    return plain(flag.text)


def _turned_off(study: Study) -> Iterator[str]:
    scaling = study.preprocessing.scaling
    if study.privacy.mechanism == "none":
        yield 'differential privacy: `privacy.mechanism = "none"`'
    if study.strategy.weighting == "exact":
        yield 'exact numbers of patients left the sites: `strategy.weighting = "exact"`'
    if scaling in ("federated-standard", "site-standard"):
        yield f'patients\' means and deviations are used: `preprocessing.scaling = "{scaling}"`'
    if study.strategy.name == "newton":
        yield 'exact gradients and information matrices left the sites: `strategy.name = "newton"`'
    if getattr(study.task, "one_class_sites", "refuse") == "allow":
        yield 'sites with one outcome only may train: `task.one_class_sites = "allow"`'
    if not study.fairness.attributes:
        yield "nobody looks for unequal results: no `fairness.attributes`"
    for gate in get_args(Gate):
        if gate not in study.release.gates:
            default = "" if gate in Release().gates else " (by default it is not)"
            yield f"`{gate}` is not among `release.gates`{default}"


def _proof(facts: Facts) -> str:
    subject, kept = facts.dossier.subject, facts.release
    values = {
        "study": subject.study,
        "model.safetensors": subject.model,
        "evidence": subject.evidence,
        "fairness audit": subject.audit,
        "release signature": kept.signature.hex(),
        "signing key": facts.fingerprint,
        "event": kept.event,
    }
    return _section(
        "Proof",
        f"{facts.dossier.model.parameters} parameters. SHA-256 of what was signed, and the Ed25519 "
        "signature of `release.json`, which says how to verify it:",
        _table(("what", "value"), [(what, f"`{value}`") for what, value in values.items()]),
    )


def _named(rows: Iterable[tuple[str, ...]], facts: Facts) -> list[tuple[str, ...]]:
    """Rows by site; of a blinded study in the order of their content, each table by itself."""
    if not facts.blinded:
        return [(plain(name), *rest) for name, *rest in rows]
    hidden = sorted(tuple(rest) for _, *rest in rows)
    return [(f"a site ({place})", *rest) for place, rest in enumerate(hidden, start=1)]


def _section(title: str, *paragraphs: str) -> str:
    return "\n\n".join((f"## {title}", *paragraphs))


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
