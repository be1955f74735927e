"""What the site's self-tests of private training said last, and of which code."""

from cohortium.client.config import SiteDir
from cohortium.client.finding import Finding
from cohortium.client.selftest.result import last
from cohortium.common.code import code_digest
from cohortium.common.database import Database, attach_database
from cohortium.common.errors import CohortiumError
from cohortium.common.privacy.selftest import Level, Selftest

NEEDED: tuple[Level, ...] = ("L0", "L1")


def examine_selftests(directory: SiteDir) -> Finding:
    """A failure is a fail until a later test of the same level passes; an old result a warning."""
    run = f"run: cohortium site selftest --level all --dir {directory.root}"
    found = last_selftests(directory)
    failed = [test for test in found.values() if test.verdict == "failed"]
    if failed:
        return Finding(
            "self-test",
            "fail",
            "; ".join(f"{said(test)}: {test.words}" for test in failed),
            "approve and train nothing before it is understood; see docs/privacy-audits.md",
        )
    passed = [level for level in NEEDED if level in found and found[level].verdict == "passed"]
    current = [level for level in passed if found[level].code == code_digest()]
    text = ", ".join(map(said, found.values())) or "never run here"
    if len(current) < len(NEEDED):
        return Finding("self-test", "warning", text, run)
    return Finding("self-test", "ok", text)


def last_selftests(directory: SiteDir) -> dict[Level, Selftest]:
    """The newest result of each level; none where there is no database to read them from."""
    try:
        with attach_database(directory.database) as database:
            return last(database) if _keeps_documents(database) else {}
    except CohortiumError:
        return {}


def said(test: Selftest) -> str:
    """One result in a few words: `L0 passed 2026-11-22`."""
    age = "" if test.code == code_digest() else " of other code than is installed now"
    return f"{test.level} {test.verdict} {test.at[:10]}{age}"


def _keeps_documents(database: Database) -> bool:
    return bool(database.execute("SELECT 1 FROM sqlite_master WHERE name = 'documents'"))
