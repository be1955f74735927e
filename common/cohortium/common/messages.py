"""What coordinator and site say to each other: one frozen value per message, and its bytes.

| the coordinator asks | the site answers | when                                            |
| -------------------- | ---------------- | ----------------------------------------------- |
| Invite               | Consent          | until every site has decided                    |
| Measure              | Measured         | once, if scaling is federated-standard          |
| Hold                 | Held             | once, if some of the model does not travel      |
| Train                | Update           | every round                                     |
| Evaluate             | Evaluated        | after the rounds that the study names           |
| Validate             | Validated        | after every round, if the study may stop early  |
| Calibrate            | Calibrated       | up to 8 times after the last evaluation         |
| Close                | Closed           | when the study has ended, for whatever reason   |
| Witness              | Witnessed        | when the consortium's log has grown; of no study |
| any of them          | Refusal          | policy, budget, data or protocol forbid it      |

The body of an envelope is `field length (4, big-endian) | JSON fields | float32 vector,
little-endian`. Parameters travel as one flat vector: every further array would cost Flower two
more objects and tens of milliseconds a round.
"""

import hashlib
import struct
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, model_validator

from cohortium.common.document import Document, canonical, parse_json
from cohortium.common.errors import ProtocolError
from cohortium.common.metrics.calibration import Points, Sums
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study

Vector = npt.NDArray[np.float32]

MAX_FIELD_BYTES = 4 * 2**20
MAX_PARAMETERS = 500_000_000

MAX_LINE = 2000


def _printable(text: str) -> str:
    """What a peer says is logged and shown: no line end, no control sequence."""
    if text and not text.isprintable():
        raise ValueError("must be one line of printable text")
    return text


Short = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Line = Annotated[str, Field(max_length=MAX_LINE), AfterValidator(_printable)]
Rule = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.]{0,99}$")]
Count = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Invite(Document):
    """Would you take part in exactly this study?"""

    kind: ClassVar[str] = "invite"
    study: Study


class Consent(Document):
    """A site's decision. `approvers` are the persons who signed; `patients` is a public band."""

    kind: ClassVar[str] = "consent"
    decision: Literal["approved", "waiting", "refused"]
    rule: Rule | Literal[""] = ""
    explanation: Line = ""
    approvers: tuple[Short, ...] = ()
    approved_at: Short = ""
    patients: Short = ""

    @model_validator(mode="after")
    def _says_who_or_why(self) -> Self:
        if (self.decision == "approved") != any(self.approvers):
            raise ValueError("somebody approves a study, and nobody one that is not approved")
        if (self.decision == "refused") != bool(self.rule):
            raise ValueError("a refusal names its rule")
        return self


class Measure(Document):
    """Send the sums from which all sites' scaling, or their projection of a block, is computed."""

    kind: ClassVar[str] = "measure"


class Measured(Document):
    """Sums over a site's training rows, one per encoded column.

    Where the study reduces a block they are in the vector, and `statistics` is None; with privacy
    they carry noise, and `spent` says what that cost.
    """

    kind: ClassVar[str] = "measured"
    statistics: Statistics | None
    spent: "Spent | None" = None


class Hold(Document):
    """Keep the parameters in the vector: in this study's later messages the model is the others.

    They are those that `study_module` lets stay (`common/arrays.py`), in its order.
    """

    kind: ClassVar[str] = "hold"


class Held(Document):
    """Kept."""

    kind: ClassVar[str] = "held"


class Train(Document):
    """Train one round from the model in the vector. Everything else stands in the study."""

    kind: ClassVar[str] = "train"
    statistics: Statistics | None = None


class Spent(Document):
    """What a round cost, and the site's ledger after it.

    epsilon: of this study's training so far, at its delta; lifetime_epsilon: of everything ever
    done with the dataset, at `cap_delta`; both as reported (composed mechanisms, never added).
    """

    sampler: Literal["poisson", "full-batch"]
    sample_rate: float
    noise_multiplier: float
    steps: Count
    delta: float
    epsilon: NotNegative
    lifetime_epsilon: NotNegative
    cap_epsilon: NotNegative
    cap_delta: float


