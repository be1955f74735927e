"""Events as syslog messages: RFC 5424, framed for TLS as RFC 5425 says.

The structured data has only what the IANA registered: `meta` with the event's place in its log,
`origin` with the software.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from cohortium.common.audit import cef, ecs
from cohortium.common.audit.events import Event
from cohortium.common.audit.titles import severity

LOG_AUDIT = 13  # the facility (RFC 5424, table 1)
APP_NAME = "cohortium"
NIL = "-"
BOM = b"\xef\xbb\xbf"
LAST_SEQUENCE_ID = 2**31 - 1
LONGEST_HOST = 255

BODIES: Mapping[Literal["ecs", "cef"], Callable[[Event], str]] = {
    "ecs": ecs.line,
    "cef": cef.line,
}


def frame(event: Event, form: Literal["ecs", "cef"]) -> bytes:
    """MSG-LEN SP SYSLOG-MSG (RFC 5425, section 4.3): octets counted, nothing at the end."""
    whole = message(event, form)
    return b"%d %s" % (len(whole), whole)


def message(event: Event, form: Literal["ecs", "cef"]) -> bytes:
    """One SYSLOG-MSG (RFC 5424, section 6); the HOSTNAME is the node whose log it is from."""
    priority = LOG_AUDIT * 8 + severity(event)
    host = _printable(event.src.node, LONGEST_HOST)
    header = f"<{priority}>1 {event.ts} {host} {APP_NAME} {NIL} {event.action} {_data(event)} "
    return header.encode("ascii") + _body(BODIES[form](event))


def _data(event: Event) -> str:
    """`sequenceId` counts from 1 and begins again after 2147483647 (RFC 5424, section 7.3.1)."""
    place = event.src.seq % LAST_SEQUENCE_ID + 1
    origin = f'software="{APP_NAME}" swVersion="{_escaped(cef.our_version()[:32])}"'
    return f'[meta sequenceId="{place}"][origin {origin}]'


def _body(text: str) -> bytes:
    """UTF-8 begins with a byte order mark, ASCII needs none (RFC 5424, section 6.4)."""
    return text.encode() if text.isascii() else BOM + text.encode()


def _printable(text: str, longest: int) -> str:
    """PRINTUSASCII: what is no visible ASCII character becomes a question mark."""
    return "".join(c if "!" <= c <= "~" else "?" for c in text[:longest]) or NIL


def _escaped(text: str) -> str:
    """A PARAM-VALUE (RFC 5424, section 6.3.3)."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
