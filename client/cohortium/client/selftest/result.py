"""From checks to a verdict in words, kept and recorded at the site in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cohortium.common.audit.documents import Documents
from cohortium.common.audit.events import Event, os_user, read_event, timestamp
from cohortium.common.code import code_digest
from cohortium.common.database import Database
from cohortium.common.document import one_line, parse_json
from cohortium.common.privacy.empirical import FALSE_ALARM
from cohortium.common.privacy.selftest import Level, Selftest, Verdict

if TYPE_CHECKING:
    from cohortium.client.selftest.check import Check
    from cohortium.client.site import Site

LEVELS: tuple[Level, ...] = ("L0", "L1", "L2")
REASON = 200  # of an event
DIGITS = 6  # of numbers in documents
SHOWN = ("canaries", "guesses", "right")  # of the numbers, what the event says as well


@dataclass(frozen=True)
class Found:
    """What one level found; the numbers that say how much, "" and none where there are none."""

    level: Level
    verdict: Verdict
    words: str
    checks: "Sequence[Check]" = ()
    claim: float | None = None
    estimate: float | None = None
    control: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    study: str = ""


def of_mechanism(checks: "Sequence[Check]") -> Found:
    """L0: passed if every check is."""
    failed = [check for check in checks if not check.ok]
    chance = sum(check.by_chance for check in checks) * FALSE_ALARM
    words = "; ".join(check.said for check in failed)
    if not failed:
        words = (
            f"{len(checks)} checks found nothing wrong with clipping, noise, batches and ledger; "
            f"a sound site fails by chance once in {1 / chance:.0f} times"
        )
    verdict: Verdict = "failed" if failed else "passed"
    return Found("L0", verdict, words, tuple(checks), numbers={"false-alarm-rate": chance})


def keep(site: "Site", found: Found, device: str) -> tuple[Selftest, Event]:
    """Keep what was found and record it."""
    test = Selftest(
        site=site.name,
        level=found.level,
        verdict=found.verdict,
        words=found.words,
        claim=_decimal(found.claim),
        estimate=_decimal(found.estimate),
        control=_decimal(found.control),
        checks={check.name: "ok" if check.ok else check.said for check in found.checks},
        numbers={key: _decimal(value) for key, value in _numbers(found).items()},
        study=found.study,
        device=device,
        code=code_digest(),
        at=timestamp(site.clock()),
    )
    failed = test.verdict == "failed"
    with site.database.transaction():
        event = site.log.append(
            "privacy.selftest",
            actor=os_user(),
            outcome="failure" if failed else "success",
            study=found.study or None,
            obj=(site.documents.keep("selftest", test),),
            reason=one_line(f"selftest.failed: {test.words}", REASON) if failed else None,
            detail=_detail(test),
        )
    return test, event


def last(database: Database) -> dict[Level, Selftest]:
    """The newest recorded result of each level, of whatever code."""
    documents, found = Documents(database), dict[Level, Selftest]()
    rows = database.execute(
        "SELECT line FROM events WHERE instr(line, ?) ORDER BY seq",
        ('"action":"privacy.selftest"',),
    )
    for row in rows:
        (thing,) = read_event(row["line"], f"{database.path}: event").obj
        text = documents.text(thing.h)
        if text is not None:
            test = parse_json(text.encode(), Selftest, "stored self-test")
            found[test.level] = test
    return found


def _numbers(found: Found) -> dict[str, float]:
    measured = {key: value for check in found.checks for key, value in check.numbers.items()}
    return {**measured, **found.numbers}


def _detail(test: Selftest) -> dict[str, str]:
    detail = {
        "level": test.level,
        "verdict": test.verdict,
        "claim": test.claim,
        "estimate": test.estimate,
        "control": test.control,
        "code": test.code,
        **{key: test.numbers[key] for key in SHOWN if key in test.numbers},
    }
    return {key: value for key, value in detail.items() if value}


def _decimal(value: float | None) -> str:
    if value is None:
        return ""
    return "inf" if value == float("inf") else f"{value:.{DIGITS}g}"
