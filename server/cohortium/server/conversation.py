"""One study's signed conversation with its sites: every reply is checked before anyone reads it."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from cohortium.common import timeouts
from cohortium.common.document import Document
from cohortium.common.envelope import Header, digest, seal_head, unseal
from cohortium.common.errors import CohortiumError, ProtocolError
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.common.messages import EMPTY, Question, Refusal, Vector, kind_of, pack, unpack
from cohortium.server.sites import Sites

# What is no answer yet. A reply that does not verify may be somebody else's: the true one may come.
LATER = (
    "egress.rate",
    "reply.signature",
    "site.clock",
    "site.database",
    "site.hours",
    "site.paused",
    "site.stopping",
)
# What may have been an accident, such as a killed training process, or may happen every time.
ONCE_MORE = ("site.cannot", "site.training")
ACCIDENTS = 3

REVOKED = Refusal(
    rule="site.revoked", explanation="the coordinator has shut the site out", correlation_id=""
)

M = TypeVar("M", bound=Document)


class StudyStopped(CohortiumError):
    """Somebody asked the study to stop."""


@dataclass(frozen=True, eq=False)
class Said(Generic[M]):
    """A site's verified answer: what was hoped for, or a refusal."""

    site: str
    message: M | Refusal
    vector: Vector
    bytes: int


@dataclass(frozen=True)
class Conversation:
    """Asks sites in the name of the coordinator.

    Attributes:
        study: digest of the study that all requests belong to.
        peers: signing key of every member; who is no longer in it refuses as `site.revoked`.
        stopped: says who asked to stop the study, or nothing.
        suspect: told whose reply was not signed by its key.
    """

    study: str
    coordinator: str
    key: SigningKey
    peers: Mapping[str, VerifyKey]
    sites: Sites
    stopped: Callable[[], str]
    now_ms: Callable[[], int]
    sleep: Callable[[float], None] = time.sleep
    suspect: Callable[[str], None] = lambda site: None

    def ask(
        self,
        names: tuple[str, ...],
        question: Question,
        expected: type[M],
        *,
        round: int,
        deadline_s: float,
        body: bytes | None = None,
    ) -> Iterator[Said[M]]:
        """Ask each site; yield answers as they arrive, until all have answered or the deadline.

        The same signed request is sent again to a site that stays silent: it answers a round
        once, however often it is asked. A reply that is not the site's own, or not to this
        request, becomes a refusal with rule `reply.signature` or `reply.protocol`. Whose reply does
        not verify, and who has paused, is asked again; that counts only at the deadline.

        Args:
            body: the question as it was packed together with a vector; None for one without.

        Raises:
            StudyStopped: somebody asked the study to stop.
            UnreachableError: the transport is gone.
        """
        body = body or pack(question)
        headers = {name: self._header(kind_of(question), name, round) for name in names}
        body_digest = digest(body)
        heads = {n: seal_head(header, body_digest, self.key) for n, header in headers.items()}
        postponed: dict[str, Said[M]] = {}
        accidents = Counter[str]()
        deadline, pause_s = time.monotonic() + deadline_s, timeouts.SITE_AGAIN_S[0]
        while True:
            if by := self.stopped():
                raise StudyStopped(f"stopped by {by}")
            for name in [name for name in heads if name not in self.peers]:
                del heads[name]
                yield Said(name, REVOKED, EMPTY, 0)
            if not heads or (left := deadline - (asked := time.monotonic())) <= 0:
                break
            for name, raw in self.sites.ask(dict(heads), body, left):
                if name not in heads:
                    continue  # a second reply to a request that was sent twice
                said = self._open(name, raw, headers[name], expected)
                rule = said.message.rule if isinstance(said.message, Refusal) else ""
                accidents[name] += rule in ONCE_MORE
                if rule in LATER or (rule in ONCE_MORE and accidents[name] < ACCIDENTS):
                    postponed[name] = said
                    continue
                del heads[name]
                yield said
                del said, raw  # before the transport puts the next reply together
            if by := self.stopped():
                raise StudyStopped(f"stopped by {by}")
            rest_s = min(pause_s, left) - (time.monotonic() - asked)
            if heads and rest_s > 0:
                self.sleep(rest_s)
            pause_s = min(1.5 * pause_s, timeouts.SITE_AGAIN_S[1])
        yield from (postponed[name] for name in heads if name in postponed)

    def _header(self, kind: str, site: str, round: int) -> Header:
        return Header(
            kind=kind,
            study=self.study,
            round=round,
            message_id=secrets.token_hex(16),
            sender=self.coordinator,
            recipient=site,
            sent_ms=self.now_ms(),
        )

    def _open(self, site: str, raw: bytes, asked: Header, expected: type[M]) -> Said[M]:
        try:
            header, body = unseal(raw, self.peers[site])
        except CohortiumError as error:
            self.suspect(site)
            return Said(site, _doubt("reply.signature", error), EMPTY, len(raw))
        try:
            _check_answers(header, asked)
            kind: type[M] | type[Refusal] = Refusal if header.kind == Refusal.kind else expected
            if header.kind != kind_of(kind):
                raise ProtocolError(f"{site} sent another kind of message than was asked for")
            message, vector = unpack(body, kind)
        except CohortiumError as error:
            return Said(site, _doubt("reply.protocol", error), EMPTY, len(raw))
        return Said(site, message, vector, len(raw))


def _check_answers(header: Header, asked: Header) -> None:
    """A reply names the request that it answers, and goes from whom was asked to who asked."""
    same = ("study", "round", "message_id")
    swapped = header.sender == asked.recipient and header.recipient == asked.sender
    if not swapped or any(getattr(header, key) != getattr(asked, key) for key in same):
        raise ProtocolError(f"{asked.recipient} sent a reply that answers another request")


def _doubt(rule: str, error: CohortiumError) -> Refusal:
    return Refusal(rule=rule, explanation=str(error), correlation_id="")
