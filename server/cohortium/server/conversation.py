"""One study's signed conversation with its sites: every reply is checked before anyone reads it."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from cohortium.common.document import Document
from cohortium.common.envelope import Header, seal, unseal
from cohortium.common.errors import CohortiumError, ProtocolError
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.common.messages import EMPTY, Question, Refusal, Vector, kind_of, pack, unpack
from cohortium.server.sites import Sites

# A site that was killed lost its message, and nobody may ever say so: ask again, but rarely, for
# the model travels again each time.
FIRST_RESEND_S = 60.0
RESEND_GROWTH = 2.0
RESENDS = 4.0  # a short deadline leaves time to ask again too
UNREACHED_PAUSE_S = 1.0  # before asking again who could not be reached, or has paused
# What is no answer yet. A reply that does not verify may be somebody else's: the true one may come.
LATER = ("egress.rate", "reply.signature", "site.hours", "site.paused", "site.stopping")

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
        peers: signing key of every site that can be reached; others stay silent.
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
        vector: Vector = EMPTY,
    ) -> Iterator[Said[M]]:
        """Ask each site; yield answers as they arrive, until all have answered or the deadline.

        The same signed request is sent again to a site that stays silent: it answers a round
        once, however often it is asked. A reply that is not the site's own, or not to this
        request, becomes a refusal with rule `reply.signature` or `reply.protocol`. Whose reply does
        not verify, and who has paused, is asked again; that counts only at the deadline.

        Raises:
            StudyStopped: somebody asked the study to stop.
            UnreachableError: the transport is gone.
        """
        body = pack(question, vector)
        present = [name for name in names if name in self.peers]
        headers = {name: self._header(kind_of(question), name, round) for name in present}
        requests = {name: seal(header, body, self.key) for name, header in headers.items()}
        postponed: dict[str, Said[M]] = {}
        deadline = time.monotonic() + deadline_s
        patience = min(FIRST_RESEND_S, deadline_s / RESENDS)
        while requests and (left := deadline - time.monotonic()) > 0:
            window_ends = time.monotonic() + min(patience, left)
            for name, raw in self.sites.ask(dict(requests), min(patience, left)):
                if name not in requests:
                    continue  # a second reply to a request that was sent twice
                said = self._open(name, raw, headers[name], expected)
                if _later(said.message):
                    postponed[name] = said
                    continue
                del requests[name]
                yield said
            if by := self.stopped():
                raise StudyStopped(f"stopped by {by}")
            if time.monotonic() >= window_ends:
                patience *= RESEND_GROWTH
            elif requests:
                self.sleep(min(UNREACHED_PAUSE_S, left))
        yield from (postponed[name] for name in requests if name in postponed)

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


def _later(message: object) -> bool:
    return isinstance(message, Refusal) and message.rule in LATER


def _doubt(rule: str, error: CohortiumError) -> Refusal:
    return Refusal(rule=rule, explanation=str(error), correlation_id="")
