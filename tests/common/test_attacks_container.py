"""Attacks on the zip itself, the folder and the policy: read in one way only, or not at all."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.bundles import BUNDLE, Ran, made, packed, verified, verified_file

from cohortium.common.audit import bundle

Change = Callable[[bytes], bytes]


def whole() -> bytes:
    """An honest bundle's bytes."""
    out = io.BytesIO()
    bundle.pack(out, packed())
    return out.getvalue()


def of_bytes(folder: Path, raw: bytes) -> Ran:
    (folder / BUNDLE).write_bytes(raw)
    return verified_file(folder, folder / BUNDLE)


def zipped(folder: Path, *more: tuple[zipfile.ZipInfo | str, bytes]) -> Ran:
    """An honest bundle with further entries, as any program could write it."""
    with zipfile.ZipFile(folder / BUNDLE, "w") as file:
        for name, content in sorted(packed().items()):
            file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
        for entry, content in more:
            file.writestr(entry, content)
    return verified_file(folder, folder / BUNDLE)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../etc/passwd", "is no proper name"),
        ("/etc/passwd", "is no proper name"),
        ("report/../manifest.json", "is no proper name"),
        ("C:/x", "is no proper name"),
        ("a\\b", "is no proper name"),
        ("report//x", "is no proper name"),
        ("report/", "is no proper name"),
        ("a\u202etxt.exe", "is no proper name"),
    ],
)
def test_a_name_that_leads_elsewhere(tmp_path: Path, name: str, said: str) -> None:
    ran = zipped(tmp_path, (zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), b"x"))
    assert (ran.code, said in ran.failure) == (1, True), ran.out


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("report/report.html", (1980, 1, 1, 0, 0, 0))
    ran = zipped(tmp_path, (entry, b"<title>All is well</title>"))
    assert (ran.code, ran.failure) == (1, "report/report.html: is in the zip twice")


