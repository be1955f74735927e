"""A verified request, and what a handler makes of it."""

import hashlib
from dataclasses import dataclass, field

from cohortium.client import staying
from cohortium.client.site import Site
from cohortium.common.audit.events import Thing
from cohortium.common.document import Document
from cohortium.common.envelope import Header
from cohortium.common.messages import EMPTY, Spent, Vector
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.study import Study


@dataclass(eq=False)
class Request:
    """A verified request and the site that answers it; the body is let go once it was read.

    A large model is in memory as seldom as possible.
    """

    site: Site
    header: Header
    body: memoryview
    sha256: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.sha256 = hashlib.sha256(self.body).digest()


@dataclass(eq=False)
class Answer:
    """What a handler made: the message, its vector, and what that cost the dataset.

    `account` is the ledger after it; `keep` stores, in the reply's transaction, what stays here.
    `model` is the one that came.
    """

    message: Document
    study: Study | None
    vector: Vector = field(default_factory=lambda: EMPTY)
    parameters: int = 0
    spent: Mechanism | None = None
    account: Spent | None = None
    stored: bool = True
    keep: staying.Keep = staying.nothing
    model: Thing | None = None

    def take(self) -> Vector:
        """The vector, which is then no longer held here."""
        vector, self.vector = self.vector, EMPTY
        return vector
