"""The last act of the demonstration: an officer looks at the flags, signs, and the model leaves."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cohortium.server.demo.processes import command

OFFICER = "Dr. E. Haddad"

# What a demonstration may answer for. A flag of any other gate would be a real fault: it stays
# open, and the release is refused.
REASONS: Mapping[str, str] = {
    "fairness": (
        "A demonstration on published data: nobody is treated by this model. Accepted to show how "
        "an export works, not because the gap does no harm."
    ),
    "measured": (
        "A demonstration with few patients: nobody knows how well the model does here, and no "
        "one is treated by it."
    ),
}


def release(study: str, coordinator: Path, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Answer for the flags of a completed study, release and export its model.

    Returns:
        Paths of the `model`, its `card` and the signed `release`, and how many `flags` there were.

    Raises:
        CohortiumError: a gate is open that nobody in a demonstration can answer for.
    """
    where = ("--dir", str(coordinator))
    found = command("study", "flags", study, *where)
    gates = ", ".join(f"{one['gate']} {_state(one)}" for one in found["gates"])
    say(f"\ngates of {study}: {gates}")
    for gate, reason in REASONS.items():
        flags = [one for one in found["flags"] if one["open"] and one["gate"] == gate]
        if not flags:
            continue
        for one in flags:
            say(f"  {one['flag']}  {one['text']}")
        names = [one["flag"] for one in flags]
        signing = ("--as", OFFICER, "--reason", reason, "--decision", "accept")
        command("study", "disposition", study, *names, *signing, *where)
        say(f'{OFFICER} signed for {_count(flags)}, "{reason}"')
    released = command("study", "release", study, "--as", OFFICER, *where)
    say(f"{released['by']} released the model   sha256 {released['model'][:16]}...")
    exported = command("study", "export", study, "--out", str(out), *where)
    wanted = ("model", "card", "release")
    return {**{key: exported[key] for key in wanted}, "flags": len(found["flags"])}


def site_model(study: str, site: Path, out: Path) -> str:
    """Write the whole model of a site with parameters of its own; the path of its file."""
    written = command("site", "model", study, "--out", str(out), "--dir", str(site))
    return str(written["files"][0])


def _state(gate: Mapping[str, Any]) -> str:
    return "OPEN" if gate["open"] else "closed"


def _count(flags: list[dict[str, Any]]) -> str:
    return "1 flag" if len(flags) == 1 else f"{len(flags)} flags"
