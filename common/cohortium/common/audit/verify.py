#!/usr/bin/env python3
"""Check a bundle of evidence that `cohortium audit export` made, without trusting who made it.

    python verify.py BUNDLE --policy POLICY [--known-checkpoint FILE] [--recompute-epsilon] [--json]

Python 3.9 or newer, and nothing but its standard library. Take this file and the policy from a
place that you trust, never from a bundle. Exit codes:

     0  verified
     1  not verified: the first line that begins with FAIL says what is wrong
     2  verified, but too few witnesses have signed that they saw the same log
    64  nothing was checked: the call or the policy is wrong

What is checked is in CHECKS, in the order in which it is printed; each check is one function that
returns what it found to be right, or raises Failed. Formats: Ed25519 (RFC 8032), Merkle tree (RFC
6962), signed notes, checkpoints, cosignatures and policies (https://c2sp.org).
"""

from __future__ import annotations

import argparse
import base64
import binascii
import calendar
import csv
import hashlib
import importlib.util
import io
import json
import math
import os
import re
import stat
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, NoReturn

VERIFIED, NOT_VERIFIED, UNWITNESSED, UNUSABLE = 0, 1, 2, 64
MAX_FILES = 20_000
MAX_BYTES = 2**34  # of all files together, unpacked
MAX_GROWTH = 100  # times the size of the zip, but for small ones; a bundle unpacks to 10 times
SMALL = 2**28
MAX_NOTE = 2**20
SHOWN = 300  # characters of a line about a bundle
NOTES = 20  # of one check
CLOCKS_MS = 120_000  # by which a clock may be set back, or two differ, without a word
LEAST_KEPT_S = 182 * 86_400  # half a year
Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point

Files = dict[str, bytes]
Object = dict[str, Any]


class Failed(Exception):
    """A check that does not hold; the text names the first thing that is wrong."""


class Unusable(Exception):
    """Nothing can be checked, because of what the caller gave."""


# ------------------------------------------------------------------ Ed25519 (RFC 8032, 5.1)

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)

Point = tuple[int, int, int, int]  # extended coordinates
NEUTRAL: Point = (0, 1, 1, 0)


