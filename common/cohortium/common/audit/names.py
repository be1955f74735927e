"""What logs and witnesses are called in checkpoints and policies: C2SP names, without spaces.

A log that was begun anew (`cohortium audit recover`) has the next number.
"""

import re


def consortium_log(coordinator: str, number: int = 1) -> str:
    """The origin of the log that a consortium shares."""
    return f"{coordinator}.cohortium/log{number if number > 1 else ''}"


def log_number(coordinator: str, origin: str) -> int | None:
    """Which of a coordinator's consortium logs an origin names; None where it names none."""
    found = re.fullmatch(rf"{re.escape(coordinator)}\.cohortium/log([1-9][0-9]{{0,8}})?", origin)
    if found is None:
        return None
    number = int(found[1] or 1)
    return number if consortium_log(coordinator, number) == origin else None


def site_log(coordinator: str, site: str) -> str:
    """The origin of what a site lets the consortium know of its own log."""
    return f"{coordinator}.cohortium/{site}/log"


def own_log(coordinator: str, site: str) -> str:
    """The origin of a site's whole log, which never leaves it: only its head does."""
    return f"{coordinator}.cohortium/{site}/own"


def witness(coordinator: str, site: str) -> str:
    """The name of a site's key as a witness."""
    return f"{coordinator}.cohortium/{site}/witness"
