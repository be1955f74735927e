"""Who must have cosigned: a consortium's policy in C2SP's tlog-policy form, read back.

Only what `Consortium.policy` writes: logs, witnesses, one group of them, and the quorum. Strangers
verify with the standalone verifier; this tells those who run the log whether a quorum is there.
"""

from dataclasses import dataclass
from typing import Self

from cohortium.common.audit.notes import Note, NoteKey
from cohortium.common.errors import DocumentError, SignatureError


@dataclass(frozen=True)
class Quorum:
    """witnesses: their keys by name. needed: how many of them make a quorum, 0 for none."""

    logs: tuple[NoteKey, ...]
    witnesses: dict[str, NoteKey]
    needed: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a policy; DocumentError for a line of another kind."""
        logs, witnesses, groups, quorum = list[NoteKey](), dict[str, NoteKey](), {"none": 0}, ""
        for line in filter(None, text.splitlines()):
            match line.split():
                case ["log", key]:
                    logs.append(NoteKey.parse(key))
                case ["witness", name, key]:
                    witnesses[name] = NoteKey.parse(key)
                case ["group", name, count, *_] if count.isdigit():
                    groups[name] = int(count)
                case ["quorum", name] if name in groups:
                    quorum = name
                case _:
                    raise DocumentError(f'policy: "{line[:80]}" is no line that is known here')
        if not quorum:
            raise DocumentError("policy: it names no quorum")
        return cls(tuple(logs), witnesses, groups[quorum])

    def cosigned(self, note: Note) -> dict[str, int]:
        """When each witness cosigned, in Unix seconds, by name; false cosignatures are left out."""
        found = dict[str, int]()
        for name, key in sorted(self.witnesses.items()):
            try:
                at = note.cosigned_at(key)
            except SignatureError:
                continue
            if at is not None:
                found[name] = at
        return found

    def met(self, note: Note) -> bool:
        """Whether as many witnesses cosigned as make a quorum."""
        return len(self.cosigned(note)) >= self.needed
