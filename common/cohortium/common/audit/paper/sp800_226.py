"""privacy/sp800-226.md: a claim of differential privacy, judged by its parts (NIST, 2025).

One row for each component of the pyramid, from its tip to its base, with the section that explains
it. A part that nothing recorded is said to be unknown: a small epsilon on a bad base is no promise.
"""

from collections.abc import Iterable, Iterator

from cohortium.common.audit.evidence import Evidence, StudyFacts
from cohortium.common.audit.paper import subject
from cohortium.common.audit.paper.account import NO_PRIVACY, Account, accounts, promise
from cohortium.common.audit.paper.safeguards import safeguards
from cohortium.common.audit.paper.text import (
    CONTROLLER,
    count,
    decimal,
    listed,
    markdown,
    paragraphs,
    table,
)
from cohortium.common.privacy.ledger_row import LedgerRow

PATH = "privacy/sp800-226.md"
HEADER = ("component", "SP 800-226", "what is recorded", "what remains")
UNKNOWN = "no ledger row is in this bundle"
REMAINS = {
    "epsilon and delta": f"whether that is little enough: {CONTROLLER}",
    "variant and neighbours": "how many patients a table has is hidden only as far as bands go",
    "unit of privacy": "one patient known under two names, or at two sites, counts twice",
    "other releases": "results that are not noised are outside epsilon",
    "algorithm": "that this is what ran: see correctness",
    "correctness": "an audit bounds from below; it cannot prove an upper bound",
    "utility": f"whether it is good enough: {CONTROLLER}",
    "bias": "what noise does to small groups shows only beside a model without it",
    "query model": "a new study spends anew",
    "trust model": "sites trust their own machine and administrators",
    "noise and floating point": "timing and other side channels of a machine are not measured",
    "security and access": "disks, accounts and staff of each site",
    "data collection": f"{CONTROLLER}: each site",
}


def sp800_226(evidence: Evidence) -> dict[str, bytes]:
    return {
        PATH: paragraphs(
            "# Differential privacy, by the pyramid of NIST SP 800-226",
            f"Exported {evidence.at}. Filled from the privacy ledger, the study and the "
            "self-tests; an engineering reading that claims no conformity.",
            *(_study(evidence, facts) for facts in evidence.studies),
        )
    }


def _study(evidence: Evidence, facts: StudyFacts) -> str:
    title = f"## {markdown(facts.study.name)}"
    if facts.study.privacy.epsilon is None and not accounts(evidence, facts):
        words = f"**{NO_PRIVACY.capitalize()}.** {markdown(promise(facts))}. No component applies."
        return f"{title}\n\n{words}"
    rows = [tuple(map(markdown, row)) for row in _rows(evidence, facts)]
    return f"{title}\n\n{table(HEADER, rows)}"


def _rows(evidence: Evidence, facts: StudyFacts) -> Iterator[tuple[str, str, str, str]]:
    rows = [row for row in evidence.ledger if row.study == facts.digest]
    state = {one.name: one.line for one in safeguards(evidence, facts)}
    asked = f"{count(facts.study.rounds_in_all, 'round')}, which sites approve beforehand"
    trust = f"noise is added at each site; {state['secure aggregation']}"
    access = f"{state['encrypted transport']}; {state['tamper-evident log']}"
    recorded = {
        "epsilon and delta": ("2.4", _epsilon(evidence, facts)),
        "variant and neighbours": ("2.5", _each(rows, "adjacency", "approximate DP, {}")),
        "unit of privacy": ("2.6", _unit(rows)),
        "other releases": ("2.8", state["disclosure control of results"]),
        "algorithm": ("3.1", _mechanism(rows)),
        "correctness": ("3.1, 4.3", _audits(evidence, facts)),
        "utility": ("3.2", _utility(facts)),
        "bias": ("3.3", _bias(facts)),
        "query model": ("4.1", asked),
        "trust model": ("4.2", trust),
        "noise and floating point": ("4.3", _noise(rows)),
        "security and access": ("4.4", access),
        "data collection": ("4.5", "rows stay at their site; how they were collected is not known"),
    }
    for component, (section, words) in recorded.items():
        yield component, section, words, REMAINS[component]


def _epsilon(evidence: Evidence, facts: StudyFacts) -> str:
    found = [
        _account(one, subject.called(evidence, facts, one.site))
        for one in accounts(evidence, facts)
    ]
    return f"promised {promise(facts)}. Spent: {listed(sorted(found), UNKNOWN)}"


def _account(one: Account, site: str) -> str:
    return f"{site} {one.epsilon} at {one.delta} for {one.purpose}: {one.words}"


def _unit(rows: Iterable[LedgerRow]) -> str:
    found = {(row.unit, row.max_records_per_unit) for row in rows}
    texts = [f"{unit}, at most {count(most, 'record')} of each" for unit, most in sorted(found)]
    return listed(texts, UNKNOWN)


def _mechanism(rows: Iterable[LedgerRow]) -> str:
    found = {
        f"{row.sampler} sampling at {row.sample_rate}, Gaussian noise {row.noise_multiplier} times "
        f"the clip norm {row.clip_norm} ({row.clipping}), by {row.accountant.name} "
        f"{row.accountant.version}"
        for row in rows
    }
    return listed(sorted(found), UNKNOWN)


def _noise(rows: Iterable[LedgerRow]) -> str:
    return listed(sorted({f"{row.rng}; {row.floating_point}" for row in rows}), UNKNOWN)


def _each(rows: Iterable[LedgerRow], key: str, form: str) -> str:
    found = sorted({str(getattr(row, key)) for row in rows})
    return form.format(listed(found)) if found else UNKNOWN


def _audits(evidence: Evidence, facts: StudyFacts) -> str:
    found = [
        f"{one.level} at {one.site}: {one.verdict}"
        + (f", found {one.estimate} of {one.claim} claimed" if one.estimate and one.claim else "")
        for one in evidence.selftests
        if one.study in ("", facts.digest)
    ]
    checked = sum(
        row.cross_check is not None and row.cross_check.agrees
        for row in evidence.ledger
        if row.study == facts.digest
    )
    words = listed(found, "no self-test is in this bundle")
    return f"{words}; {count(checked, 'row')} cross-checked by a second accountant"


def _utility(facts: StudyFacts) -> str:
    found = [f"{one.label} {decimal(one.value)}" for one in subject.results(facts)[:4]]
    return listed(found, "not measured, or not shown")


def _bias(facts: StudyFacts) -> str:
    found = (f"{number} {verdict}" for verdict, number in subject.verdicts(facts).items())
    return f"comparisons of groups: {listed(found, 'none')}"