def ed25519_verifies(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature is the key's over the message.

    Strict: only canonical encodings, s below the order, no key of small order; the equation is
    checked without cofactor, by comparing the encoding of R.
    """
    if len(public) != 32 or len(signature) != 64:
        return False
    key, s = _point(public), int.from_bytes(signature[32:], "little")
    if key is None or s >= ORDER or _is_neutral(_times(8, key)):
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    k = int.from_bytes(digest, "little") % ORDER
    minus: Point = (P - key[0], key[1], key[2], P - key[3])
    return _encoded(_sum_of_two(s, BASE, k, minus)) == signature[:32]


def _point(raw: bytes) -> Point | None:
    """Decode 32 bytes (5.1.3); None for what is no point, or not its one encoding."""
    number = int.from_bytes(raw, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if (v * x * x - u) % P:
        x = x * ROOT_OF_MINUS_1 % P
    if (v * x * x - u) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def _encoded(point: Point) -> bytes:
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _plus(a: Point, b: Point) -> Point:
    one, two = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    three, four = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = two - one, four - three, four + three, two + one
    return e * f % P, g * h % P, f * g % P, e * h % P


def _twice(a: Point) -> Point:
    one, two = a[0] * a[0] % P, a[1] * a[1] % P
    three, h = 2 * a[2] * a[2] % P, one + two
    e, g = h - (a[0] + a[1]) ** 2 % P, one - two
    f = three + g
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(scalar: int, point: Point) -> Point:
    return _sum_of_two(scalar, point, 0, NEUTRAL)


def _sum_of_two(s: int, a: Point, k: int, b: Point) -> Point:
    """s times a plus k times b, bit by bit from the highest."""
    table, found = (NEUTRAL, a, b, _plus(a, b)), NEUTRAL
    for bit in range(max(s.bit_length(), k.bit_length()) - 1, -1, -1):
        found = _twice(found)
        which = (s >> bit & 1) | (k >> bit & 1) << 1
        if which:
            found = _plus(found, table[which])
    return found


def _is_neutral(point: Point) -> bool:
    return point[0] % P == 0 and (point[1] - point[2]) % P == 0


def _base() -> Point:
    y = 4 * pow(5, P - 2, P) % P
    found = _point(y.to_bytes(32, "little"))
    assert found is not None
    return found


BASE = _base()


# ------------------------------------------------------------------ Merkle tree (RFC 6962, 2.1)


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaves: list[bytes]) -> bytes:
    """The root over leaf hashes in order."""
    stack: list[bytes] = []
    for index, leaf in enumerate(leaves):
        while index & 1:
            leaf, index = node_hash(stack.pop(), leaf), index >> 1
        stack.append(leaf)
    if not stack:
        return hashlib.sha256(b"").digest()
    found = stack.pop()
    while stack:
        found = node_hash(stack.pop(), found)
    return found


def includes(leaf: bytes, index: int, size: int, path: list[bytes], root: bytes) -> bool:
    """Whether a path shows that a leaf is at `index` of a tree (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


# ------------------------------------------------------------------ notes and policy (C2SP)

LOG_KEY, WITNESS_KEY = 1, 4  # Ed25519 over a note; Ed25519 over a cosignature


class Key(NamedTuple):
    """A verifier key of a log or witness."""

    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        text = self.name.encode() + b"\n" + bytes([self.kind]) + self.public
        return hashlib.sha256(text).digest()[:4]


class Note(NamedTuple):
    """A checkpoint with its signature lines as (name, key id, bytes); none checked yet."""

    body: bytes
    origin: str
    size: int
    root: bytes
    signatures: list[tuple[str, bytes, bytes]]


class Policy(NamedTuple):
    """Whom the caller trusts; a group is (how many, of whom)."""

    logs: list[Key]
    witnesses: dict[str, Key]
    groups: dict[str, tuple[int, list[str]]]
    quorum: str

    def met(self, name: str, have: dict[str, int]) -> bool:
        if name == "none" or name in have:
            return True
        needed, members = self.groups.get(name, (1, []))
        return sum(self.met(member, have) for member in members) >= needed


def unbase64(text: str) -> bytes:
    """The bytes, or none where the text is not their one base64 form."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        return b""
    return raw if base64.b64encode(raw).decode() == text else b""


def read_key(text: str, kind: int) -> Key:
    """Read `name+id+key`; ValueError where it is none of the kind."""
    parts = text.split("+", 2)
    raw = unbase64(parts[2]) if len(parts) == 3 else b""
    if len(raw) != 33 or raw[0] != kind or not parts[0] or any(c.isspace() for c in parts[0]):
        raise ValueError("not an Ed25519 key of a " + ("log" if kind == LOG_KEY else "witness"))
    key = Key(parts[0], kind, raw[1:])
    if key.id.hex() != parts[1]:
        raise ValueError("the key id does not fit the key")
    return key


def read_policy(raw: bytes, where: str) -> Policy:
    """Read a policy file (tlog-policy); Unusable for anything that is not exactly one."""
    policy, quorum = Policy([], {}, {}, ""), ""
    members: list[str] = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        try:
            if any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in line):
                raise ValueError("a control character")
            words = line.decode("utf-8").replace("\t", " ").split(" ")
            words = [word for word in words if word]
            if not words or words[0].startswith("#"):
                continue
            if quorum and words[0] == "quorum":
                raise ValueError("a second quorum")
            quorum = _policy_line(policy, words, members) or quorum
        except ValueError as error:
            raise Unusable(f"{where}, line {number}: {error}") from None
    if not quorum:
        raise Unusable(f"{where}: has no quorum line; write `quorum none` to ask for no witness")
    return policy._replace(quorum=quorum)


def _policy_line(policy: Policy, words: list[str], members: list[str]) -> str:
    """Take one line in; returns the quorum's name where it is that line."""
    known = {*policy.witnesses, *policy.groups}
    kind, count = words[0], len(words)
    if kind == "log" and count in (2, 3):
        key = read_key(words[1], LOG_KEY)
        if key in policy.logs:
            raise ValueError("the same log twice")
        policy.logs.append(key)
    elif kind == "witness" and count in (3, 4):
        _new_name(words[1], known)
        key = read_key(words[2], WITNESS_KEY)
        if key.public in [other.public for other in policy.witnesses.values()]:
            raise ValueError("the same witness key twice")
        policy.witnesses[words[1]] = key
    elif kind == "group" and count >= 4:
        _new_name(words[1], known)
        named = words[3:]
        for name in named:
            if name not in known or name in members:
                raise ValueError(f'"{name}" is not defined above, or is a member twice')
            members.append(name)
        number = {"any": "1", "all": str(len(named))}.get(words[2], words[2])
        if not re.fullmatch("[1-9][0-9]{0,5}", number) or int(number) > len(named):
            raise ValueError(f"{words[2]} of {len(named)} is no number of members")
        policy.groups[words[1]] = (int(number), named)
    elif kind == "quorum" and count == 2:
        if words[1] != "none" and words[1] not in known:
            raise ValueError(f'"{words[1]}" is not defined above')
        return words[1]
    else:
        raise ValueError(f'"{words[0]}" with {count - 1} words is no line of a policy')
    return ""


def _new_name(name: str, known: Any) -> None:
    if name in known or name == "none":
        raise ValueError(f'the name "{name}" is given twice')


def read_note(raw: bytes, where: str) -> Note:
    """Read a checkpoint (signed-note, tlog-checkpoint); Failed for anything else."""
    try:
        text = raw.decode("utf-8")
    except ValueError:
        raise Failed(f"{where}: not UTF-8") from None
    body, gap, lines = text.rpartition("\n\n")
    parts = (body + "\n").split("\n")
    if (
        len(raw) > MAX_NOTE
        or not gap
        or not lines.endswith("\n")
        or any(ord(c) < 32 and c != "\n" for c in text)
    ):
        raise Failed(f"{where}: not a signed note")
    root = unbase64(parts[2]) if len(parts) >= 4 else b""
    if not all(parts[:-1]) or len(root) != 32 or not re.fullmatch("0|[1-9][0-9]{0,15}", parts[1]):
        raise Failed(f"{where}: not a checkpoint (origin, size and root, a line each)")
    signatures = []
    for line in lines[:-1].split("\n"):
        words = line.split(" ")
        raw_signature = unbase64(words[2]) if len(words) == 3 else b""
        if len(raw_signature) < 5 or words[0] != "\u2014" or not words[1]:
            raise Failed(f"{where}: a signature line is malformed")
        signatures.append((words[1], raw_signature[:4], raw_signature[4:]))
    return Note((body + "\n").encode(), parts[0], int(parts[1]), root, signatures)


def signed_by(note: Note, key: Key, where: str) -> bool:
    """Whether a log's key signed a note; Failed where a signature in its name is forged."""
    found = False
    for name, key_id, raw in note.signatures:
        if (name, key_id) == (key.name, key.id):
            if not ed25519_verifies(key.public, note.body, raw):
                raise Failed(f"{where}: the signature by {name} is forged, or of another text")
            found = True
    return found


def cosigned_at(note: Note, key: Key, where: str) -> int | None:
    """When a witness cosigned a note, in Unix seconds; Failed where that is forged."""
    found = None
    for name, key_id, raw in note.signatures:
        if (name, key_id) == (key.name, key.id):
            seconds = int.from_bytes(raw[:8], "big")
            message = b"cosignature/v1\ntime %d\n" % seconds + note.body
            if seconds >= 2**63 or not ed25519_verifies(key.public, message, raw[8:]):
                raise Failed(f"{where}: the cosignature by {name} is forged, or of another text")
            found = seconds
    return found


# ------------------------------------------------------------------ JSON, one way to write it


def _fraction(text: str) -> NoReturn:
    raise ValueError(text)


_EXACT = json.JSONDecoder(parse_float=_fraction, parse_constant=_fraction)
_LOOSE = json.JSONDecoder(parse_constant=_fraction)
_ENCODE = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def read_json(raw: bytes, where: str, fractions: bool = False) -> Any:
    """Parse canonical JSON: sorted keys, none twice, no spaces; Failed for any other form."""
    try:
        text = raw.decode("utf-8")
        value = (_LOOSE if fractions else _EXACT).decode(text)
        same = _ENCODE(value) == text
    except (ValueError, RecursionError):
        raise Failed(f"{where}: not JSON, or a number that is not whole") from None
    if not same:
        raise Failed(f"{where}: not in canonical form (a key twice, a space, another order)")
    return value


def fields(value: Any, needed: str, where: str, also: str = "") -> Object:
    """Require an object with exactly these keys, and perhaps those in `also`."""
    wanted, allowed = set(needed.split()), set(also.split())
    if not isinstance(value, dict) or not wanted <= value.keys() <= wanted | allowed:
        raise Failed(f"{where}: must be an object with the keys {', '.join(sorted(wanted))}")
    return value


def texts(value: Object, keys: str, where: str) -> None:
    """Require that these keys hold text."""
    for key in keys.split():
        if not isinstance(value[key], str):
            raise Failed(f"{where}: {key} must be text")


def whole(value: Any) -> bool:
    """A whole number from 0 on; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def is_1(value: Any) -> bool:
    """The version of every form that this verifier knows; true is no number."""
    return whole(value) and value == 1


_DECIMAL = re.compile(r"-?\d{1,40}(\.\d{1,40})?(e[+-]?\d{1,3})?|inf")


def decimal(value: Any, where: str) -> float:
    """A decimal text as a number; a whole number too."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return float(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise Failed(f"{where}: is no decimal number")


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def jsonl(raw: bytes, where: str) -> Iterator[tuple[str, bytes, Any]]:
    """Yield the lines of a file with their places and values."""
    for number, line in enumerate(io.BytesIO(raw), 1):
        place = f"{where} line {number}"
        if not line.endswith(b"\n"):
            raise Failed(f"{place}: is cut off")
        yield place, line[:-1], read_json(line[:-1], place, fractions=True)


# ------------------------------------------------------------------ the bundle as a file


def read_bundle(path: str) -> Files:
    """Every file in a bundle, packed or unpacked.

    Raises:
        Failed: it could be read in two ways, or holds what `cohortium audit export` writes none of.
        Unusable: there is nothing there.
    """
    if os.path.isdir(path):
        return _read_folder(path)
    try:
        size = os.stat(path).st_size
        with open(path, "rb") as file, zipfile.ZipFile(file) as packed:
            return _read_zip(packed, file, size)
    except OSError as error:
        raise Unusable(f"{path}: cannot be read ({error.strerror})") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise Failed(f"{path}: not a whole zip file ({error})") from None
    except (zipfile.LargeZipFile, MemoryError):
        raise Failed(f"{path}: too large") from None
    except Exception as error:
        if isinstance(error, Failed):
            raise
        raise Failed(f"{path}: damaged ({type(error).__name__})") from None


def _read_folder(path: str) -> Files:
    found: Files = {}
    total = 0
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names):
            full = os.path.join(folder, name)
            status = os.lstat(full)
            inside = os.path.relpath(full, path).replace(os.sep, "/")
            if stat.S_ISDIR(status.st_mode):
                continue
            if not stat.S_ISREG(status.st_mode):
                raise Failed(f"{inside}: is a link or device, not a file")
            total += status.st_size
            if total > MAX_BYTES or len(found) >= MAX_FILES:
                raise Failed(f"{path}: too large")
            with open(full, "rb") as file:
                found[proper_name(inside)] = file.read()
    return found


_LOCAL = struct.Struct("<4s5H3I2H")  # the header before each file


def _read_zip(packed: zipfile.ZipFile, file: Any, size: int) -> Files:
    """The files, if the zip holds them once, one after the other, and nothing else.

    A zip can be written so that two programs see different files in it; what the export writes
    cannot. Sizes are what the directory declares, and reading stops there.
    """
    entries = packed.infolist()
    most = min(MAX_BYTES, max(SMALL, MAX_GROWTH * size))
    if len(entries) > MAX_FILES or sum(entry.file_size for entry in entries) > most:
        raise Failed("the zip declares more than can be looked at: a zip bomb")
    found: Files = {}
    place = 0
    for entry in entries:
        name = proper_name(entry.filename)
        if name in found:
            raise Failed(f"{name}: is in the zip twice")
        if entry.external_attr >> 16 & 0o170000 not in (0, stat.S_IFREG):
            raise Failed(f"{name}: is a link, not a file")
        raw_name = name.encode()
        flags = 0 if raw_name.isascii() else 0x800
        file.seek(place)
        header = _LOCAL.unpack(file.read(_LOCAL.size))
        same = (entry.flag_bits, entry.compress_type, entry.CRC, entry.compress_size)
        if (
            entry.header_offset != place
            or header[0] != b"PK\x03\x04"
            or (header[2], header[3], header[6], header[7], header[8]) != (*same, entry.file_size)
            or (header[4], header[5]) != (0, 0x21)
            or entry.date_time != (1980, 1, 1, 0, 0, 0)
            or (header[9], header[10]) != (len(raw_name), 0)
            or file.read(len(raw_name)) != raw_name
            or entry.flag_bits != flags
            or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            or entry.extra
            or entry.comment
        ):
            raise Failed(
                f"{name}: the zip is not as `cohortium audit export` writes it; whoever packed it "
                "anew should unpack it and give the folder"
            )
        found[name] = packed.read(entry)
        place += _LOCAL.size + len(raw_name) + entry.compress_size
    ends = sum(46 + len(entry.filename.encode()) for entry in entries) + 22
    if packed.comment or packed.start_dir != place or size != place + ends:
        raise Failed("the zip has bytes that belong to no file")
    return found


def proper_name(name: str) -> str:
    """A relative path with slashes that leads nowhere else; Failed for any other."""
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or ":" in name or {"", ".", ".."} & set(parts):
        raise Failed(f"{name!r}: is no proper name of a file in a bundle")
    return name


# ------------------------------------------------------------------ events

ACTOR_TYPES = ("person", "service", "site", "coordinator")
OUTCOMES = ("success", "failure", "denied")
_NEEDED = frozenset(["v", "id", "ts", "src", "actor", "action", "outcome", "salt"])
_ALSO = frozenset(["study", "run", "round", "obj", "policy", "reason", "detail"])
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TS = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{3})Z")
_ACTION = re.compile(r"[a-z]+(\.[a-z]+){1,2}")
_H = re.compile(r"sha256:[0-9a-f]{64}")
_SALT = re.compile(r"[0-9a-f]{32}")
_KEPT = """privacy.spent privacy.selftest study.approved study.rejected approval.withdrawn
    round.update.sent evaluation.completed export.sealed user.role.changed node.revoked
    flag.dispositioned model.released retention.redacted log.recovered"""
KEPT = frozenset(_KEPT.split())  # actions that a check asks for


class Event(NamedTuple):
    """What the checks need of an event; `things` are the (type, hash) of its objects."""

    at: int  # its place in the log
    node: str
    seq: int
    ts: str
    ms: int
    auth: str  # how the actor was known
    action: str
    outcome: str
    study: str
    round: int | None
    things: tuple[tuple[str, str], ...]
    detail: dict[str, str]

    @property
    def name(self) -> str:
        return f"event {self.at} ({self.node} number {self.seq}, {self.action})"

    def thing(self, kind: str) -> str:
        """The SHA-256, hex, of its object of a type, "" where it has none."""
        return next((h[7:] for t, h in self.things if t == kind), "")