def test_a_link_in_the_zip(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("report/x", (1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o120777 << 16
    ran = zipped(tmp_path, (entry, b"/etc/passwd"))
    assert (ran.code, ran.failure) == (1, "report/x: is a link, not a file")


def test_a_link_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    for name, content in packed().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    assert verified_file(tmp_path, folder).code == 0
    (folder / "report/x").symlink_to("/etc/passwd")
    ran = verified_file(tmp_path, folder)
    assert (ran.code, ran.failure) == (1, "report/x: is a link or device, not a file")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    raw, name = bytearray(whole()), b"report/report.html"
    central = raw.rindex(name) - 46
    struct.pack_into("<I", raw, central + 24, 2**32 - 1)
    ran = of_bytes(tmp_path, bytes(raw))
    assert (ran.code, ran.failure) == (
        1,
        "the zip declares more than can be looked at: a zip bomb",
    )


def test_more_bytes_than_declared_are_not_read(tmp_path: Path) -> None:
    raw, name = bytearray(whole()), b"report/report.html"
    for place, offset in ((raw.index(name) - 30, 22), (raw.rindex(name) - 46, 24)):
        struct.pack_into("<I", raw, place + offset, 5)
    ran = of_bytes(tmp_path, bytes(raw))
    assert ran.code == 1
    assert "Bad CRC-32" in ran.failure


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw + b"x", "bytes that belong to no file"),
        (lambda raw: b"#!/bin/sh\n" + raw, "is not as `cohortium audit export` writes it"),
        (lambda raw: raw[:-2] + b"\x01\x00x", "bytes that belong to no file"),
        (lambda raw: raw[: len(raw) // 2], "not a whole zip file"),
        (lambda raw: raw[:-1], "not a whole zip file"),
        (lambda raw: b"", "not a whole zip file"),
        (lambda raw: raw.replace(b"report.html", b"report.htm_", 1), "File name in directory"),
        (lambda raw: raw.replace(b"PK\x01\x02", b"PK\x01\x03", 1), "not a whole zip file"),
        (lambda raw: raw.replace(b"\x00\x00\x21\x00", b"\x01\x00\x21\x00", 1), "audit export"),
    ],
    ids=["after", "before", "comment", "half", "short", "empty", "name", "directory", "time"],
)
def test_a_zip_changed_around_its_files(tmp_path: Path, change: Change, said: str) -> None:
    raw = change(whole())
    assert raw != whole()
    ran = of_bytes(tmp_path, raw)
    assert ran.code == 1
    assert said in ran.failure or "is not as `cohortium audit export`" in ran.failure, ran.out


def test_bytes_hidden_between_two_files(tmp_path: Path) -> None:
    raw, out = whole(), io.BytesIO(whole())
    with zipfile.ZipFile(out) as file:
        second = file.infolist()[1].header_offset
    hidden = bytearray(raw[:second] + b"secret" + raw[second:])
    place = raw.index(b"PK\x01\x02") + 6
    entries = raw.count(b"PK\x01\x02")
    for number in range(entries):
        length = struct.unpack_from("<H", hidden, place + 28)[0]
        (offset,) = struct.unpack_from("<I", hidden, place + 42)
        struct.pack_into("<I", hidden, place + 42, offset + 6 * (number > 0))
        place += 46 + length
    (start,) = struct.unpack_from("<I", hidden, place + 16)
    struct.pack_into("<I", hidden, place + 16, start + 6)
    ran = of_bytes(tmp_path, bytes(hidden))
    assert (ran.code, "is not as `cohortium audit export` writes it" in ran.failure) == (1, True)


def test_a_bundle_packed_anew_by_another_program_is_checked_as_a_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / BUNDLE, "w") as file:
        for name, content in packed().items():
            file.writestr(name, content)
    ran = verified_file(tmp_path, tmp_path / BUNDLE)
    assert (ran.code, "should unpack it and give the folder" in ran.failure) == (1, True)
    with zipfile.ZipFile(tmp_path / BUNDLE) as file:
        file.extractall(tmp_path / "folder")
    assert verified_file(tmp_path, tmp_path / "folder").code == 0


# ------------------------------------------------------------------ the policy


def policy(old: str = "", new: str = "", more: str = "") -> str:
    text = made().policy
    assert old in text
    return text.replace(old, new, 1) + more


def test_a_policy_that_asks_for_more_witnesses(tmp_path: Path) -> None:
    files = packed(cosigners=["north", "west"])
    assert verified(tmp_path, files).code == 0
    ran = verified(tmp_path, files, policy=policy("hospitals 2", "hospitals all"))
    assert (ran.code, "quorum 'hospitals' is not met: cosigned by north, west" in ran.out) == (
        2,
        True,
    )


def test_nested_groups_and_one_witness_as_quorum(tmp_path: Path) -> None:
    files = packed(cosigners=["north", "west"])
    nested = policy(
        "group hospitals 2 north south west\nquorum hospitals",
        "group islands any south west\ngroup both all north islands\nquorum both",
    )
    assert verified(tmp_path, files, policy=nested).code == 0
    assert verified(tmp_path, packed(cosigners=["west"]), policy=nested).code == 2
    for name, code in (("north", 0), ("south", 2), ("none", 0)):
        text = policy("quorum hospitals", f"quorum {name}")
        assert verified(tmp_path, files, policy=text).code == code


def test_the_bundle_of_a_consortium_that_the_policy_does_not_know(tmp_path: Path) -> None:
    own = made().policy.splitlines()[0]
    ran = verified(tmp_path, packed(), policy=policy(own + "\n"))
    assert (ran.code, ran.failure) == (
        1,
        "log/checkpoint: your policy has no key for centre.cohortium/log",
    )


def test_events_of_a_site_that_the_policy_does_not_know(tmp_path: Path) -> None:
    lines = [line for line in made().policy.splitlines() if "/south/" not in line]
    text = "\n".join(lines).replace("hospitals 2 north south west", "hospitals 2 north west")
    ran = verified(tmp_path, packed(), policy=text + "\n")
    assert ran.code == 1
    assert ran.failure == "log/sites/south.checkpoint: your policy has no key of south"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("quorum hospitals", "quorum hospitals\nquorum none", "a second quorum"),
        ("quorum hospitals\n", "", "has no quorum line"),
        ("quorum hospitals", "quorum others", "is not defined above"),
        ("quorum hospitals", "trust everybody\nquorum hospitals", "is no line of a policy"),
        ("quorum hospitals", "quorum hospitals 2", "is no line of a policy"),
        ("hospitals 2 north", "hospitals 4 north", "is no number of members"),
        ("hospitals 2 north", "hospitals 0 north", "is no number of members"),
        ("hospitals 2 north", "hospitals 2 north north", "member twice"),
        ("hospitals 2 north", "hospitals 2 east", "is not defined above"),
        ("hospitals 2 north", "hospitals 2 hospitals", "is not defined above"),
        ("group hospitals", "group none", 'the name "none" is given twice'),
        ("group hospitals", "group north", 'the name "north" is given twice'),
        ("witness north", "witness south", 'the name "south" is given twice'),
        ("witness north", "witness\x0bnorth", "a control character"),
        ("centre.cohortium/log+", "center.cohortium/log+", "the key id does not fit the key"),
    ],
)
def test_a_policy_that_is_not_exactly_one_checks_nothing(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    ran = verified(tmp_path, packed(), policy=policy(old, new))
    assert ran.code == 64
    assert ran.out.startswith("RESULT: NOTHING WAS CHECKED: ")
    assert said in ran.out


def test_the_same_witness_under_two_names_does_not_count_twice(tmp_path: Path) -> None:
    line = next(line for line in made().policy.splitlines() if line.startswith("witness north"))
    text = policy(
        "witness south", line.replace("witness north", "witness twin") + "\nwitness south"
    )
    ran = verified(tmp_path, packed(), policy=text)
    assert (ran.code, "the same witness key twice" in ran.out) == (64, True)
