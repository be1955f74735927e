"""A consortium in one process whose log is witnessed by its sites, for tests."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.federation import COORDINATOR, Federation, federate

from cohortium.client.cosigned import Cosigned
from cohortium.common.audit import names
from cohortium.common.audit.notes import Note, witness_key
from cohortium.common.identity import VerifyKey
from cohortium.server.consortium import Consortium
from cohortium.server.conversation import Conversation
from cohortium.server.recovery import check_whole
from cohortium.server.sites import Sites
from cohortium.server.witnessing import Witnessing


@dataclass
class Witnesses:
    """What the daemon's thread works with; `sites` may be replaced by hostile ones.

    offline: who cannot be asked. busy: whether a study runs. elapsed_s: on the monotonic clock.
    """

    federation: Federation
    sites: Sites
    consortium: Consortium
    offline: set[str] = field(default_factory=set)
    busy: bool = False
    elapsed_s: float = 0.0
    now_ms: Callable[[], int] = lambda: 0

    def __post_init__(self) -> None:
        self.witnessing = self.begin()

    def begin(self) -> Witnessing:
        """As after a start of the daemon."""
        self.federation.log._whole = lambda: check_whole(self.consortium.database)
        return Witnessing(
            self.consortium,
            self.federation.key,
            self.federation.log,
            self.federation.actor,
            peers=lambda: self.peers,
            online=lambda: set(self.federation.sites) - self.offline,
            busy=lambda: self.busy,
            talk=self._talk,
            now_ms=self.now_ms,
            monotonic=lambda: self.elapsed_s,
        )

    @property
    def peers(self) -> dict[str, VerifyKey]:
        return {name: site.key.public for name, site in self.federation.sites.items()}

    @contextmanager
    def _talk(self, sites: Sequence[str]) -> Iterator[Conversation]:
        yield Conversation(
            study="",
            coordinator=COORDINATOR,
            key=self.federation.key,
            peers=self.peers,
            sites=self.sites,
            stopped=lambda: "",
            now_ms=self.now_ms,
            sleep=lambda seconds: None,
        )

    def exchange(self) -> int:
        return self.witnessing.exchange(set(self.federation.sites) - self.offline)

    def note(self) -> Note:
        """The checkpoint over all that is logged now, with its cosignatures."""
        made = self.consortium.note(self.consortium.size())
        assert made is not None
        return made

    def cosigners(self, note: Note) -> set[str]:
        """Whose cosignatures of a note hold."""
        keys = {
            name: witness_key(names.witness(COORDINATOR, name), key)
            for name, key in self.peers.items()
        }
        return {name for name, key in keys.items() if note.cosigned_at(key) is not None}

    def cosigned(self, site: str) -> Cosigned:
        return Cosigned(self.federation.sites[site].database)


def witnesses(root: Path, *sites: str) -> Witnesses:
    """A consortium that has logged two events of its own."""
    federation = federate(root, sites or ("a", "b", "c"))
    consortium = Consortium(federation.store.database, federation.key, COORDINATOR)
    made = Witnesses(
        federation,
        federation.transport,
        consortium,
        now_ms=next(iter(federation.sites.values())).now_ms,
    )
    for site in federation.sites:
        federation.log.append("node.enrolled", actor=federation.actor, detail={"site": site})
    return made