def read_event(raw: bytes, where: str, index: int) -> Event:
    """Read an event's line; Failed where its form is not that of vocabulary 1."""
    value = read_json(raw, where)
    if not isinstance(value, dict) or not _NEEDED <= value.keys() <= _NEEDED | _ALSO:
        raise Failed(f"{where}: lacks a field of an event, or has one that no event has")
    source, actor, detail = value["src"], value["actor"], value.get("detail", {})
    things, number = value.get("obj", []), value.get("round")
    proper = (
        is_1(value["v"])
        and _is_texts(source, ("node", "org", "seq"), skip="seq")
        and whole(source["seq"])
        and _is_texts(actor, ("auth", "id", "type"))
        and actor["type"] in ACTOR_TYPES
        and isinstance(detail, dict)
        and all(isinstance(text, str) for text in detail.values())
        and (number is None or whole(number))
        and isinstance(things, list)
        and all(_is_thing(thing) for thing in things)
    )
    if not proper:
        raise Failed(f"{where}: a field is not as events have it")
    for key, form in (("id", _ID), ("ts", _TS), ("action", _ACTION), ("salt", _SALT)):
        if not isinstance(value[key], str) or not form.fullmatch(value[key]):
            raise Failed(f"{where}: {key} is not as events have it")
    for key in ("study", "run", "reason"):
        if not isinstance(value.get(key, ""), str):
            raise Failed(f"{where}: {key} must be text")
    if value["outcome"] not in OUTCOMES or (
        value["outcome"] != "success" and "reason" not in value
    ):
        raise Failed(f"{where}: has no proper outcome, or no reason for it")
    ms = milliseconds(value["ts"])
    if abs(int(value["id"][:8] + value["id"][9:13], 16) - ms) > 1000:
        raise Failed(f"{where}: its id was made at another time than the event says")
    return Event(
        at=index,
        node=sys.intern(source["node"]),
        seq=source["seq"],
        ts=value["ts"],
        ms=ms,
        auth=actor["auth"],
        action=sys.intern(value["action"]),
        outcome=value["outcome"],
        study=sys.intern(value.get("study", "")),
        round=number,
        things=tuple((thing["t"], thing["h"]) for thing in things),
        detail=detail,
    )


def _is_texts(value: Any, keys: tuple[str, ...], skip: str = "") -> bool:
    return (
        isinstance(value, dict)
        and tuple(sorted(value)) == keys
        and all(isinstance(value[key], str) for key in keys if key != skip)
    )


def _is_thing(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {"t", "h"} <= value.keys() <= {"t", "h", "id", "bytes"}
        and isinstance(value["t"], str)
        and isinstance(value["h"], str)
        and _H.fullmatch(value["h"]) is not None
        and isinstance(value.get("id", ""), str)
        and whole(value.get("bytes", 0))
    )


def milliseconds(ts: str) -> int:
    """RFC 3339 in UTC with milliseconds, as Unix milliseconds."""
    found = _TS.fullmatch(ts)
    if found is None:
        raise Failed(f"{safe(ts)}: is no time")
    year, month, day, hour, minute, second, fraction = map(int, found.groups())
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        raise Failed(f"{ts}: is no time")
    return calendar.timegm((year, month, day, hour, minute, second)) * 1000 + fraction


# ------------------------------------------------------------------ what is being checked

NOT_ANCHORED = "the site's log is not anchored in the consortium's"
NOT_COMPARED = "no earlier checkpoint was given (--known-checkpoint): not compared"
NOT_COMPUTED = "epsilons were not computed again (--recompute-epsilon)"
NO_TABLE = "no table of e-signatures is in the bundle"
NOT_DONE = (NOT_ANCHORED, NOT_COMPARED, NOT_COMPUTED, NO_TABLE)
AUDIENCES = ("site", "consortium", "regulator")
_CONSORTIUM = re.compile(r"([^/\s]+)\.cohortium/log([1-9][0-9]*)?")
_OWN = re.compile(r"([^/\s]+)\.cohortium/([^/\s]+)/own")
_LOG_FILES = ("events.jsonl", "leaf-hashes.bin", "checkpoint", "seal.json")


class Case:
    """A bundle with what was found of it so far, by the checks in their order."""

    def __init__(self, path: str, policy: Policy, known: bytes | None, recompute: bool) -> None:
        self.path, self.policy, self.known, self.recompute = path, policy, known, recompute
        self.files: Files = {}
        self.manifest: Object = {}
        self.audience = self.node = self.origin = self.coordinator = ""
        self.note: Note | None = None
        self.leaves: list[bytes] = []
        self.events: list[Event] = []  # whose action is in KEPT
        self.whose: list[tuple[str, int] | None] = []  # node and number of each place, if shown
        self.latest: dict[str, Event] = {}  # by node, as far as clocks can be believed
        self.backwards: dict[str, str] = {}
        self.withheld = 0
        self.cosigned: dict[str, int] = {}
        self.sealed: Event | None = None
        self.studies: dict[str, Object] = {}
        self.rows: list[tuple[str, Object]] = []
        self.notes: list[str] = []
        self.unwitnessed = ""

    @property
    def of_site(self) -> bool:
        """Whether the log is one site's own, rather than the consortium's."""
        return self.audience == "site"

    @property
    def checkpoint(self) -> Note:
        assert self.note is not None
        return self.note

    def file(self, name: str) -> bytes:
        if name not in self.files:
            raise Failed(f"{name}: is missing")
        return self.files[name]

    def site_keys(self, site: str, log: str) -> list[Key]:
        """The keys by which a site may sign its `log` or `own` log, by the policy.

        A site signs its own logs with the key that it witnesses with.
        """
        prefix = f"{self.coordinator}.cohortium/{site}"
        witnesses = self.policy.witnesses.values()
        public = [key.public for key in witnesses if key.name == f"{prefix}/witness"]
        public += [key.public for key in self.policy.logs if key.name == f"{prefix}/{log}"]
        return [Key(f"{prefix}/{log}", LOG_KEY, raw) for raw in dict.fromkeys(public)]

    def acts(self, *actions: str) -> Iterator[Event]:
        return (event for event in self.events if event.action in actions)

    def unseen_before(self, node: str, seq: int) -> int:
        """How many of a node's earlier events are withheld."""
        return seq - sum(1 for one in self.whose if one and one[0] == node and one[1] < seq)


# ------------------------------------------------------------------ checks of the log


def check_container(case: Case) -> str:
    """The bundle can be read in one way only, and says what it is."""
    case.files = read_bundle(case.path)
    manifest = read_json(case.file("manifest.json"), "manifest.json")
    keys = "v origin node role audience since until at officer files"
    case.manifest = fields(manifest, keys, "manifest.json")
    texts(manifest, "origin node role audience since until at officer", "manifest.json")
    if not is_1(manifest["v"]) or manifest["audience"] not in AUDIENCES:
        raise Failed("manifest.json: another version or audience than this verifier knows")
    case.audience, case.node = manifest["audience"], manifest["node"]
    case.origin = manifest["origin"]
    found = (_OWN if case.of_site else _CONSORTIUM).fullmatch(case.origin)
    if found is None:
        raise Failed(f'manifest.json: "{case.origin}" is no log for the audience {case.audience}')
    case.coordinator = found[1]
    if case.node != (found[2] if case.of_site else found[1]):
        raise Failed(f'manifest.json: "{case.node}" is not whose log {case.origin} is')
    extra = [name for name in case.files if name.startswith("log/") and not _expected(case, name)]
    if extra:
        raise Failed(f"{extra[0]}: no such file belongs in log/")
    kind = "folder" if os.path.isdir(case.path) else "zip"
    return f"{kind} with {len(case.files)} files, for the audience {case.audience}"


def _expected(case: Case, name: str) -> bool:
    if name[4:] in _LOG_FILES:
        return True
    if case.of_site:
        return name in ("log/anchor.json", "log/consortium.checkpoint")
    return re.fullmatch(r"log/sites/[^/]+\.(checkpoint|leaves)", name) is not None


def check_signature(case: Case) -> str:
    """The log itself signed the checkpoint, by the key that the policy has for it."""
    note = read_note(case.file("log/checkpoint"), "log/checkpoint")
    if note.origin != case.origin:
        raise Failed(f"log/checkpoint: is of {note.origin}, and the manifest of {case.origin}")
    keys = case.site_keys(case.node, "own") if case.of_site else []
    keys = keys or [key for key in case.policy.logs if key.name == note.origin]
    if not keys:
        raise Failed(f"log/checkpoint: your policy has no key for {note.origin}")
    if not any(signed_by(note, key, "log/checkpoint") for key in keys):
        raise Failed(f"log/checkpoint: not signed by the key that your policy has: {note.origin}")
    case.note = note
    return f"checkpoint of {note.origin}, size {note.size}, signed by the key in your policy"


def check_witnesses(case: Case) -> str:
    """Enough witnesses saw the same consortium log."""
    note, where = case.checkpoint, "log/checkpoint"
    if case.of_site:
        where = "log/consortium.checkpoint"
        if where not in case.files:
            case.unwitnessed = NOT_ANCHORED
            return NOT_ANCHORED
        note = read_note(case.files[where], where)
        found = _CONSORTIUM.fullmatch(note.origin)
        if found is None or found[1] != case.coordinator:
            raise Failed(f"{where}: is of {note.origin}, not of {case.coordinator}")
        keys = [key for key in case.policy.logs if key.name == note.origin]
        if not any(signed_by(note, key, where) for key in keys):
            raise Failed(f"{where}: not signed by the key that your policy has: {note.origin}")
    for name, key in case.policy.witnesses.items():
        seconds = cosigned_at(note, key, where)
        if seconds is not None:
            case.cosigned[name] = seconds
    unknown = sum(1 for name, _, _ in note.signatures) - len(case.cosigned) - 1
    if unknown > 0:
        case.notes.append(f"{where} has {unknown} signatures by keys that your policy lacks")
    names = ", ".join(sorted(case.cosigned)) or "nobody"
    if case.policy.quorum == "none":
        return "your policy asks for no witness"
    if case.policy.met(case.policy.quorum, case.cosigned):
        return f"witness quorum '{case.policy.quorum}' met by {names}"
    case.unwitnessed = f"witness quorum '{case.policy.quorum}' is not met: cosigned by {names}"
    return case.unwitnessed


def check_root(case: Case) -> str:
    """The leaf hashes are those that the checkpoint is about."""
    case.leaves = _leaves(case.file("log/leaf-hashes.bin"), "log/leaf-hashes.bin")
    size, note = len(case.leaves), case.checkpoint
    if size != note.size:
        raise Failed(f"log/leaf-hashes.bin: has {size} leaves, and the checkpoint {note.size}")
    if root_of(case.leaves) != note.root:
        raise Failed("log/leaf-hashes.bin: the leaves do not give the signed root")
    return f"{size} leaf hashes rebuild the signed root"


def _leaves(raw: bytes, where: str) -> list[bytes]:
    if len(raw) % 32:
        raise Failed(f"{where}: is cut off")
    return [raw[place : place + 32] for place in range(0, len(raw), 32)]


