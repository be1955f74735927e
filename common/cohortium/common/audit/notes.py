"""Signed statements about a log, in the C2SP formats as they are.

`signed-note`, `tlog-checkpoint` and `tlog-cosignature` (https://c2sp.org): a checkpoint says how
long a log is and its root; the log signs it, and witnesses cosign it once they have seen that the
log only grew. Signatures of unknown keys or types (such as ML-DSA-44, type 0x06) are left alone, so
that they can be added without breaking a reader.
"""

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Self

from cohortium.common.audit.merkle import HASH_BYTES
from cohortium.common.errors import DocumentError, SignatureError
from cohortium.common.identity import SigningKey, VerifyKey

LOG_KEY: Final = 0x01  # Ed25519 over a note
WITNESS_KEY: Final = 0x04  # Ed25519 over a cosignature
DASH = "\u2014"
MAX_NOTE = 65_536
MAX_DIGITS = 19  # of a log's size
MAX_TIME = 2**63 - 1

KeyType = Literal[0x01, 0x04]


@dataclass(frozen=True)
class NoteKey:
    """A verifier key: who signs, how, and the 32 bytes of an Ed25519 public key."""

    name: str
    type: KeyType
    public: bytes

    def __post_init__(self) -> None:
        if not self.name or "+" in self.name or any(c.isspace() for c in self.name):
            raise DocumentError(f'"{self.name}" cannot name a key: no space and no plus sign')

    @property
    def id(self) -> bytes:
        """The first 4 bytes of SHA-256 over name, newline, type and key (signed-note)."""
        text = self.name.encode() + b"\n" + bytes([self.type]) + self.public
        return hashlib.sha256(text).digest()[:4]

    @property
    def text(self) -> str:
        """`name+id+key`, as it stands in a policy file."""
        return f"{self.name}+{self.id.hex()}+{_b64(bytes([self.type]) + self.public)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name+id+key`; DocumentError where it is none, or the id is another key's."""
        parts = text.split("+", 2)
        raw = _unb64(parts[2]) if len(parts) == 3 else b""
        types: dict[int, KeyType] = {LOG_KEY: LOG_KEY, WITNESS_KEY: WITNESS_KEY}
        if len(raw) != 1 + HASH_BYTES or raw[0] not in types:
            raise DocumentError(f'"{text[:80]}" is no Ed25519 key of a log or witness')
        key = cls(parts[0], types[raw[0]], raw[1:])
        if key.id.hex() != parts[1]:
            raise DocumentError(f'the key id of "{parts[0]}" does not fit its key')
        return key

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raise SignatureError unless this key signed the message."""
        VerifyKey(self.public).verify(signature, message)


@dataclass(frozen=True)
class Checkpoint:
    """How long a log is, and its Merkle root; `origin` names the log."""

    origin: str
    size: int
    root: bytes

    @property
    def body(self) -> str:
        """What is signed: three lines."""
        return f"{self.origin}\n{self.size}\n{_b64(self.root)}\n"

    @classmethod
    def parse(cls, body: str) -> Self:
        """Read a body; DocumentError for anything but its canonical form."""
        *lines, end = body.split("\n")
        root = _unb64(lines[2]) if len(lines) >= 3 else b""
        size = lines[1] if len(root) == HASH_BYTES else ""
        if not (size.isascii() and size.isdigit() and len(size) <= MAX_DIGITS):
            raise DocumentError("not a checkpoint: origin, size and root, a line each")
        found = cls(lines[0], int(size), root)
        if end or not all(lines) or not body.startswith(found.body):
            raise DocumentError("a checkpoint is not in canonical form")
        return found


@dataclass(frozen=True)
class Signature:
    """One line below a note; `time` in Unix seconds for a cosignature, else None."""

    name: str
    key_id: bytes
    raw: bytes

    @property
    def line(self) -> str:
        return f"{DASH} {self.name} {_b64(self.key_id + self.raw)}\n"


@dataclass(frozen=True)
class Note:
    """A text with the signatures below it, none of them checked yet."""

    body: str
    signatures: tuple[Signature, ...]

    @property
    def text(self) -> str:
        return self.body + "\n" + "".join(signature.line for signature in self.signatures)

    @property
    def checkpoint(self) -> Checkpoint:
        """What the note says of a log; DocumentError where it is about something else."""
        return Checkpoint.parse(self.body)

    def with_(self, more: Iterable[Signature]) -> "Note":
        """The same note with further signatures; of one key the first is kept."""
        kept: dict[tuple[str, bytes], Signature] = {}
        for signature in (*self.signatures, *more):
            kept.setdefault((signature.name, signature.key_id), signature)
        return Note(self.body, tuple(kept.values()))

    def signed_by(self, key: NoteKey) -> bool:
        """Whether a log's key signed it.

        Raises:
            SignatureError: a signature in its name is not its own.
        """
        return self._by(key) is not None

    def cosigned_at(self, key: NoteKey) -> int | None:
        """When a witness cosigned it, in Unix seconds; None where it did not.

        Raises:
            SignatureError: a cosignature in its name is not its own.
        """
        found = self._by(key)
        return None if found is None else int(struct.unpack(">Q", found.raw[:8])[0])

    def _by(self, key: NoteKey) -> Signature | None:
        for signature in self.signatures:
            if (signature.name, signature.key_id) == (key.name, key.id):
                _verify(key, signature, self.body)
                return signature
        return None


def _verify(key: NoteKey, signature: Signature, body: str) -> None:
    try:
        if key.type == LOG_KEY:
            key.verify(signature.raw, body.encode())
        else:
            (seconds,) = struct.unpack(">Q", signature.raw[:8])
            if seconds > MAX_TIME:
                raise SignatureError("no time")
            key.verify(signature.raw[8:], _cosigned(seconds, body))
    except (SignatureError, struct.error):
        raise SignatureError(f'a signature by "{key.name}" is not its own') from None


def read_note(text: str, source: str) -> Note:
    """Take a note apart; DocumentError, starting with `source`, for anything that is none."""
    body, gap, lines = text.rpartition("\n\n")
    malformed = not gap or not lines.endswith("\n") or any(c < " " and c != "\n" for c in text)
    if malformed or len(text.encode(errors="replace")) > MAX_NOTE:
        raise DocumentError(f"{source}: not a signed note; the file was changed or cut")
    signatures = []
    for line in lines[:-1].split("\n"):
        parts = line.split(" ")
        raw = _unb64(parts[2]) if len(parts) == 3 else b""
        if len(parts) != 3 or parts[0] != DASH or not parts[1] or len(raw) <= 4:
            raise DocumentError(f"{source}: a signature line is malformed; the file was changed")
        signatures.append(Signature(parts[1], raw[:4], raw[4:]))
    return Note(body + "\n", tuple(signatures))


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> Note:
    """A log's own statement: signed in the name of its origin (signed-note type 0x01)."""
    signer = log_key(checkpoint.origin, key.public)
    raw = key.sign(checkpoint.body.encode())
    return Note(checkpoint.body, (Signature(signer.name, signer.id, raw),))


def cosign(body: str, name: str, key: SigningKey, seconds: int) -> Signature:
    """A witness's word that it saw the log only grow, at a time in Unix seconds (type 0x04)."""
    signer = witness_key(name, key.public)
    raw = struct.pack(">Q", seconds) + key.sign(_cosigned(seconds, body))
    return Signature(signer.name, signer.id, raw)


def log_key(origin: str, key: VerifyKey) -> NoteKey:
    return NoteKey(origin, LOG_KEY, key.raw)


def witness_key(name: str, key: VerifyKey) -> NoteKey:
    return NoteKey(name, WITNESS_KEY, key.raw)


def _cosigned(seconds: int, body: str) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{body}".encode()


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _unb64(text: str) -> bytes:
    """The bytes, or none where the text is no base64 in its one canonical form."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return raw if _b64(raw) == text else b""
