"""A coordinator that asks one site, honestly or not, and reads what comes back."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tests.federation import COORDINATOR

from cohortium.client import rounds
from cohortium.client.site import Site
from cohortium.common.document import Document
from cohortium.common.envelope import Header, seal, unseal
from cohortium.common.identity import SigningKey
from cohortium.common.messages import (
    EMPTY,
    Calibrated,
    Closed,
    Consent,
    Evaluate,
    Evaluated,
    Held,
    Invite,
    Measured,
    Refusal,
    Train,
    Update,
    Validated,
    Vector,
    Witnessed,
    kind_of,
    pack,
    unpack,
)
from cohortium.common.study import Study
from cohortium.server.coordinator import initial_model

ANSWERS: tuple[type[Document], ...] = (
    Calibrated,
    Closed,
    Consent,
    Evaluated,
    Held,
    Measured,
    Refusal,
    Update,
    Validated,
    Witnessed,
)
KINDS = {kind_of(answer): answer for answer in ANSWERS}


@dataclass(frozen=True, eq=False)
class Heard:
    """One verified reply."""

    header: Header
    message: Any
    body: bytes
    raw: bytes

    @property
    def rule(self) -> str:
        """Of a refusal; empty for anything else."""
        return self.message.rule if isinstance(self.message, Refusal) else ""


@dataclass
class Asker:
    """Whoever holds `key`, asking `site`."""

    key: SigningKey
    site: Site
    sent: list[bytes] = field(default_factory=list)

    def ask(
        self,
        study: Study,
        question: Document,
        round: int = 0,
        vector: Vector = EMPTY,
        **changes: Any,
    ) -> Heard:
        return self.send(study, kind_of(question), pack(question, vector), round, **changes)

    def send(self, study: Study, kind: str, body: bytes, round: int = 0, **changes: Any) -> Heard:
        header = Header(
            kind=kind,
            study=study.digest,
            round=round,
            message_id=f"{len(self.sent):032x}",
            sender=COORDINATOR,
            recipient=self.site.name,
            sent_ms=0,
        ).model_copy(update=changes)
        return self.deliver(seal(header, body, self.key))

    def deliver(self, raw: bytes) -> Heard:
        self.sent.append(raw)
        reply = rounds.answer(raw, self.site)
        header, body = unseal(reply, self.site.key.public)
        message, _ = unpack(body, KINDS[header.kind])
        return Heard(header, message, bytes(body), reply)

    def witness(self, question: Document, **changes: Any) -> Heard:
        """Of no study."""
        header = Header(
            kind=kind_of(question),
            study="",
            round=0,
            message_id=f"{len(self.sent):032x}",
            sender=COORDINATOR,
            recipient=self.site.name,
            sent_ms=0,
        ).model_copy(update=changes)
        return self.deliver(seal(header, pack(question), self.key))

    def invite(self, study: Study) -> Heard:
        return self.ask(study, Invite(study=study))

    def train(self, study: Study, round: int, scale: float = 1.0, **changes: Any) -> Heard:
        model = initial_model(study) * np.float32(scale)
        return self.ask(study, Train(), round, model, **changes)

    def evaluate(self, study: Study, round: int) -> Heard:
        return self.ask(study, Evaluate(), round, initial_model(study))