def check_known(case: Case) -> str:
    """The log begins with the one that the caller was shown before."""
    if case.known is None:
        return NOT_COMPARED
    where, now = "your earlier checkpoint", case.checkpoint
    note = read_note(case.known, where)
    if note.origin != now.origin:
        raise Failed(f"{where}: is of another log ({note.origin})")
    keys = [key for key in case.policy.logs if key.name == note.origin]
    keys += case.site_keys(case.node, "own") if case.of_site else []
    if not any(signed_by(note, key, where) for key in keys):
        raise Failed(f"{where}: not signed by the key that your policy has")
    if note.size > now.size:
        raise Failed(
            f"the log had {note.size} events when you saw it, and has {now.size} here: events were "
            "removed, an old database was restored, or this bundle is older than your checkpoint"
        )
    if root_of(case.leaves[: note.size]) != note.root:
        raise Failed(
            f"the first {note.size} events are not those that you saw: history was rewritten, or "
            "you were shown another log"
        )
    return f"consistent with your earlier checkpoint (size {note.size}): nothing was rewritten"


def check_events(case: Case) -> str:
    """Each event that is shown is the logged one, to the byte, and has an event's form."""
    raw, size = case.file("log/events.jsonl"), len(case.leaves)
    case.whose = [None] * size
    before = -1
    for number, line in enumerate(io.BytesIO(raw), 1):
        place, tab, text = line.partition(b"\t")
        where = f"log/events.jsonl line {number}"
        if not tab or not text.endswith(b"\n") or not re.fullmatch(b"0|[1-9][0-9]{0,15}", place):
            raise Failed(f"{where}: not a number, a tab and an event")
        index, text = int(place), text[:-1]
        if not before < index < size:
            raise Failed(f"{where}: event {index} is out of order, twice, or beyond the log's end")
        if leaf_hash(text) != case.leaves[index]:
            raise Failed(f"event {index} is not what was logged: it was changed")
        event = read_event(text, f"event {index}", index)
        _take(case, event)
        before = index
    erased = {h for one in case.acts("retention.redacted") for _, h in one.things}
    hidden = [index for index, one in enumerate(case.whose) if one is None]
    case.withheld = len(hidden)
    recorded = {index for index in hidden if f"sha256:{case.leaves[index].hex()}" in erased}
    for index in hidden:
        if case.audience == "regulator" and index not in recorded:
            raise Failed(
                f"event {index} is withheld: a regulator's bundle shows every event that was not "
                "erased by a recorded retention.redacted"
            )
    if recorded:
        case.notes.append(f"{len(recorded)} events were erased, as retention.redacted records")
    return (
        f"{size - case.withheld} of {size} events shown, each equal to its logged leaf "
        f"({case.withheld} withheld)"
    )


def _take(case: Case, event: Event) -> None:
    case.whose[event.at] = (event.node, event.seq)
    if event.action in KEPT:
        case.events.append(event)
    latest = case.latest.setdefault(event.node, event)
    if event.ms >= latest.ms:
        case.latest[event.node] = event
    elif event.ms + CLOCKS_MS < latest.ms and event.node not in case.backwards:
        case.backwards[event.node] = f"{event.name} is of {event.ts}, after one of {latest.ts}"


def check_numbers(case: Case) -> str:
    """Each node's events are numbered from 0 without gap, as far as they are shown."""
    expected: dict[str, int] = {}
    gaps = hidden = 0
    for index, one in enumerate(case.whose):
        if one is None:
            hidden += 1
            continue
        node, seq = one
        next_seq = expected.get(node, 0)
        if case.of_site and (node, seq) != (case.node, index):
            raise Failed(f"event {index} is number {seq} of {node}: in a site's log it cannot be")
        if seq < next_seq:
            raise Failed(f"event {index}: number {seq} of {node} comes twice, or too late")
        gaps += seq - next_seq
        if gaps > hidden:
            raise Failed(f"event {index}: number {next_seq} of {node} is missing before {seq}")
        expected[node] = seq + 1
    if len(set(case.leaves)) != len(case.leaves):
        raise Failed("log/leaf-hashes.bin: an event is logged twice")
    said = "no gap" if not gaps else f"no gap that {hidden} withheld events cannot explain"
    return f"numbers of the events of {len(expected)} nodes have {said}"


def check_parties(case: Case) -> str:
    """Nobody but a site wrote its events, none is lacking and none out of order."""
    return _check_anchor(case) if case.of_site else _check_sites(case)


def _check_sites(case: Case) -> str:
    """What each site signed of its own events stands in the log, in its order."""
    places = {leaf: index for index, leaf in enumerate(case.leaves)}
    owner: dict[int, tuple[str, int]] = {}
    names = sorted(
        {name[10:].rsplit(".", 1)[0] for name in case.files if name[:10] == "log/sites/"}
    )
    for site in names:
        _place_site(case, site, places, owner)
    for name, key in case.policy.witnesses.items():
        site = key.name.split("/")[1] if key.name.count("/") == 2 else ""
        if name in case.cosigned and site and site not in names:
            raise Failed(f"log/sites/{site}.checkpoint: is missing, though {site} cosigned the log")
    ours = 0
    for index, one in enumerate(case.whose):
        if index in owner:
            if one is not None and one != owner[index]:
                site, seq = owner[index]
                raise Failed(
                    f"event {index} is number {seq} of {site}, and says {one[1]} of {one[0]}"
                )
            continue
        if one is not None and one[0] != case.coordinator:
            raise Failed(
                f"event {index} is said to be number {one[1]} of {one[0]}, and is not among those "
                f"that {one[0]} signed: it is forged"
            )
        if one is not None and one[1] != ours:
            raise Failed(
                f"event {index} is number {one[1]} of {one[0]} where {ours} should be: one is "
                "missing, or an event of a site is among them that it did not sign"
            )
        ours += 1
    return f"events of {len(names)} sites are those that each site signed, in its order"


def _place_site(
    case: Case, site: str, places: dict[bytes, int], owner: dict[int, tuple[str, int]]
) -> None:
    where = f"log/sites/{site}.checkpoint"
    note = read_note(case.file(where), where)
    origin = f"{case.coordinator}.cohortium/{site}/log"
    if note.origin != origin:
        raise Failed(f"{where}: is of {note.origin}")
    keys = case.site_keys(site, "log")
    revoked = any(one.detail.get("site") == site for one in case.acts("node.revoked"))
    if not keys and not revoked:
        raise Failed(f"{where}: your policy has no key of {site}")
    if not keys:
        case.notes.append(f"{site} was revoked, and your policy has no key of it: not checked")
    elif not any(signed_by(note, key, where) for key in keys):
        raise Failed(f"{where}: not signed by the key that your policy has for {site}")
    where = f"log/sites/{site}.leaves"
    leaves = _leaves(case.file(where), where)
    if len(leaves) != note.size or root_of(leaves) != note.root:
        raise Failed(f"{where}: not the events that {site} signed")
    before = -1
    for seq, leaf in enumerate(leaves):
        index = places.get(leaf, -1)
        if index < 0:
            if any(later in places for later in leaves[seq:]):
                raise Failed(f"number {seq} of {site} is not in the log: it was dropped")
            case.notes.append(
                f"{len(leaves) - seq} events that {site} signed, from number {seq} on, are not in "
                "the log: they came after this checkpoint, or were dropped"
            )
            return
        if index <= before:
            raise Failed(f"number {seq} of {site} stands at {index}, before number {seq - 1}")
        owner[index] = (site, seq)
        before = index


def _check_anchor(case: Case) -> str:
    """The site's log is the one whose head stands in the consortium's log."""
    if "log/anchor.json" not in case.files or "log/consortium.checkpoint" not in case.files:
        case.unwitnessed = case.unwitnessed or NOT_ANCHORED
        return NOT_ANCHORED
    where = "log/anchor.json"
    anchor = fields(read_json(case.files[where], where), "line place size path", where)
    texts(anchor, "line", where)
    note = read_note(case.files["log/consortium.checkpoint"], "log/consortium.checkpoint")
    path = anchor["path"]
    if not isinstance(path, list) or not all(_is_hash(one) for one in path):
        raise Failed(f"{where}: path must be a list of hashes")
    if not whole(anchor["place"]) or anchor["size"] != note.size:
        raise Failed(f"{where}: is about another checkpoint than log/consortium.checkpoint")
    line = anchor["line"].encode()
    hashes = [bytes.fromhex(one) for one in path]
    if not includes(leaf_hash(line), anchor["place"], note.size, hashes, note.root):
        raise Failed(f"{where}: its event is not in the consortium's log")
    event = read_event(line, f"{where}: its event", anchor["place"])
    if (event.node, event.action) != (case.node, "log.checkpoint"):
        raise Failed(f"{where}: its event is no log.checkpoint of {case.node}")
    size, root = event.detail.get("size", ""), event.detail.get("root", "")
    if not re.fullmatch("0|[1-9][0-9]{0,15}", size) or int(size) > len(case.leaves):
        raise Failed(f"{where}: the site had {size} events when it was anchored: they were removed")
    head = root_of(case.leaves[: int(size)])
    if root not in (head.hex(), base64.b64encode(head).decode()):
        raise Failed(f"{where}: the first {size} events are not those that were anchored")
    after = len(case.leaves) - int(size)
    if after and not case.unwitnessed and case.policy.quorum != "none":
        sealed = [one.at for one in case.acts("export.sealed")]
        if not sealed or sealed[-1] >= int(size):
            case.unwitnessed = f"the last {after} events, with the export itself, are not anchored"
    return f"the first {size} events are anchored in the consortium's log at {anchor['place']}"


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def check_times(case: Case) -> str:
    """Clocks do not run backwards; what they say is no proof, and only noted."""
    for text in case.backwards.values():
        case.notes.append(f"a clock was set back: {text}")
    newest = max(case.latest.values(), key=lambda event: event.ms, default=None)
    for name, seconds in case.cosigned.items():
        if newest and not case.of_site and seconds * 1000 + CLOCKS_MS < newest.ms:
            case.notes.append(f"{name} cosigned before {newest.name}, by its clock")
    said = f"newest event of {newest.ts}" if newest else "no event is shown"
    return f"{said}; clocks of {len(case.backwards)} nodes were set back"


# ------------------------------------------------------------------ checks of what was sealed


