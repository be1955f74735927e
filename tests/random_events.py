"""Any event that the vocabulary allows, however odd: for whatever reads or writes events."""

import string
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from cohortium.common.audit.events import (
    DETAIL_KEYS,
    Actor,
    Event,
    PolicyVersion,
    Source,
    Thing,
    timestamp,
    uuid7,
)

FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = "\\|=\"'][ \t\n\r{}<>&;,:%$#@`~^\u00e4\u4e2d\U0001f512"

# One line of printable text: with all that some format escapes, and with all of Unicode.
texts = st.one_of(
    st.text(st.sampled_from([c for c in HOSTILE if c.isprintable()]), min_size=1, max_size=40),
    st.text(string.ascii_letters + string.digits + " .-_", min_size=1, max_size=200),
    st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=200).filter(
        str.isprintable
    ),
)
counts = st.one_of(st.integers(0, 1000), st.integers(0, 2**53 - 1))
hashes = st.binary(min_size=32, max_size=32).map(lambda raw: f"sha256:{raw.hex()}")
actors = st.builds(
    Actor,
    type=st.sampled_from(["person", "service", "site", "coordinator"]),
    id=texts,
    auth=texts,
)
things = st.builds(Thing, t=texts, id=st.none() | texts, h=hashes, bytes=st.none() | counts)
moments = st.integers(0, 10**12).map(lambda ms: FIRST_DAY + timedelta(milliseconds=ms))


@st.composite
def events(draw: st.DrawFn, actions: tuple[str, ...] = tuple(sorted(DETAIL_KEYS))) -> Event:
    """Any valid event with one of the actions."""
    action = draw(st.sampled_from(actions))
    when = draw(moments)
    outcome = draw(st.sampled_from(["success", "success", "failure", "denied"]))
    values: dict[str, Any] = {
        "id": uuid7(int(when.timestamp() * 1000), draw(st.binary(min_size=10, max_size=10))),
        "ts": timestamp(when),
        "src": Source(org=draw(texts), node=draw(texts), seq=draw(counts)),
        "actor": draw(actors),
        "action": action,
        "outcome": outcome,
        "study": draw(st.none() | texts),
        "run": draw(st.none() | texts),
        "round": draw(st.none() | counts),
        "obj": tuple(draw(st.lists(things, max_size=4))),
        "policy": draw(st.none() | st.builds(PolicyVersion, id=texts, h=hashes)),
        "reason": draw(texts if outcome != "success" else st.none() | texts),
        "detail": draw(
            st.dictionaries(st.sampled_from(sorted(DETAIL_KEYS[action])), texts, max_size=6)
        ),
        "salt": draw(st.binary(min_size=16, max_size=16)).hex(),
    }
    return Event(**values)
