"""What a daemon and its training process say to each other, over a pair of pipes.

A frame is `length (8, big-endian) | body`, a body is packed as the messages to the coordinator are:
JSON fields and one float32 vector. Nothing is unpickled.
"""

import struct
from typing import IO, ClassVar, Literal

import numpy as np

from cohortium.client.calibration import Inquiry
from cohortium.client.results import Results
from cohortium.common.document import Document
from cohortium.common.errors import ProtocolError
from cohortium.common.messages import EMPTY, Calibrated, Vector, pack
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.privacy.accounting import Mechanism
from cohortium.common.privacy.ledger_row import CrossCheck
from cohortium.common.schema import Schema
from cohortium.common.study import Study

MAX_FRAME_BYTES = 4 * 2**31


class Setup(Document):
    """The first frame: whose process this is, and the one dataset and study that it works on."""

    kind: ClassVar[str] = "setup"
    site: str
    device: Literal["auto", "cuda", "mps", "cpu"]
    threads: int
    processes: int = 1
    sharded: bool = False
    dataset: str
    path: str
    data_model: Schema
    study: Study


class Job(Document):
    """One piece of work; a model comes as the frame's vector.

    A personal model follows it in the same vector, of the same length; `personal` says so.
    """

    kind: ClassVar[str] = "job"
    task: Literal[
        "prepare",
        "measure",
        "reduction",
        "train",
        "personalise",
        "validate",
        "evaluate",
        "calibrate",
        "cross_check",
    ]
    statistics: Statistics | None = None
    round: int = 0
    minimum_cell: int = 0
    last: bool = False
    personal: bool = False
    inquiry: Inquiry | None = None
    plan: Mechanism | None = None
    delta: float = 0.0


class Done(Document):
    """What a job made, whichever it was; an update or a model comes as the frame's vector.

    `stays` goes no further than the daemon and its database.
    """

    kind: ClassVar[str] = "done"
    isolation: str = ""
    patients: int = 0
    band: str = ""
    weight: float = 0.0
    travelling: int | None = None
    statistics: Statistics | None = None
    mechanism: Mechanism | None = None
    loss: float | None = None
    evaluation: SiteEvaluation | None = None
    stays: Results | None = None
    calibrated: Calibrated | None = None
    cross_check: CrossCheck | None = None
    error: Literal["", "data", "refused", "failed"] = ""
    rule: str = ""
    text: str = ""


def write_frame(pipe: IO[bytes], message: Document, vector: Vector = EMPTY) -> None:
    """Send one frame whole."""
    fields = _padded(pack(message))
    values = np.ascontiguousarray(vector, dtype="<f4").data.cast("B")
    pipe.write(struct.pack(">Q", len(fields) + len(values)))
    pipe.write(fields)
    pipe.write(values)  # not put together first: a large model is in memory as seldom as possible
    pipe.flush()


def _padded(body: bytes) -> bytes:
    """A body with spaces after its fields: floats at an odd address would be copied to be used."""
    length = len(body) - 4
    spaces = -length % 4
    return struct.pack(">I", length + spaces) + body[4:] + b" " * spaces


def read_frame(pipe: IO[bytes]) -> bytes | None:
    """The next frame's body, or None at the end of the pipe.

    Raises:
        ProtocolError: the pipe ended within a frame.
    """
    head = pipe.read(8)
    if not head:
        return None
    (length,) = struct.unpack(">Q", head) if len(head) == 8 else (-1,)
    if not 0 <= length <= MAX_FRAME_BYTES:
        raise ProtocolError("the training process and the daemon disagree about a frame")
    body = pipe.read(length)
    if len(body) < length:
        raise ProtocolError("the training process and the daemon were cut off within a frame")
    return body