def check_sealed(case: Case) -> str:
    """The export is itself an event in the log, and it is of this manifest."""
    found = list(case.acts("export.sealed"))
    digest = sha256(case.file("manifest.json"))
    mine = [event for event in found if event.thing("manifest") == digest]
    if not mine:
        raise Failed(
            f"manifest.json: none of the {len(found)} export.sealed events in the log names it: it "
            "was changed after it was sealed, or never sealed"
        )
    event = mine[-1]
    if event.node != case.node or event.outcome != "success":
        raise Failed(f"{event.name}: seals the manifest, but {case.node} exports it")
    if event.detail.get("audience", case.audience) != case.audience:
        raise Failed(f"{event.name}: was sealed for the audience {event.detail['audience']}")
    case.sealed = event
    return f"the export itself is logged: {event.name}, {event.ts}"


SEAL = "name user auth role meaning at signed algorithm key signature"
SEAL_CONTEXT = b"cohortium-export-v1\n"


def check_esignature(case: Case) -> str:
    """A person signed the manifest, with a key that belongs to who may."""
    where, raw = "log/seal.json", case.file("log/seal.json")
    seal = fields(read_json(raw, where), SEAL, where)
    texts(seal, SEAL, where)
    assert case.sealed is not None
    if case.sealed.thing("esignature") != sha256(raw):
        raise Failed(f"{where}: is not the e-signature that {case.sealed.name} names")
    if seal["signed"] != sha256(case.files["manifest.json"]):
        raise Failed(f"{where}: signs something else than manifest.json")
    if seal["name"] != case.manifest["officer"]:
        raise Failed(
            f"{where}: {seal['name']} signed, and the manifest says {case.manifest['officer']}"
        )
    for key in ("person", "meaning"):
        said = seal["name" if key == "person" else key]
        if case.sealed.detail.get(key, said) != said:
            raise Failed(f"{where}: {key} is not what {case.sealed.name} says")
    public, signature = unbase64(seal["key"]), _hex(seal["signature"])
    whose = _signer(case, public)
    unsigned = dict(seal, signature="")
    if seal["algorithm"] != "ed25519" or not ed25519_verifies(
        public, SEAL_CONTEXT + _ENCODE(unsigned).encode(), signature
    ):
        raise Failed(f"{where}: the signature by {seal['name']} is forged, or of another text")
    return f"signed by {seal['name']} ({seal['meaning']}), with {whose}"


def _signer(case: Case, public: bytes) -> str:
    """Whose key it is; Failed for a stranger's.

    The exporting party's, a witness's of the policy, or one that the exporting party registered
    for an auditor by an event before the export.
    """
    if public in [key.public for key in case.policy.logs if key.name == case.origin]:
        return f"the key of {case.node}"
    if case.of_site and public in [key.public for key in case.site_keys(case.node, "own")]:
        return f"the key of {case.node}"
    for name, key in case.policy.witnesses.items():
        if key.public == public:
            return f"the key of the witness {name}"
    fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(public).digest()).decode().rstrip("=")
    texts_of_key = (base64.b64encode(public).decode(), fingerprint)
    roles: dict[str, Event] = {}
    for event in case.acts("user.role.changed"):
        assert case.sealed is not None
        if event.node == case.node and event.at < case.sealed.at:
            roles[event.detail.get("user", "")] = event
    for user, event in roles.items():
        keys = (event.detail.get("key_after"), event.detail.get("fingerprint"))
        if event.detail.get("role_after") == "auditor" and any(k in texts_of_key for k in keys):
            return f"the key of the auditor {user}, registered by {event.name}"
    if case.sealed is not None and case.sealed.auth == f"signature:{fingerprint}":
        case.notes.append(
            f"{fingerprint} is an auditor's key by the word of {case.node} alone: compare it"
        )
        return f"the key of an auditor, as {case.sealed.name} says"
    raise Failed(
        f"log/seal.json: signed by a stranger's key ({fingerprint}), neither the exporter's, "
        "nor a witness's, nor a registered auditor's"
    )


