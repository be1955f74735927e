"""The one gate through which every byte to the coordinator passes, outside training code.

What may leave is a closed list of messages whose fields are typed; here the rest is checked that
types cannot say: the vector belongs to the message, has the model's size and only finite values,
the fields are no larger than such a message needs, and a study with privacy sends no update without
the ledger's word for it. What is kept back is refused by its rule, which the site's log records.
"""

import math
from collections import Counter

import numpy as np

from cohortium.common import newton
from cohortium.common.document import Document
from cohortium.common.errors import RefusedError
from cohortium.common.messages import (
    Calibrated,
    Closed,
    Consent,
    Evaluated,
    Held,
    Measured,
    Refusal,
    Update,
    Validated,
    Vector,
    Witnessed,
    pack,
)
from cohortium.common.study import Study

MAY_LEAVE = (
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
MAX_FIELD_BYTES = 64 * 2**10  # all of a message but its vector
MAX_NORM = 1e6
BLOCK = 2**20  # elements of a vector that are looked at together
ANSWERS_A_MINUTE = 1200  # of one study; twenty rounds a second are no training


class Gate:
    """Counts each study's new answers about patients, by the site's own clock.

    A round is answered once, and sending that answer again is free: the rate is no measure of
    privacy, it holds up a study that hammers at a site. Counting starts anew with each minute and
    with each start of the daemon.
    """

    def __init__(self) -> None:
        self._minute = 0
        self._answers: Counter[str] = Counter()

    def admit(self, study: str, now_ms: int) -> None:
        """Count one answer; RefusedError `egress.rate` for one too many."""
        if now_ms // 60_000 != self._minute:
            self._minute = now_ms // 60_000
            self._answers.clear()
        self._answers[study] += 1
        if self._answers[study] > ANSWERS_A_MINUTE:
            raise RefusedError(
                "egress.rate", f"no more than {ANSWERS_A_MINUTE} answers a minute leave for a study"
            )


def release(message: Document, vector: Vector, study: Study | None, parameters: int) -> bytes:
    """The bytes that leave, or RefusedError naming the rule.

    Args:
        vector: of an update, float32 (parameters,), or longer by an information matrix where the
            study says `newton`; else empty.
        study: the approved study that the answer belongs to; None before there is one.
        parameters: length of the model that the request carried.
    """
    if type(message) not in MAY_LEAVE:  # a subclass might carry more
        raise RefusedError("egress.message", "this kind of message never leaves a site")
    if isinstance(message, Update):
        _check_update(message, vector, study, parameters)
    elif isinstance(message, Measured) and message.statistics is None:
        _check_sums(message, vector, study, parameters)
    elif vector.size:
        raise RefusedError("egress.vector", "only an update carries a vector")
    if isinstance(message, Measured) and message.statistics is not None and _private(study):
        raise RefusedError("egress.statistics", "sums without noise leave no study with privacy")
    if isinstance(message, Validated) and (study is None or study.privacy.mechanism != "none"):
        raise RefusedError("egress.loss", "a loss without noise leaves no study with privacy")
    body = pack(message, vector)
    if len(body) - 4 - vector.nbytes > MAX_FIELD_BYTES:
        raise RefusedError("egress.size", f"the fields are larger than {MAX_FIELD_BYTES} bytes")
    return body


def _private(study: Study | None) -> bool:
    return study is None or study.privacy.mechanism != "none"


def _check_sums(message: Measured, vector: Vector, study: Study | None, parameters: int) -> None:
    """Sums for the reduction of a block: asked for, as many as they must be, and paid for."""
    how = study.preprocessing.reduce if study is not None else None
    if how is None or vector.shape != (parameters,) or not np.isfinite(vector).all():
        raise RefusedError("egress.vector", "no such sums belong to the study")
    if _private(study) and message.spent is None:
        raise RefusedError("egress.ledger", "sums of a private study need their ledger entry")


def _check_update(message: Update, vector: Vector, study: Study | None, parameters: int) -> None:
    """An update is as large as its model, sane, and paid for.

    Clipping bounds one patient's part in an update, and noise has no bound, so no mechanism gives a
    bound on the norm of the whole. MAX_NORM is far above all useful updates: what exceeds it has
    diverged, or is something else written into floats.
    """
    length = newton.update_length(study, parameters) if study is not None else 0
    if study is None or vector.shape != (length,) or vector.dtype != np.float32:
        raise RefusedError("egress.vector", "an update has the size of the model it started from")
    if not np.isfinite(vector).all():
        raise RefusedError("egress.finite", "the update holds a value that is not finite")
    if not _length(vector) < MAX_NORM:
        raise RefusedError(
            "egress.norm", f"the update is longer than {MAX_NORM:g}: it has diverged"
        )
    if (message.loss is not None) != (study.strategy.q is not None):
        raise RefusedError("egress.loss", "an update tells its loss where the study asks, only")
    if study.privacy.mechanism != "none" and message.spent is None:
        raise RefusedError("egress.ledger", "an update of a private study needs its ledger entry")


def _length(vector: Vector) -> float:
    """Euclidean, a block at a time: numpy would copy an unaligned view of a frame twice."""
    blocks = (vector[k : k + BLOCK].astype(np.float64) for k in range(0, len(vector), BLOCK))
    return math.sqrt(sum(float(block @ block) for block in blocks))
