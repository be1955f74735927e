"""ECS and CEF lines, read back by parsers that know the formats and not our code."""

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import random_events
from tests.common.test_fhir import an_event, evidence_of

from cohortium.common.audit import cef, ecs
from cohortium.common.audit.events import DETAIL_KEYS, Event
from cohortium.common.audit.fhir_codes import FORMS
from cohortium.common.audit.siem import SiemConfig
from cohortium.common.audit.titles import TITLES, Severity, severity

PAGE = Path(__file__).parent.parent.parent / "docs" / "siem.md"

# Elastic's "allowed values": which event.type is expected in which event.category.
EXPECTED_TYPES = {
    "api": "access admin allowed change creation deletion denied end info start user",
    "authentication": "start end info",
    "configuration": "access change creation deletion info",
    "database": "access change info error",
    "file": "access change creation deletion info",
    "host": "access change end info start",
    "iam": "admin change creation deletion group info user",
    "intrusion_detection": "allowed denied info",
    "process": "access change end info start",
}
ECS_FIELDS = {
    *("@timestamp", "ecs.version", "message", "log.level", "organization.id", "service.name"),
    *("service.node.name", "service.type", "user.id", "user.roles", "related.user", "related.hash"),
    *("event.action", "event.category", "event.dataset", "event.hash", "event.id", "event.kind"),
    *("event.module", "event.outcome", "event.reason", "event.sequence", "event.severity"),
    "event.type",
}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """A nested document by dotted field names."""
    if not isinstance(value, dict):
        return {path: value}
    return {
        name: leaf
        for key, item in value.items()
        for name, leaf in flat(item, f"{path}.{key}" if path else key).items()
    }


# ------------------------------------------------------------------ ECS


def test_every_action_has_a_title_a_category_and_a_severity() -> None:
    assert set(TITLES) == set(ecs.CATEGORIES) == set(DETAIL_KEYS)


def test_no_detail_can_take_the_place_of_a_label() -> None:
    labels = {"study", "run", "round", "auth", "policy", "outcome"}
    assert not labels & {key for keys in DETAIL_KEYS.values() for key in keys}


@given(event=random_events.events())
@settings(max_examples=60, deadline=None)
def test_an_ecs_line_holds_the_event_in_fields_that_ecs_knows(event: Event) -> None:
    line = ecs.line(event)
    assert line.isascii()
    assert "\n" not in line
    document = json.loads(line)
    labels = document.pop("labels")
    fields = flat(document)
    assert set(fields) <= ECS_FIELDS
    (category,) = fields["event.category"]
    assert set(fields["event.type"]) <= set(EXPECTED_TYPES[category].split())
    assert fields["event.kind"] in ("alert", "event")
    assert fields["event.outcome"] == ("success" if event.outcome == "success" else "failure")
    assert (fields["event.id"], fields["event.sequence"]) == (event.id, event.src.seq)
    assert fields["event.hash"] == hashlib.sha256(b"\0" + event.line.encode()).hexdigest()
    assert fields["@timestamp"] == event.ts
    assert all(isinstance(value, str) and "." not in key for key, value in labels.items())
    assert labels.items() >= event.detail.items()
    assert (labels.get("study"), labels.get("run")) == (event.study, event.run)
    assert labels.get("round") == (None if event.round is None else str(event.round))
    hashes = {thing.h[7:] for thing in event.obj} | (
        {event.policy.h[7:]} if event.policy else set()
    )
    assert set(fields.get("related.hash", [])) == hashes


def test_an_ecs_line_is_the_same_bytes_everywhere() -> None:
    event = an_event("round.refused", outcome="denied", reason="policy.hours", round=3)
    assert ecs.line(event) == (
        '{"@timestamp":"2026-11-22T14:03:42.123Z","ecs":{"version":"8.17.0"},'
        '"event":{"action":"round.refused","category":["api"],"dataset":"cohortium.audit",'
        f'"hash":"{event.leaf.hex()}","id":"019aabe4-0c4b-7000-8000-000000000000","kind":"event",'
        '"module":"cohortium","outcome":"failure","reason":"policy.hours","sequence":7,'
        '"severity":4,"type":["access","denied"]},'
        '"labels":{"auth":"signature:SHA256:x","outcome":"denied","round":"3"},'
        '"log":{"level":"warning"},"message":"Request refused: policy.hours",'
        '"organization":{"id":"Hospital A"},"related":{"user":["a"]},'
        '"service":{"name":"cohortium","node":{"name":"a"},"type":"cohortium"},'
        '"user":{"id":"a","roles":["site"]}}'
    )


# ------------------------------------------------------------------ CEF


def read_cef(line: str) -> tuple[list[str], dict[str, str]]:
    """Header and extension of a CEF line, by the rules of ArcSight's document alone."""
    parts, rest = [""], line
    while len(parts) < 8:
        head, rest = rest[0], rest[1:]
        if head == "\\":
            assert rest[0] in "\\|", "only these are escaped in a header"
            parts[-1] += rest[0]
            rest = rest[1:]
        elif head == "|":
            parts.append("")
        else:
            parts[-1] += head
    assert parts.pop() == ""
    starts = list(re.finditer(r"(?:^| )([A-Za-z0-9]+)=", rest))
    keys = [(m[1], m.end(), m.start()) for m in starts]
    ends = [start for _, _, start in keys[1:]] + [len(rest)]
    extension = {}
    for (key, begin, _), end in zip(keys, ends, strict=True):
        assert key not in extension
        extension[key] = unescaped(rest[begin:end])
    return parts, extension