def _hex(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return b""
    return raw if raw.hex() == text else b""


def check_manifest(case: Case) -> str:
    """No file is missing, none was added, each is the sealed one and is kept long enough."""
    listed: dict[str, Object] = {}
    entries = case.manifest["files"]
    if not isinstance(entries, list):
        raise Failed("manifest.json: files must be a list")
    for entry in entries:
        one = fields(entry, "path bytes sha256 class retain_until", "manifest.json: a file")
        texts(one, "path sha256 class retain_until", "manifest.json: a file")
        if (
            one["path"] in listed
            or one["path"].startswith("log/")
            or one["path"] == "manifest.json"
        ):
            raise Failed(f"manifest.json: {one['path']} is listed twice, or cannot be listed")
        listed[one["path"]] = one
    present = {n for n in case.files if n != "manifest.json" and not n.startswith("log/")}
    for name in sorted(listed.keys() - present):
        raise Failed(f"{name}: is missing")
    for name in sorted(present - listed.keys()):
        raise Failed(f"{name}: was added after the export was sealed")
    for name, one in listed.items():
        if sha256(case.files[name]) != one["sha256"] or len(case.files[name]) != one["bytes"]:
            raise Failed(f"{name}: was changed after the export was sealed")
        kept = milliseconds(one["retain_until"]) - milliseconds(case.manifest["at"])
        if kept < LEAST_KEPT_S * 1000:
            raise Failed(
                f"{name}: is to be kept until {one['retain_until']}, less than half a year"
            )
    return f"{len(listed)} files as sealed: none missing, none added, none changed"


def check_studies(case: Case) -> str:
    """Each study is the one that the log speaks of."""
    named = {event.study for event in case.events}
    for name in sorted(case.files):
        found = re.fullmatch(r"studies/([^/]+)/study\.json", name)
        if not found:
            continue
        raw = case.files[name]
        study = read_json(raw, name, fractions=True)
        if not isinstance(study, dict) or study.get("name") != found[1]:
            raise Failed(f"{name}: is no study of that name")
        digest = sha256(raw)
        if digest not in named:
            text = f"{name}: no event that matters here is about this study ({digest[:16]})"
            if _mentioned(case, digest) or case.withheld:
                case.notes.append(text)
            else:
                raise Failed(f"{name}: is not a study of this log: it was changed")
        case.studies[digest] = study
    return f"{len(case.studies)} studies are those that the log is about"


def _mentioned(case: Case, study: str) -> bool:
    return f'"study":"{study}"'.encode() in case.files["log/events.jsonl"]


# ------------------------------------------------------------------ the privacy ledger

ROW = """v id prev site dataset lineage study round purpose unit max_records_per_unit adjacency dp
    sampler sample_rate noise_multiplier clip_norm clipping steps steps_planned rng floating_point
    delta epsilon accountant cross_check lifetime code software at"""
LIFETIME = "before after cap delta filter order spent limit"
SAME = (  # what event and row both say
    ("epsilon", "epsilon"),
    ("delta", "lifetime.delta"),
    ("epsilon_after", "lifetime.after"),
    ("cap", "lifetime.cap"),
    ("sample_rate", "sample_rate"),
    ("noise_multiplier", "noise_multiplier"),
    ("clip_norm", "clip_norm"),
    ("steps", "steps"),
)


def check_ledger(case: Case) -> str:
    """Each row is one that its site recorded before it sent anything, and none is lacking."""
    named: dict[str, Event] = {}
    for event in case.acts("privacy.spent"):
        h = event.thing("ledger.row")
        if not h:
            if any(other.node == event.node for other in named.values()):
                raise Failed(f"{event.name}: names no row of the ledger")
            case.notes.append(f"{event.name}: is from before rows of the ledger were kept in full")
        elif h in named:
            raise Failed(f"{event.name}: names the same row as {named[h].name}")
        else:
            named[h] = event
    chains: dict[str, list[tuple[int, str, str, Object]]] = {}  # number, hash, where, row
    losses: dict[str, Loss] = {}  # of each site the last
    seen = set()
    for where, raw, row in jsonl(case.file("privacy/ledger.jsonl"), "privacy/ledger.jsonl"):
        fields(row, ROW, where, also="earlier")
        number, h = _row_form(row, where), sha256(raw)
        where, chain = f"{where} ({row['id']})", chains.setdefault(row["site"], [])
        while h in named and h not in seen and chain and chain[-1][0] >= number:
            _lose(case, losses, named[chain[-1][1]], chain.pop()[3], named[h], where)
        before, prev = chain[-1][:2] if chain else (0, "")
        if h in seen:
            raise Failed(f"{where}: is there twice")
        gap = case.withheld and (not before or number > before + 1)  # rows may be withheld
        if number <= before or (row["prev"] != prev and not gap):
            raise Failed(f"{where}: does not follow the site's row before it: removed or reordered")
        if h not in named:
            raise Failed(f"{where}: no privacy.spent event names it: it was changed or added")
        _same_as_event(row, named[h], where)
        if row["site"] in losses and row["round"] < 1:
            losses[row["site"]].left[_spent_as(row)] -= row["steps"]
        chain.append((number, h, where, row))
        seen.add(h)
    case.rows = [(where, row) for chain in chains.values() for _, _, where, row in chain]
    for loss in losses.values():
        loss.require_counted(case)
    for h, event in named.items():
        if h not in seen:
            raise Failed(f"{event.name}: the row that it names is not in privacy/ledger.jsonl")
    return f"{len(case.rows)} rows of the privacy ledger match the log, each site's a chain"


class Loss:
    """Rows that a site lost with its database, of which steps are `left` to be counted again."""

    def __init__(self, recovered: Event) -> None:
        self.recovered = recovered
        self.left: Counter[tuple[str, ...]] = Counter()

    def require_counted(self, case: Case) -> None:
        name, steps = self.recovered.name, sum((+self.left).values())
        if steps and not case.withheld:
            raise Failed(f"{name}: {steps} steps that were lost are not counted as spent again")
        case.notes.append(
            f"{name}: rows of the ledger were lost with a database, and count again since"
        )


def _lose(
    case: Case, losses: dict[str, Loss], lost: Event, row: Object, new: Event, where: str
) -> None:
    """A row stands in another's place only where the site got that one back as lost in between."""
    origin = f"{case.coordinator}.cohortium/{new.node}/log"
    for event in case.acts("log.recovered"):
        first, size = event.detail.get("first", ""), event.detail.get("size", "")
        if (event.node, event.detail.get("origin")) != (new.node, origin) or event.seq > new.seq:
            continue
        if not (re.fullmatch("[0-9]{1,16}", first) and re.fullmatch("[0-9]{1,16}", size)):
            continue
        if int(first) <= lost.seq < int(size) <= event.seq:
            if new.node not in losses or losses[new.node].recovered != event:
                if new.node in losses:
                    losses[new.node].require_counted(case)
                losses[new.node] = Loss(event)
            losses[new.node].left[_spent_as(row)] += row["steps"]
            return
    raise Failed(f"{where}: does not follow the site's row before it: removed or reordered")


def _spent_as(row: Object) -> tuple[str, ...]:
    keys = "dataset study purpose sampler sample_rate noise_multiplier"
    return tuple(str(row[key]) for key in keys.split())


def _row_form(row: Object, where: str) -> int:
    """The row's number at its site; Failed where the form is not that of a row."""
    texts(row, "id prev site dataset lineage study purpose unit adjacency sampler at", where)
    fields(row["lifetime"], LIFETIME, f"{where}: lifetime")
    if not is_1(row["v"]) or not whole(row["steps"]) or not whole(row["steps_planned"]):
        raise Failed(f"{where}: another version, or steps that are no number")
    number = row["id"][len(row["site"]) + 1 :]
    if row["id"] != f"{row['site']}-{number}" or not re.fullmatch("[1-9][0-9]{0,15}", number):
        raise Failed(f"{where}: id must be the site and a number")
    if not isinstance(row["round"], int):
        raise Failed(f"{where}: round must be a number")
    return int(number)


def _same_as_event(row: Object, event: Event, where: str) -> None:
    if event.node != row["site"]:
        raise Failed(f"{where}: is {row['site']}'s by its text, and {event.node}'s by the log")
    if (event.study, event.round) != (row["study"], row["round"]) and row["round"] > 0:
        raise Failed(f"{where}: is of another study or round than {event.name}")
    if event.detail.get("dataset", row["dataset"]) != row["dataset"]:
        raise Failed(f"{where}: is of another dataset than {event.name}")
    for key, path in SAME:
        value: Any = row
        for part in path.split("."):
            value = value[part]
        if key in event.detail:
            said, kept = decimal(event.detail[key], event.name), decimal(value, where)
            if not _close(said, kept, 1e-5):
                raise Failed(
                    f"{where}: {path} is {value}, and {event.name} says {event.detail[key]}"
                )


def _close(one: float, other: float, tolerance: float) -> bool:
    """Equal but for rounding."""
    return one == other or abs(one - other) <= tolerance * max(1.0, abs(one), abs(other))


def check_budgets(case: Case) -> str:
    """No row exceeds a cap or what its study was approved for, and nothing is ever given back."""
    lineages: dict[tuple[str, str], Object] = {}
    studies: dict[tuple[str, str, str], tuple[int, float]] = {}
    for where, row in case.rows:
        life = {key: row["lifetime"][key] for key in LIFETIME.split() if key != "filter"}
        now = {key: decimal(value, f"{where}: lifetime.{key}") for key, value in life.items()}
        epsilon, loss = decimal(row["epsilon"], where), row["round"] < 1
        if now["after"] < now["before"] - 1e-9:
            raise Failed(
                f"{where}: lifetime epsilon falls from {life['before']} to {life['after']}"
            )
        if not loss and (
            now["after"] > now["cap"] * (1 + 1e-6) or now["spent"] > now["limit"] * (1 + 1e-9)
        ):
            raise Failed(
                f"{where}: exceeds the lifetime cap of epsilon {life['cap']} at {row['site']}"
            )
        key = (row["site"], row["lineage"])
        if key in lineages:
            then = lineages[key]
            if then["delta"] == now["delta"] and now["before"] < then["after"] - 1e-6:
                raise Failed(f"{where}: begins at epsilon {life['before']}, below {then['after']}")
            if then["cap"] != now["cap"]:
                case.notes.append(f"{where}: the cap was {then['cap']:g} and is {life['cap']}")
        lineages[key] = now
        part = (row["site"], row["study"], row["purpose"])
        steps, before = studies.get(part, (0, 0.0))
        steps += row["steps"]
        if not loss and steps > row["steps_planned"]:
            raise Failed(f"{where}: step {steps} of {row['steps_planned']} that were planned")
        if epsilon < before - 1e-9:
            raise Failed(f"{where}: the study's epsilon falls from {before:g} to {row['epsilon']}")
        studies[part] = (steps, epsilon)
        _as_mechanism(row, where)
        if row["study"] in case.studies:
            _as_approved(case.studies[row["study"]], row, where)
    return f"no row of {len(lineages)} datasets exceeds its lifetime cap or its study's epsilon"


def _as_mechanism(row: Object, where: str) -> None:
    """The record that epsilon is computed from is the one that the row describes."""
    releases = mechanisms(row["dp"], where)
    total = sum(count for _, _, count in releases)
    if total != row["steps"]:
        raise Failed(f"{where}: dp counts {total} steps, and the row {row['steps']}")
    for rate, noise, _ in releases:
        if not _close(rate, decimal(row["sample_rate"], where), 1e-9):
            raise Failed(
                f"{where}: dp samples with {rate:g}, and the row with {row['sample_rate']}"
            )
        if not _close(noise, decimal(row["noise_multiplier"], where), 1e-9):
            raise Failed(f"{where}: dp has noise {noise:g}, and the row {row['noise_multiplier']}")
    if (row["sampler"] == "full-batch") != (decimal(row["sample_rate"], where) == 1):
        raise Failed(f"{where}: sampler and sample_rate contradict each other")
    if row["unit"] != "patient" or row["max_records_per_unit"] != 1:
        raise Failed(f"{where}: the unit is not the patient")


def _as_approved(study: Object, row: Object, where: str) -> None:
    privacy, training = study.get("privacy", {}), study.get("training", {})
    if privacy.get("mechanism") == "none" and row["purpose"] == "training":
        raise Failed(f"{where}: its study was approved without privacy")
    limit = privacy.get("epsilon")
    if row["purpose"] == "evaluation":
        limit = study.get("evaluation", {}).get("noise_epsilon")
    elif row["purpose"] == "measurement":
        limit = (study.get("preprocessing", {}).get("reduce") or {}).get("epsilon")
    if limit is not None and decimal(row["epsilon"], where) > float(limit) * (1 + 1e-6):
        raise Failed(f"{where}: epsilon {row['epsilon']} exceeds the study's {limit}")
    if row["round"] < 1:
        return
    wanted = {"delta": privacy.get("delta")}
    if row["purpose"] == "training":
        wanted["clip_norm"] = privacy.get("clip_norm")
        wanted["sample_rate"] = training.get("sample_rate") or 1.0
    for key, value in wanted.items():
        if value is not None and not _close(decimal(row[key], where), float(value), 1e-9):
            raise Failed(f"{where}: {key} is {row[key]}, and the study was approved with {value}")


def check_paid(case: Case) -> str:
    """No update of a private study left a site before its row was in the site's log."""
    spent = {
        (event.node, event.study, event.round): event.seq
        for event in case.acts("privacy.spent")
        if event.detail.get("kind", "training") == "training"
    }
    paid = free = unknown = 0
    for event in case.acts("round.update.sent"):
        study = case.studies.get(event.study)
        if study is None:
            unknown += 1
            continue
        if study.get("privacy", {}).get("mechanism") == "none":
            free += 1
            continue
        seq = spent.get((event.node, event.study, event.round))
        if seq is None or seq > event.seq:
            _unless_withheld(
                case, event, "no privacy.spent event comes before it: it was not paid for"
            )
            continue
        paid += 1
    if unknown:
        case.notes.append(f"{unknown} updates are of studies that are not in the bundle")
    return f"{paid} updates were paid for before they left; {free} are of studies without privacy"


def _unless_withheld(case: Case, event: Event, text: str) -> None:
    """What is lacking before an event is a failure, unless it may be among withheld events."""
    if not case.unseen_before(event.node, event.seq):
        raise Failed(f"{event.name}: {text}")
    case.notes.append(f"{event.name}: {text}, or that is withheld")


def check_approvals(case: Case) -> str:
    """No site sent anything about patients before it had approved the study, by its own log."""
    standing: dict[tuple[str, str], str] = {}
    word: dict[tuple[str, str], Event] = {}  # the coordinator's, about a site
    first: dict[str, Event] = {}
    checked = set()
    for event in case.events:
        first.setdefault(event.node, event)
        key = (event.node, event.study)
        if event.action in ("study.approved", "study.rejected", "approval.withdrawn"):
            standing[key] = event.action
            if event.action == "study.approved" and event.node == case.coordinator:
                word[event.detail.get("site", ""), event.study] = event
        if event.action not in ("round.update.sent", "evaluation.completed"):
            continue
        if event.node == case.coordinator and not case.of_site:
            continue
        if standing.get(key) == "study.approved":
            checked.add(key)
        elif key in standing:
            raise Failed(f"{event.name}: comes after {standing[key]} of the same study")
        elif key in word and word[key].ms < first[event.node].ms:
            case.notes.append(
                f"{event.name}: approved before the site's log began, by {word[key].name}"
            )
        else:
            _unless_withheld(case, event, "the site had not approved the study before")
    return f"{len(checked)} approvals came before the first result that a site sent"


def check_selftests(case: Case) -> str:
    """Each audit of the mechanism is the recorded one, and its verdict the recorded verdict."""
    named = {event.thing("selftest"): event for event in case.acts("privacy.selftest")}
    named.pop("", None)
    found: Counter[str] = Counter()
    seen = set()
    for where, raw, value in jsonl(case.file("privacy/selftests.jsonl"), "privacy/selftests.jsonl"):
        if not isinstance(value, dict) or not {"site", "level", "verdict"} <= value.keys():
            raise Failed(f"{where}: no result of a self-test")
        h = sha256(raw)
        if h in seen or h not in named:
            raise Failed(
                f"{where}: is there twice, or no privacy.selftest event names it: changed or added"
            )
        event = named[h]
        if event.node != value["site"]:
            raise Failed(
                f"{where}: is {value['site']}'s by its text, and {event.node}'s by the log"
            )
        if (value["verdict"] == "failed") != (event.outcome != "success"):
            raise Failed(f"{where}: {value['verdict']}, and {event.name} says {event.outcome}")
        for key in ("level", "verdict"):
            if event.detail.get(key, value[key]) != value[key]:
                raise Failed(f"{where}: {key} is not what {event.name} says")
        seen.add(h)
        found[value["verdict"]] += 1
    for h, event in named.items():
        if h not in seen:
            raise Failed(
                f"{event.name}: the self-test that it names is not in privacy/selftests.jsonl"
            )
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found.items())) or "none"
    return f"self-tests match the hashes in the log: {said}"


