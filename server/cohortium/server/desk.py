"""Where a study is run from: what it talks, remembers and records with."""

from collections.abc import Callable
from dataclasses import dataclass

from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.errors import CohortiumError
from cohortium.server.conversation import Conversation
from cohortium.server.store import Store

# A site that refuses by one of these is not asked again in this study.
FOR_GOOD = ("data.", "policy.", "privacy.", "reply.protocol", "study.")


def for_good(reason: str) -> bool:
    """Whether a refusal, given as `rule: explanation`, is a site's last word in a study."""
    return reason.startswith(FOR_GOOD)


class StudyFailed(CohortiumError):
    """The study cannot go on; the message is its cause."""


@dataclass(frozen=True)
class Desk:
    """What running a study needs besides the study: where it talks, remembers and records."""

    talk: Conversation
    store: Store
    log: EventLog
    actor: Actor
    now_ms: Callable[[], int]