def unescaped(text: str) -> str:
    assert not re.search(r"(?<!\\)(?:\\\\)*=", text), "a bare ="
    whole = re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), text)
    assert re.fullmatch(r"(?:[^\\]|\\[\\=nr])*", text), text
    return whole


@given(event=random_events.events())
@settings(max_examples=60, deadline=None)
def test_a_cef_line_gives_back_what_was_said(event: Event) -> None:
    line = cef.line(event)
    assert line.isprintable()
    header, fields = read_cef(line)
    assert header[:3] == ["CEF:0", "Cohortium", "Cohortium"]
    assert header[4:6] == [event.action, TITLES[event.action]]
    assert int(header[6]) in range(11)
    at = datetime.fromtimestamp(int(fields["rt"]) / 1000, UTC)
    assert f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z" == event.ts
    assert (fields["externalId"], fields["act"]) == (event.id, event.outcome)
    assert fields["suid"] == event.actor.id
    assert fields.get("reason") == event.reason
    custom = {
        fields[key]: fields[key.removesuffix("Label")] for key in fields if key.endswith("Label")
    }
    assert (custom.get("study"), custom.get("run")) == (event.study, event.run)
    assert custom["sequence"] == str(event.src.seq)
    assert custom["leafHash"] == event.leaf.hex()
    details = {key: value for one in json.loads(custom["details"]) for key, value in one.items()}
    assert details == {"auth": event.actor.auth, **event.detail}
    objects = json.loads(custom.get("objects", "[]"))
    assert objects == [thing.model_dump(exclude_none=True) for thing in event.obj]


@given(event=random_events.events())
@settings(max_examples=25, deadline=None)
def test_no_cef_value_is_longer_than_arcsight_stores(event: Event) -> None:
    _, fields = read_cef(cef.line(event))
    for key, value in fields.items():
        assert len(value.encode()) <= cef.LENGTHS.get(key, 1023), key
    for key in fields:
        assert key in cef.LENGTHS or key in ("rt", "fsize") or key[:2] in ("cs", "cn"), key
        if key[:2] in ("cs", "cn") and not key.endswith("Label"):
            assert f"{key}Label" in fields


def test_what_does_not_fit_is_left_out_whole_and_counted() -> None:
    things = [{"t": "document", "h": f"sha256:{number:064x}"} for number in range(1000)]
    _, fields = read_cef(cef.line(an_event("export.sealed", obj=things)))
    listed = json.loads(fields["cs4"])
    assert listed == things[: len(listed)]
    assert 35 < len(listed) < 50
    assert (fields["cn3Label"], fields["cn3"]) == ("objectCount", "1000")


@given(text=st.text(max_size=300), longest=st.integers(0, 300))
def test_a_cut_never_leaves_half_a_character(text: str, longest: int) -> None:
    valid = text.encode(errors="ignore").decode()
    cut = cef._cut(valid, longest)
    assert valid.startswith(cut)
    assert longest - 4 < len(cut.encode()) <= longest or cut == valid


def test_backslash_pipe_and_equals_are_escaped_where_arcsight_says() -> None:
    assert cef._header("a\\b|c=d", 100) == "a\\\\b\\|c=d"
    assert cef._value("suser", "a\\b|c=d\ne") == "a\\\\b|c\\=d\\ne"


# ------------------------------------------------------------------ severity, files


@pytest.mark.parametrize(
    ("action", "outcome", "loud"),
    [
        ("round.update.sent", "success", Severity.INFORMATIONAL),
        ("model.released", "success", Severity.NOTICE),
        ("round.refused", "denied", Severity.WARNING),
        ("privacy.cap.hit", "success", Severity.WARNING),
        ("run.failed", "failure", Severity.ERROR),
        ("log.equivocation", "success", Severity.ALERT),
        ("log.equivocation", "denied", Severity.ALERT),
        ("incident.declared", "success", Severity.ALERT),
    ],
)
def test_how_loud_an_event_is(action: str, outcome: str, loud: Severity) -> None:
    event = an_event(action, outcome=outcome, reason="why")
    assert severity(event) == loud


def test_the_bundles_files_have_a_line_for_each_event_that_may_be_shown() -> None:
    evidence = evidence_of(an_event("log.started"), an_event("log.review"))
    for written, name in ((ecs.files, ecs.FILE), (cef.files, cef.FILE)):
        lines = written(evidence)[name].decode().split("\n")
        assert len(lines) == 3
        assert lines[2] == ""
        assert "log.review" in lines[1]


# ------------------------------------------------------------------ the page


def test_the_page_says_of_each_action_what_the_code_says() -> None:
    rows = re.findall(r"^\| `([a-z.]+\.[a-z.]+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    said = {action: tuple(rest.split(" | ")) for action, rest in rows}
    assert said == {
        action: (
            TITLES[action],
            *FORMS[action][:3],
            FORMS[action].lifecycle or "-",
            f"{ecs.CATEGORIES[action][0]}: {', '.join(ecs.CATEGORIES[action][1])}",
            severity(an_event(action)).name.lower(),
        )
        for action in DETAIL_KEYS
    }


def test_the_page_explains_every_key_of_the_configuration_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ?`?([^`|]*?)`? ?\|", PAGE.read_text(), re.MULTILINE))
    for key, field in SiemConfig.model_fields.items():
        default = "" if field.is_required() or field.default is None else json.dumps(field.default)
        assert rows[key].strip() == default, key


def test_the_page_names_every_custom_label_of_cef() -> None:
    page = PAGE.read_text()
    for key, label in cef.LABELS.items():
        assert f"| `{key}` | `{label}`" in page