# study, item, name, one more, meaning, three more, SHA-256 of what was signed; last the signature
TABLES = ("report/signatures.csv", "part11/esignatures.csv")


def check_recorded(case: Case) -> str:
    """Each e-signature in a table of them is recorded by an event, with that name and meaning."""
    recorded = {
        h[7:]: event
        for event in case.acts("flag.dispositioned", "model.released")
        for _, h in event.things
    }
    tables = [name for name in TABLES if name in case.files]
    count = sum(_recorded(case, name, recorded) for name in tables)
    if not tables:
        return NO_TABLE
    return f"{count} e-signatures in tables are recorded by events, with name and meaning"


def _recorded(case: Case, name: str, recorded: dict[str, Event]) -> int:
    count, text = 0, io.StringIO(case.files[name].decode("utf-8"), newline="")
    for number, row in enumerate(csv.reader(text), 1):
        if number == 1 or not row[-1]:
            continue  # the header, or no signature
        where, person, meaning = f"{name} line {number}", row[2], row[4]
        if row[1].startswith(("approval", "study")):  # their events name no document
            events = [one for one in case.acts("study.approved") if one.node == case.node]
        else:
            events = [recorded[row[8]]] if row[8] in recorded else []
        said = [(one.detail.get("person"), one.detail.get("meaning", meaning)) for one in events]
        if (person, meaning) in said:
            count += 1
        elif events:
            raise Failed(f"{where}: {events[0].name} says another name or meaning")
        elif case.withheld:
            case.notes.append(f"{where}: the event that records it is withheld, or there is none")
        else:
            raise Failed(f"{where}: no event records a signature by {person} over {row[8]}")
    return count


# ------------------------------------------------------------------ fairness


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    p, z2 = k / n, Z_95**2
    middle = p + z2 / (2 * n)
    reach = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, (middle - reach) / (1 + z2 / n)), min(1.0, (middle + reach) / (1 + z2 / n))


def newcombe(k: int, n: int, other_k: int, other_n: int) -> tuple[float, float]:
    """95 % interval of a difference of two proportions (Newcombe 1998, method 10)."""
    p, q = k / n, other_k / other_n
    (low_p, high_p), (low_q, high_q) = wilson(k, n), wilson(other_k, other_n)
    below, above = math.hypot(p - low_p, high_q - q), math.hypot(high_p - p, q - low_q)
    return p - q - below, p - q + above


RATE = "study outcome site attribute group measure threshold suppressed"
COUNTED = "k n value ci95 ci_method reason sites"
GAP = "study outcome site attribute level reference criterion suppressed verdict margin"
COMPARED = "k n reference_k reference_n gap ci95 ci_method reason sites"
MEASURE_OF = {
    "demographic_parity": "selection_rate",
    "equal_opportunity": "sensitivity",
    "false_positive_rate": "false_positive_rate",
    "predictive_parity": "ppv",
    "accuracy": "accuracy",
}
EVERYWHERE = "all others"  # the reference of a site

Counted = tuple[int, int]  # k of n


class Rates:
    """What rates.json shows, by what it is about: (study, outcome, attribute, group, measure)."""

    def __init__(self) -> None:
        self.shown: dict[tuple[str, ...], dict[str, Counted]] = {}  # and threshold; by site
        self.first: dict[tuple[str, ...], dict[str, Counted | None]] = {}  # at the first threshold

    def take(self, row: Object, counted: Counted | None) -> bool:
        """Keep a row; False where it was there before."""
        about = tuple(row[key] for key in ("study", "outcome", "attribute", "group", "measure"))
        sites = self.shown.setdefault((*about, row["threshold"]), {})
        if row["site"] in sites:
            return False
        self.first.setdefault(about, {}).setdefault(row["site"], counted)
        if counted is not None:
            sites[row["site"]] = counted
        return True


def check_fairness(case: Case) -> str:
    """Every rate, gap and interval follows from the counts beside it, and those fit together."""
    where = "fairness/rates.json"
    document = fields(read_json(case.file(where), where), "v rates gaps", where)
    if not is_1(document["v"]):
        raise Failed(f"{where}: another version than this verifier knows")
    rates, pooled = Rates(), []
    for number, row in enumerate(document["rates"]):
        place = _rate_form(row, number, where)
        if not rates.take(row, None if row["suppressed"] else _recomputed(row, place)):
            raise Failed(f"{place}: is there twice")
        if row["site"] == "" and not row["suppressed"]:
            pooled.append((place, row))
    for place, row in pooled:
        _adds_up(place, row, rates)
    _agree(rates)
    gaps = [_gap(row, number, rates) for number, row in enumerate(document["gaps"])]
    shown = sum(map(len, rates.shown.values()))
    return (
        f"{shown} fairness rates and {sum(gaps)} gaps recomputed from their counts "
        f"({len(document['rates']) - shown} rates are suppressed)"
    )


def _rate_form(row: Any, number: int, where: str) -> str:
    if not isinstance(row, dict):
        raise Failed(f"{where}: rate {number} is no object")
    fields(row, RATE, f"{where}: rate {number}", also=COUNTED)
    texts(row, " ".join(RATE.split()[:-1]), f"{where}: rate {number}")
    group = f"{row['attribute']} {row['group']}".strip() or "all patients"
    at = f" at {row['threshold']}" if row["threshold"] else ""
    place = f"{where}: {row['measure']}{at} of {group} at {row['site'] or 'all sites'}"
    if row["suppressed"] not in (True, False) or (row["suppressed"] and {"k", "n"} & row.keys()):
        raise Failed(f"{place}: is suppressed and shown")
    if row["suppressed"] and not row.get("reason"):
        raise Failed(f"{place}: is suppressed without a reason")
    return place


def _recomputed(row: Object, place: str) -> tuple[int, int]:
    fields(row, f"{RATE} k n value ci95 ci_method", place, also="reason sites")
    k, n = row["k"], row["n"]
    if not whole(k) or not whole(n) or (k > n and row["ci_method"]):
        raise Failed(f"{place}: {k} of {n} is no count")
    if n == 0:
        if row["value"] or row["ci95"]:
            raise Failed(f"{place}: a rate of nobody")
        return k, n
    value = min(1.0, k / n)
    if not _as_shown(row["value"], value, place):
        raise Failed(f"{place}: {k} of {n} is {value:.6f}, and not {row['value']}")
    if row["ci_method"] == "wilson":
        _interval(row["ci95"], wilson(k, n), f"{place}: Wilson interval of {k} of {n}")
    elif row["ci95"] or not row.get("reason"):
        raise Failed(f"{place}: an interval by no method, or none without a reason")
    return k, n


def _as_shown(text: Any, value: float, place: str) -> bool:
    return abs(decimal(text, place) - value) <= 1e-6


def _interval(shown: Any, found: tuple[float, float], place: str) -> None:
    if not isinstance(shown, list) or len(shown) != 2:
        raise Failed(f"{place}: must be two numbers")
    if not all(_as_shown(text, value, place) for text, value in zip(shown, found)):
        raise Failed(
            f"{place} is {found[0]:.6f} to {found[1]:.6f}, and not {shown[0]} to {shown[1]}"
        )


def _adds_up(place: str, row: Object, rates: Rates) -> None:
    """A rate over all sites is that of the sites which show it, and of no others."""
    keys = ("study", "outcome", "attribute", "group", "measure", "threshold")
    sites = dict(rates.shown[tuple(row[key] for key in keys)])
    sites.pop("")
    if row.get("sites") != sorted(sites):
        raise Failed(f"{place}: does not count the sites that show it")
    k, n = sum(one for one, _ in sites.values()), sum(one for _, one in sites.values())
    if (k, n) != (row["k"], row["n"]):
        raise Failed(f"{place}: {row['k']} of {row['n']}, and its sites add up to {k} of {n}")


def _agree(rates: Rates) -> None:
    """Rates of one group at one threshold are of the same patients."""
    for key, sites in rates.shown.items():
        if key[4] != "sensitivity":
            continue
        for site, (tp, ill) in sites.items():
            healthy = rates.shown.get((*key[:4], "specificity", key[5]), {}).get(site)
            if healthy is None or not site:
                continue
            tn, well = healthy
            fp, fn = well - tn, ill - tp
            expected = {
                ("false_positive_rate", key[5]): (fp, well),
                ("ppv", key[5]): (tp, tp + fp),
                ("npv", key[5]): (tn, tn + fn),
                ("selection_rate", key[5]): (tp + fp, ill + well),
                ("accuracy", key[5]): (tp + tn, ill + well),
                ("prevalence", ""): (ill, ill + well),
            }
            for about, wanted in expected.items():
                found = rates.shown.get((*key[:4], *about), {}).get(site, wanted)
                if found != wanted:
                    group = f"{key[2]} {key[3]}".strip() or "all patients"
                    raise Failed(
                        f"fairness/rates.json: {about[0]} of {group} at {site} counts {found[0]} "
                        f"of {found[1]}; by sensitivity and specificity {wanted[0]} of {wanted[1]}"
                    )


def _gap(row: Any, number: int, rates: Rates) -> bool:
    """Check one gap; whether it is shown."""
    place = f"fairness/rates.json: gap {number}"
    if not isinstance(row, dict):
        raise Failed(f"{place}: is no object")
    fields(row, GAP, place, also=COMPARED)
    texts(row, "study outcome site attribute level reference criterion verdict margin", place)
    place = f"{place} ({row['criterion']} of {row['level']} and {row['reference']})"
    if row["suppressed"]:
        return False
    fields(row, f"{GAP} {COMPARED}", place)
    k, n, other_k, other_n = numbers = [row[name] for name in COMPARED.split()[:4]]
    if not all(whole(one) for one in numbers) or not n or not other_n:
        raise Failed(f"{place}: its counts are none")
    for level, counted in ((row["level"], (k, n)), (row["reference"], (other_k, other_n))):
        if _counted(row, level, rates) != counted:
            raise Failed(f"{place}: counts of {level} are not those of the rates")
    gap = k / n - other_k / other_n
    if not _as_shown(row["gap"], gap, place):
        raise Failed(f"{place}: is {gap:.6f}, and not {row['gap']}")
    if row["ci_method"] != "newcombe":
        if row["ci95"] or not row["reason"]:
            raise Failed(f"{place}: an interval by no method, or none without a reason")
        return True
    low, high = newcombe(k, n, other_k, other_n)
    _interval(row["ci95"], (low, high), f"{place}: Newcombe interval")
    margin = decimal(row["margin"], place)
    verdict = "inconclusive"
    if -margin <= low and high <= margin:
        verdict = "within margin"
    elif low > margin or high < -margin:
        verdict = "GAP"
    if row["verdict"] != verdict:
        raise Failed(f"{place}: the verdict is {verdict}, and not {row['verdict']}")
    return True


