"""One line of the doctor's report."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What one check found; `advice` says what to do unless all is well.

    A warning: it works, but perhaps not as meant. A fail: it does not work, or is not safe.
    """

    check: str
    verdict: Literal["ok", "warning", "fail"]
    said: str
    advice: str = ""
