"""A message is exactly what the protocol says, whoever signed it."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.federation import PRIVATE, write_study

from cohortium.common.document import Document
from cohortium.common.errors import ProtocolError
from cohortium.common.messages import (
    EMPTY,
    MAX_FIELD_BYTES,
    Close,
    Consent,
    Invite,
    Measured,
    Refusal,
    Spent,
    Train,
    Update,
    kind_of,
    pack,
    unpack,
)
from cohortium.common.preprocessing.statistics import Statistics

SPENT = Spent(
    sampler="poisson",
    sample_rate=0.1,
    noise_multiplier=1.5,
    steps=5,
    delta=1e-5,
    epsilon=0.5,
    lifetime_epsilon=0.7,
    cap_epsilon=10.0,
    cap_delta=1e-5,
)
UPDATE = Update(weight=7.0, spent=SPENT)
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
VECTOR = np.array([0.5, -1.0, 3e38], dtype=np.float32)


def body(fields: Any, tail: bytes = b"", length: int | None = None) -> bytes:
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack(">I", len(text) if length is None else length) + text + tail


@given(arrays(np.float32, st.integers(0, 40), elements=FINITE))
def test_every_finite_vector_comes_back_bit_for_bit(vector: Any) -> None:
    message, again = unpack(pack(UPDATE, vector), Update)
    assert message == UPDATE
    assert again.tobytes() == vector.tobytes()


def test_a_study_comes_back_as_the_same_study(tmp_path: Path) -> None:
    study = write_study(tmp_path, PRIVATE)
    message, vector = unpack(pack(Invite(study=study)), Invite)
    assert message.study.digest == study.digest
    assert vector.size == 0


@pytest.mark.parametrize(
    "message",
    [
        Train(statistics=Statistics(count=3, total=(1.0,), squares=(2.0,))),
        Measured(statistics=Statistics(count=3, total=(), squares=())),
        Consent(decision="approved", approvers=("Dr. Wei\u00df",), patients="100-199"),
        Consent(decision="waiting"),
        Consent(decision="refused", rule="policy.max_rounds", explanation="no"),
        Refusal(rule="site.error", explanation="", correlation_id="00"),
        Close(outcome="completed"),
    ],
)
def test_every_message_comes_back_as_it_was(message: Document) -> None:
    assert unpack(pack(message), type(message))[0] == message


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_with_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    raw = pack(UPDATE, np.array([1.0, bad], dtype=np.float32))
    with pytest.raises(ProtocolError, match="not finite"):
        unpack(raw, Update)


def test_the_vector_is_a_view_that_nobody_can_write() -> None:
    _, vector = unpack(pack(UPDATE, VECTOR), Update)
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 1.0


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\0\0",
        body({"weight": 1.0, "spent": None}, length=2**32 - 1),
        body({"weight": 1.0, "spent": None}, length=500),
        body({"weight": 1.0, "spent": None}, length=3),
        body({"weight": 1.0, "spent": None}, tail=b"\0"),
        body({"weight": 1.0, "spent": None}, tail=b"\0\0\0\0\0"),
        body(b" " * (MAX_FIELD_BYTES + 1)),
        body(b"\xff"),
        body([]),
        body({"weight": 1.0}),
        body({"weight": 1.0, "spent": None, "patients": [1, 2]}),
        body({"weight": 0.0, "spent": None}),
        body({"weight": -1.0, "spent": None}),
        body({"weight": "1", "spent": None}),
        body(b'{"weight":NaN,"spent":null}'),
        body(b'{"weight":1e999,"spent":null}'),
        body({"weight": 1.0, "spent": {**SPENT.model_dump(), "epsilon": -1.0}}),
        body({"weight": 1.0, "spent": {**SPENT.model_dump(), "steps": 2.5}}),
        body({"weight": 1.0, "spent": {**SPENT.model_dump(), "sampler": "all"}}),
    ],
)
def test_an_update_that_the_protocol_does_not_know_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^Update: "):
        unpack(raw, Update)


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise_anything_but_a_protocol_error(raw: bytes) -> None:
    for kind in (Update, Invite, Consent):
        with pytest.raises(ProtocolError):
            unpack(raw, kind)


@pytest.mark.parametrize(
    "fields",
    [
        {"rule": "", "explanation": "no", "correlation_id": "1"},
        {"rule": "a:b", "explanation": "no", "correlation_id": "1"},
        {"rule": "Policy", "explanation": "no", "correlation_id": "1"},
        {"rule": "policy\n", "explanation": "no", "correlation_id": "1"},
        {"rule": "policy", "explanation": "no\nERROR forged line", "correlation_id": "1"},
        {"rule": "policy", "explanation": "\x1b[2J", "correlation_id": "1"},
        {"rule": "policy", "explanation": "x" * 2001, "correlation_id": "1"},
        {"rule": "policy", "explanation": "no", "correlation_id": "1\n2"},
    ],
)
def test_a_refusal_cannot_write_its_own_lines_into_our_records(fields: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        unpack(body(fields), Refusal)


@pytest.mark.parametrize(
    "fields",
    [
        {"decision": "approved"},
        {"decision": "approved", "approvers": [""]},
        {"decision": "approved", "approvers": ["A\nB"]},
        {"decision": "waiting", "approvers": ["A"]},
        {"decision": "refused"},
        {"decision": "waiting", "rule": "policy.models"},
        {"decision": "perhaps"},
        {"decision": "approved", "approvers": ["A"], "weight": -1},
    ],
)
def test_a_consent_that_contradicts_itself_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        unpack(body(fields), Consent)


def test_only_messages_have_a_kind() -> None:
    assert kind_of(UPDATE) == "update"
    with pytest.raises(ProtocolError, match="only messages"):
        kind_of(SPENT)
    assert EMPTY.size == 0