def _counted(row: Object, level: str, rates: Rates) -> Counted:
    """The counts of one side of a gap, added up over its sites."""
    sites, group = row["sites"], (row["attribute"], level)
    if row["attribute"] == "site" and row["reference"] == EVERYWHERE:
        own = level == row["level"]
        sites, group = [site for site in sites if (site == row["level"]) == own], ("", "")
    measure = MEASURE_OF.get(row["criterion"], "")
    found = rates.first.get((row["study"], row["outcome"], *group, measure), {})
    counted = [found.get(site) or (0, 0) for site in sites]
    return sum(one for one, _ in counted), sum(one for _, one in counted)


# ------------------------------------------------------------------ epsilon

Release = tuple[float, float, int]  # sampling probability, noise multiplier, how often


def mechanisms(value: Any, where: str) -> list[Release]:
    """What a `dp` record (dp-accounting's DpEvent as JSON) composes."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "Gaussian":
        fields(value, "type noise_multiplier", f"{where}: dp")
        return [(1.0, decimal(value["noise_multiplier"], f"{where}: dp"), 1)]
    if kind == "PoissonSampled":
        fields(value, "type sampling_probability event", f"{where}: dp")
        rate = decimal(value["sampling_probability"], f"{where}: dp")
        inner = mechanisms(value["event"], where)
        if not 0 < rate <= 1 or len(inner) != 1 or inner[0][0] != 1 or inner[0][2] != 1:
            raise Failed(f"{where}: dp samples what cannot be composed")
        return [(rate, inner[0][1], 1)]
    if kind == "SelfComposed":
        fields(value, "type count event", f"{where}: dp")
        if not whole(value["count"]):
            raise Failed(f"{where}: dp has a count that is no number")
        return [(q, s, n * value["count"]) for q, s, n in mechanisms(value["event"], where)]
    raise Failed(f"{where}: dp is of a type that this verifier does not know")


def check_epsilon(case: Case) -> str:
    """Every epsilon is that of the recorded mechanisms, composed by dp-accounting's PLD."""
    if not case.recompute:
        return NOT_COMPUTED
    from dp_accounting.pld import privacy_loss_distribution as pld

    accountant = Composer(pld)
    studies: dict[tuple[str, str, str], Counter[tuple[float, float]]] = {}
    lives: dict[tuple[str, str], Counter[tuple[float, float]]] = {}
    for where, row in case.rows:
        life = lives.setdefault((row["site"], row["lineage"]), Counter())
        for one in row.get("earlier", []):
            part = (row["site"], one["study"], one["purpose"])
            for rate, noise, count in mechanisms(one["dp"], where):
                life[rate, noise] += count
                studies.setdefault(part, Counter())[rate, noise] += count
        part = (row["site"], row["study"], row["purpose"])
        mine = studies.setdefault(part, Counter())
        for rate, noise, count in mechanisms(row["dp"], where):
            mine[rate, noise] += count
            life[rate, noise] += count
        accountant.compare(case, mine, row["delta"], row["epsilon"], f"{where}: epsilon")
        delta, after = row["lifetime"]["delta"], row["lifetime"]["after"]
        accountant.compare(case, life, delta, after, f"{where}: lifetime epsilon")
    return f"{2 * len(case.rows)} epsilons computed again from {len(case.rows)} rows"


class Composer:
    """Epsilon of Gaussian mechanisms composed, by privacy-loss distributions."""

    WITHIN = 0.02  # or relative, where epsilon is above 1

    def __init__(self, pld: Any) -> None:
        self._pld = pld
        self._known: dict[Any, Any] = {}

    def compare(
        self, case: Case, ran: Counter[tuple[float, float]], delta: Any, said: Any, where: str
    ) -> None:
        """Failed where what was said is lower than what ran; noted where it is higher."""
        claim = decimal(said, where)
        found = self.epsilon(ran, decimal(delta, where), claim)
        if claim < found - self.WITHIN * max(1.0, found):
            raise Failed(f"{where} is said to be {said}, and is {found:.3f}")
        if claim > found + self.WITHIN * max(1.0, found):
            case.notes.append(
                f"{where} is said to be {said}; the rows here give {found:.3f}: a looser bound, or "
                "rows that are withheld"
            )

    def epsilon(self, ran: Counter[tuple[float, float]], delta: float, near: float) -> float:
        if any(not noise and count for (_, noise), count in ran.items()):
            return math.inf
        step = 1e-4 * 2.0 ** min(6, max(0, math.floor(math.log2(max(near, 1.0)))))
        total = None
        for (rate, noise), count in sorted(ran.items()):
            loss = self._composed(rate, noise, count, step) if count else None
            total = loss if total is None else total if loss is None else total.compose(loss)
        return 0.0 if total is None else float(total.get_epsilon_for_delta(delta))

    def _composed(self, rate: float, noise: float, count: int, step: float) -> Any:
        if rate == 1:  # so many Gaussians are one with less noise
            noise, count = noise / math.sqrt(count), 1
        key = (rate, noise, step)
        if key not in self._known:
            self._known[key] = self._pld.from_gaussian_mechanism(
                noise, sampling_prob=rate, value_discretization_interval=step
            )
        return self._known[key].self_compose(count) if count > 1 else self._known[key]


# ------------------------------------------------------------------ one after the other

Check = Callable[[Case], str]
LOG: tuple[Check, ...] = (  # each needs the one before it
    check_container,
    check_signature,
    check_witnesses,
    check_root,
    check_known,
    check_events,
    check_numbers,
    check_parties,
    check_times,
    check_sealed,
    check_esignature,
    check_manifest,
)
CONTENT: tuple[Check, ...] = (  # each by itself
    check_studies,
    check_ledger,
    check_budgets,
    check_paid,
    check_approvals,
    check_selftests,
    check_recorded,
    check_fairness,
    check_epsilon,
)
CHECKS = LOG + CONTENT


class Line(NamedTuple):
    """What is printed of a check; `state` is ok, FAIL or note."""

    number: int
    state: str
    text: str


class Verdict(NamedTuple):
    """The result, and the lines that led to it."""

    code: int
    text: str
    lines: list[Line]


def verify(case: Case) -> Verdict:
    """Run the checks in their order; after a failure of the log itself, no further ones."""
    lines: list[Line] = []
    for number, check in enumerate(CHECKS, 1):
        unwitnessed = case.unwitnessed
        try:
            text, state = check(case), "ok"
            if case.unwitnessed != unwitnessed or text in NOT_DONE:
                state = "note"
        except Failed as failed:
            text, state = str(failed), "FAIL"
        except (RecursionError, MemoryError, KeyError, TypeError, ValueError, IndexError) as error:
            text, state = f"{check.__name__}: malformed ({type(error).__name__})", "FAIL"
        lines.append(Line(number, state, safe(text)))
        more = len(case.notes) - NOTES
        if more > 0:
            case.notes[NOTES:] = [f"and {more} more of this check"]
        lines += [Line(number, "note", safe(note)) for note in case.notes]
        case.notes.clear()
        if state == "FAIL" and check in LOG:
            break
    failures = [line for line in lines if line.state == "FAIL"]
    if failures:
        return Verdict(NOT_VERIFIED, f"NOT VERIFIED: {failures[0].text}", lines)
    if case.unwitnessed:
        return Verdict(UNWITNESSED, f"VERIFIED, BUT UNWITNESSED: {safe(case.unwitnessed)}", lines)
    return Verdict(VERIFIED, "VERIFIED", lines)


def safe(text: str) -> str:
    """One line for a terminal, whatever a bundle says."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= SHOWN else shown[: SHOWN - 3] + "..."


def run(bundle: str, policy: str, known: str | None, recompute: bool, as_json: bool) -> int:
    """Check a bundle and print what was found; returns the exit code."""
    try:
        if recompute and importlib.util.find_spec("dp_accounting") is None:
            raise Unusable("--recompute-epsilon needs the Python package dp-accounting")
        trusted = read_policy(_read(policy), policy)
        earlier = None if known is None else _read(known)
        verdict = verify(Case(bundle, trusted, earlier, recompute))
    except Unusable as error:
        verdict = Verdict(UNUSABLE, f"NOTHING WAS CHECKED: {safe(str(error))}", [])
    if as_json:
        document = {
            "bundle": bundle,
            "result": verdict.text,
            "exit_code": verdict.code,
            "checks": [{"check": n, "state": s, "text": t} for n, s, t in verdict.lines],
        }
        print(json.dumps(document))
        return verdict.code
    for number, state, text in verdict.lines:
        print(f"{state:<4}  {number:>2}  {text}")
    print(f"RESULT: {verdict.text}")
    return verdict.code


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Unusable(f"{path}: cannot be read ({error.strerror})") from None


class _Parser(argparse.ArgumentParser):
    """A wrong call ends with 64: 2 has another meaning here."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(UNUSABLE, f"NOTHING WAS CHECKED: {message}\n")


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _Parser(description="Check a bundle of evidence without trusting who made it.")
    parser.add_argument("bundle", help="the zip file, or the folder that it was unpacked to")
    parser.add_argument("--policy", required=True, help="whom you trust; not from the bundle")
    parser.add_argument("--known-checkpoint", help="a log/checkpoint that you kept from before")
    parser.add_argument(
        "--recompute-epsilon", action="store_true", help="needs the package dp-accounting"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return run(
        given.bundle, given.policy, given.known_checkpoint, given.recompute_epsilon, given.json
    )


if __name__ == "__main__":
    sys.exit(main())