class Update(Document):
    """The change of the model in the vector; `spent` is None only in a study without privacy.

    `loss`: of the model that the round started from, mean over training patients; only for
    `qfedavg`, and with privacy in the noise that `spent` accounts for, so that it may be negative.
    """

    kind: ClassVar[str] = "update"
    weight: Annotated[float, Field(gt=0)]
    spent: Spent | None
    loss: float | None = None


class Evaluate(Document):
    """Measure the model in the vector on held-out patients."""

    kind: ClassVar[str] = "evaluate"
    statistics: Statistics | None = None


class Evaluated(Document):
    """Sums for metrics, after disclosure control."""

    kind: ClassVar[str] = "evaluated"
    evaluation: SiteEvaluation


class Validate(Document):
    """How well does the model in the vector do on the patients that decide when to stop?"""

    kind: ClassVar[str] = "validate"
    statistics: Statistics | None = None


class Validated(Document):
    """The mean loss over a site's validation patients, rounded; None where they are too few.

    `weight`: how much the site counts, as in its updates.
    """

    kind: ClassVar[str] = "validated"
    loss: float | None
    weight: Annotated[float, Field(gt=0)]


class Calibrate(Document):
    """Sums, at these points, of the fit of the outcome on the final model's scores.

    `evaluate` is the last question of its kind; the vector is its model. Steps count from 1.
    """

    kind: ClassVar[str] = "calibrate"
    evaluate: Evaluate
    step: int
    points: Points


class Calibrated(Document):
    """The sums of those groups that were asked and may be answered."""

    kind: ClassVar[str] = "calibrated"
    overall: Sums | None
    groups: Mapping[str, Mapping[str, Sums]]


class Close(Document):
    """The study has ended."""

    kind: ClassVar[str] = "close"
    outcome: Short


class Closed(Document):
    """Noted."""

    kind: ClassVar[str] = "closed"


class Refusal(Document):
    """No, and which rule says so. The correlation id finds the line in the site's own log."""

    kind: ClassVar[str] = "refusal"
    rule: Rule
    explanation: Line
    correlation_id: Short


class Proven(Document):
    """Where an event of the asked site's `shared` log is in the consortium's, with its proof."""

    seq: Count
    index: Count
    path: tuple[Hash, ...]


class Recovery(Document):
    """Why the log goes on under a new name: its first event says what was lost, by whose word.

    line: that event (`log.recovered`), leaf `index` of the new log, with its proof. head: the
    largest checkpoint of the log before that a witness is known to have cosigned.
    """

    line: Annotated[str, Field(max_length=65_536)]
    index: Count
    path: Annotated[tuple[Hash, ...], Field(max_length=64)]
    head: Annotated[str, Field(max_length=65_536)]


class Returned(Document):
    """Own events that the asked site has lost: number `first` of its `shared` log and those after.

    lines: as the site wrote them. proof: that its log with them is the beginning of what it signed
    in `Witness.head`. documents: those that these events name by hash, `type` and text.
    """

    first: Count
    lines: Annotated[tuple[str, ...], Field(max_length=1000)]
    proof: Annotated[tuple[Hash, ...], Field(max_length=128)]
    documents: Annotated[tuple[tuple[Short, str], ...], Field(max_length=1000)] = ()


