"""The one gate through which every byte to the coordinator passes, outside training code.

What may leave is a closed list of messages whose fields are typed; here the rest is checked that
types cannot say: the vector belongs to the message, has the model's size and only finite values,
and a study with privacy sends no update without the ledger's word for it.
"""

import numpy as np

from cohortium.common.document import Document
from cohortium.common.errors import RefusedError
from cohortium.common.messages import (
    Closed,
    Consent,
    Evaluated,
    Measured,
    Refusal,
    Update,
    Vector,
    pack,
)
from cohortium.common.study import Study

MAY_LEAVE = (Closed, Consent, Evaluated, Measured, Refusal, Update)


def release(message: Document, vector: Vector, study: Study | None, parameters: int) -> bytes:
    """The bytes that leave, or RefusedError naming the rule.

    Args:
        vector: float32 (parameters,) of an update, else empty.
        study: the approved study that the answer belongs to; None before there is one.
        parameters: length of the model that the request carried.
    """
    if type(message) not in MAY_LEAVE:  # a subclass might carry more
        raise RefusedError("egress.message", "this kind of message never leaves a site")
    if isinstance(message, Update):
        _check_update(message, vector, study, parameters)
    elif vector.size:
        raise RefusedError("egress.vector", "only an update carries a vector")
    if isinstance(message, Measured) and (study is None or study.privacy.mechanism != "none"):
        raise RefusedError("egress.statistics", "sums without noise leave no study with privacy")
    return pack(message, vector)


def _check_update(message: Update, vector: Vector, study: Study | None, parameters: int) -> None:
    if study is None or vector.shape != (parameters,):
        raise RefusedError("egress.vector", "an update has the size of the model it started from")
    if not np.isfinite(vector).all():
        raise RefusedError("egress.finite", "the update holds a value that is not finite")
    if study.privacy.mechanism != "none" and message.spent is None:
        raise RefusedError("egress.ledger", "an update of a private study needs its ledger entry")
