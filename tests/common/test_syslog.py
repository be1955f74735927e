"""Syslog messages, read back by a parser written from RFC 5424's grammar alone."""

import re

import pytest
from hypothesis import given, settings
from tests import random_events
from tests.common.test_fhir import an_event

from cohortium.common.audit import cef, ecs, syslog
from cohortium.common.audit.events import DETAIL_KEYS, Event
from cohortium.common.audit.titles import severity

# RFC 5424, section 6: each part with its alphabet and its longest form.
HEADER = re.compile(
    rb"<(?P<pri>\d{1,3})>(?P<version>1) "
    rb"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)) "
    rb"(?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48}) (?P<proc>[!-~]{1,128}) (?P<msgid>[!-~]{1,32}) "
)
SD_NAME = rb"[!#-<>-\\^-~]{1,32}"
SD_PARAM = rb' (%s)="((?:[^"\\\]]|\\["\\\]])*)"' % SD_NAME
PARAM = re.compile(SD_PARAM)
ELEMENT = re.compile(rb"\[(?P<id>%s)(?P<params>(?:%s)*)\]" % (SD_NAME, SD_PARAM))
BOM = b"\xef\xbb\xbf"


def read_message(raw: bytes) -> tuple[dict[str, str], dict[str, dict[str, str]], str]:
    """Header, structured data and text of a SYSLOG-MSG."""
    header = HEADER.match(raw)
    assert header, raw[:200]
    at, elements = header.end(), {}
    while element := ELEMENT.match(raw, at):
        params = {name.decode(): value.decode() for name, value in PARAM.findall(element["params"])}
        elements[element["id"].decode()] = params
        at = element.end()
    assert elements
    assert raw[at : at + 1] == b" "
    body = raw[at + 1 :]
    assert body.isascii() or body.startswith(BOM), "UTF-8 must begin with the mark"
    fields = {name: value.decode() for name, value in header.groupdict().items()}
    return fields, elements, body.removeprefix(BOM).decode()


def read_frames(raw: bytes) -> list[bytes]:
    """SYSLOG-FRAME = MSG-LEN SP SYSLOG-MSG, one after the other (RFC 5425, section 4.3)."""
    found = []
    while raw:
        length, _, rest = raw.partition(b" ")
        assert re.fullmatch(rb"[1-9]\d*", length)
        assert len(rest) >= int(length)
        found.append(rest[: int(length)])
        raw = rest[int(length) :]
    return found


@given(event=random_events.events())
@settings(max_examples=60, deadline=None)
def test_any_event_is_a_message_of_rfc_5424(event: Event) -> None:
    bodies = {"ecs": ecs.line(event), "cef": cef.line(event)}
    both = syslog.frame(event, "ecs") + syslog.frame(event, "cef")
    for raw, form in zip(read_frames(both), ("ecs", "cef"), strict=True):
        header, elements, text = read_message(raw)
        assert text == bodies[form]
        assert divmod(int(header["pri"]), 8) == (13, severity(event))
        assert (header["time"], header["msgid"]) == (event.ts, event.action)
        assert (header["app"], header["proc"]) == ("cohortium", "-")
        assert elements.keys() == {"meta", "origin"}
        assert 1 <= int(elements["meta"]["sequenceId"]) <= 2147483647


def test_no_action_is_longer_than_a_msgid() -> None:
    assert max(map(len, DETAIL_KEYS)) <= 32


def test_a_message_is_the_same_bytes_everywhere() -> None:
    event = an_event("round.refused", outcome="denied", reason="policy.hours")
    start = b"<108>1 2026-11-22T14:03:42.123Z a cohortium - round.refused [meta sequenceId="
    assert syslog.message(event, "cef").startswith(start + b'"8"][origin software="cohortium"')


@pytest.mark.parametrize(("seq", "shown"), [(0, "1"), (2**31 - 2, "2147483647"), (2**31 - 1, "1")])
def test_the_sequence_id_begins_again_where_the_rfc_says(seq: int, shown: str) -> None:
    event = an_event("log.started", src={"org": "A", "node": "a", "seq": seq})
    _, elements, _ = read_message(syslog.message(event, "ecs"))
    assert elements["meta"]["sequenceId"] == shown


def test_only_text_beyond_ascii_begins_with_the_mark() -> None:
    event = an_event("study.approved", detail={"person": "Dr. Öz"})
    assert BOM not in syslog.message(event, "ecs")
    assert BOM + b"CEF:0|" in syslog.message(event, "cef")


def test_a_node_with_an_odd_name_is_still_one_host() -> None:
    event = an_event("log.started", src={"org": "A", "node": "Haus 3 ä", "seq": 0})
    assert b" Haus?3?? cohortium " in syslog.message(event, "ecs")
