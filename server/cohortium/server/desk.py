"""Where a study is run from: what it talks, remembers and records with."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.errors import CohortiumError
from cohortium.server.conversation import Conversation
from cohortium.server.store import Store

# A site that refuses by one of these is not asked again in this study.
FOR_GOOD = (
    "data.",
    "policy.",
    "privacy.",
    "reply.protocol",
    "site.revoked",
    "study.",
    "transfer.",
)


def for_good(reason: str) -> bool:
    """Whether a refusal, given as `rule: explanation`, is a site's last word in a study."""
    return reason.startswith(FOR_GOOD)


class StudyFailed(CohortiumError):
    """The study cannot go on; the message is its cause, `next_step` what helps."""

    def __init__(self, cause: str, next_step: str) -> None:
        super().__init__(cause)
        self.next_step = next_step


@dataclass(frozen=True)
class Desk:
    """What running a study needs besides the study: where it talks, remembers and records.

    scratch: a directory for what is too large for memory, or None to keep all there.
    turn: held while the study trains; says meanwhile, through its argument, whom it waits for.
    """

    talk: Conversation
    store: Store
    log: EventLog
    actor: Actor
    now_ms: Callable[[], int]
    scratch: Path | None = None
    turn: Callable[[Callable[[str], None]], AbstractContextManager[None]] = lambda _: nullcontext()