class Witness(Document):
    """Look at a checkpoint of the consortium's log, and cosign it if the log only grew.

    checkpoint: the note with the log's signature; one of size 0 asks only what was cosigned last.
    old_size: of the checkpoint that the site is thought to have cosigned last, 0 for none;
    `consistency` leads from there. included: events of the site's that are new in the log, in
    order. have: how many of its shared events the coordinator holds. cosigned: an earlier
    checkpoint with all its cosignatures by now, "" for none. recovery: only of a log begun anew.
    head: what the site signed last over those of its events that the coordinator holds, "" for
    nothing. returned: where it said that it lacks some of them.
    """

    kind: ClassVar[str] = "witness"
    checkpoint: Annotated[str, Field(max_length=65_536)]
    old_size: Count
    consistency: Annotated[tuple[Hash, ...], Field(max_length=128)]
    included: Annotated[tuple[Proven, ...], Field(max_length=1000)]
    have: Count
    cosigned: Annotated[str, Field(max_length=65_536)] = ""
    recovery: Recovery | None = None
    head: Annotated[str, Field(max_length=65_536)] = ""
    returned: Returned | None = None


class Witnessed(Document):
    """A site's cosignature, and what is new in its `shared` log.

    cosignature: the line below the note; "" where `size`, from which the log must be shown to have
    grown, is another one than the old size that was asked about. newer: the last checkpoint that
    the site cosigned, where it cosigned none now. proven: how many of its shared events it has seen
    to be in the log. events: lines from `have` on. documents: those that these events name by hash,
    `type` and text. checkpoint: the site's own signed checkpoint over its shared log up to the last
    of `events`. lacks: from which of its shared events on the site has not those that it signed (an
    old backup was put back); then nothing else is said, and they are asked for.
    """

    kind: ClassVar[str] = "witnessed"
    cosignature: Annotated[str, Field(max_length=1000)]
    size: Count
    newer: Annotated[str, Field(max_length=65_536)] = ""
    proven: Count
    events: Annotated[tuple[str, ...], Field(max_length=1000)]
    documents: Annotated[tuple[tuple[Short, str], ...], Field(max_length=1000)]
    checkpoint: Annotated[str, Field(max_length=65_536)]
    lacks: Count | None = None


Question = Invite | Measure | Hold | Train | Evaluate | Validate | Calibrate | Close | Witness
M = TypeVar("M", bound=Document)

EMPTY: Vector = np.zeros(0, dtype=np.float32)


def kind_of(message: Document | type[Document]) -> str:
    """The word that an envelope's header calls a message by."""
    kind = getattr(message, "kind", None)
    if not isinstance(kind, str):
        raise ProtocolError("only messages of the protocol can be sent")
    return kind


def pack(message: Document, vector: Vector = EMPTY) -> bytes:
    """The body of an envelope.

    Args:
        vector: float32, shape (parameters,); empty where the message carries none.
    """
    fields = canonical(message)
    values = np.ascontiguousarray(vector, dtype="<f4")
    return b"".join((struct.pack(">I", len(fields)), fields, values.data))


def body_sha256(message: Document, vector: Vector) -> bytes:
    """The SHA-256 of what `pack` makes, without making it."""
    fields = canonical(message)
    found = hashlib.sha256(struct.pack(">I", len(fields)) + fields)
    found.update(np.ascontiguousarray(vector, dtype="<f4").data)
    return found.digest()


def unpack(body: bytes | memoryview, kind: type[M]) -> tuple[M, Vector]:
    """Take a body apart, within limits; the vector is a read-only view of the body.

    Raises:
        ProtocolError: cut short, too large, fields that the message does not have, or a vector
            with a value that is not finite.
    """
    view = memoryview(body)
    if len(view) < 4:
        raise ProtocolError(f"{kind.__name__}: the message is cut short")
    (length,) = struct.unpack(">I", view[:4])
    rest = len(view) - 4 - length
    if length > MAX_FIELD_BYTES or rest < 0 or rest % 4 or rest // 4 > MAX_PARAMETERS:
        raise ProtocolError(f"{kind.__name__}: the message's lengths do not fit")
    fields = parse_json(view[4 : 4 + length], kind, kind.__name__)
    vector = np.frombuffer(view[4 + length :], dtype="<f4")
    if not np.isfinite(vector).all():
        raise ProtocolError(f"{kind.__name__}: the vector holds a value that is not finite")
    return fields, vector
