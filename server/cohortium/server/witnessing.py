"""Having the log witnessed: its sites cosign each checkpoint and hand over what they may share.

log grew -> it has come to rest -> checkpoint, durable -> every site that is online is asked
  -> answer checked -> its events, documents, own head and cosignature in one transaction
  -> asked again until nothing is new

No study waits for it. Before a site is shown a checkpoint for the first time in this process's life
it is asked, with one of an empty log, what it cosigned last: a coordinator whose database is an old
backup finds that out before it signs another history of its own log (`recovery.py`).
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

from cohortium.common import timeouts
from cohortium.common.audit.documents import Documents
from cohortium.common.audit.events import Actor
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.merkle import EMPTY_ROOT, Peaks
from cohortium.common.audit.notes import Checkpoint, Note, sign_checkpoint
from cohortium.common.errors import CohortiumError
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.common.messages import Proven, Refusal, Witness, Witnessed
from cohortium.server import recovery, returning, witnessed
from cohortium.server.consortium import Consortium
from cohortium.server.conversation import Conversation
from cohortium.server.witnessed import Asked, Taken, Untrue

PASSES = (3, 100)  # of one exchange, while a study runs and otherwise; an answer of each site each
MAX_PROOFS = 500  # in one question
MAX_EVENTS_AN_HOUR = 50_000  # of one site
TRIES = 3  # until the old size is the one that the site has

logger = logging.getLogger("cohortium.coordinator")

Talk = Callable[[Sequence[str]], AbstractContextManager[Conversation]]


@dataclass
class Witnesser:
    """What is known of one site: `size` it wants to be shown that the log grew from.

    cosigned: the size that it cosigned last, 0 for none that we know, None before it was asked in
    this life. lacks: from which of its own events on it has lost them. told: which checkpoint, with
    how many cosignatures, it was last told of. doubted: when each rule that it broke was last
    recorded, in monotonic seconds.
    """

    size: int = 0
    cosigned: int | None = None
    proven: int = 0
    lacks: int | None = None
    leaves: Peaks = field(default_factory=Peaks)
    told: tuple[int, int] = (0, 0)
    not_before: float = 0.0
    pause_s: float = timeouts.WITNESS_AGAIN_S[0]
    hour: int = 0
    taken: int = 0
    doubted: dict[str, float] = field(default_factory=dict)


class Witnessing:
    """Asks the sites of one coordinator; `look` from one thread.

    Args:
        log: records what a site answers wrongly.
        peers: signing key of every member.
        online: who can be asked now.
        busy: whether a study runs.
        talk: opens a conversation, of no study, with some sites.
        now_ms: Unix time; `monotonic` seconds of a clock that is never set.
        former: the keys that a site had before.
    """

    def __init__(
        self,
        consortium: Consortium,
        key: SigningKey,
        log: EventLog,
        actor: Actor,
        *,
        peers: Callable[[], Mapping[str, VerifyKey]],
        online: Callable[[], set[str]],
        busy: Callable[[], bool],
        talk: Talk,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
        former: Callable[[str], Sequence[VerifyKey]] = lambda site: (),
    ) -> None:
        self._consortium = consortium
        self._database = consortium.database
        self._documents = Documents(consortium.database)
        self._key = key
        self._log = log
        self._actor = actor
        self._peers = peers
        self._online = online
        self._busy = busy
        self._talk = talk
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._former = former
        self._sites: dict[str, Witnesser] = {}
        self._number = consortium.number
        self._here: set[str] = set()
        self._seen = -1
        self._grows = False
        self._grew = self._began = 0.0
        self._asked = -timeouts.WITNESS_EVERY_S[1]

    def look(self) -> None:
        """Hold an exchange if one is due; cheap where none is.

        Raises:
            UnreachableError, StorageError: it was broken off; it is due again.
        """
        now, online = self._monotonic(), self._online()
        came, self._here = online - self._here, online
        for site in came & self._sites.keys():
            self._sites[site].cosigned = None  # it may have been restored meanwhile
        again = any(0 < self._sites[site].not_before <= now for site in online & self._sites.keys())
        pause_s = timeouts.WITNESS_EVERY_S[0 if self._busy() else 1]
        if self._rests(now) or came or again or now - self._asked >= pause_s:
            self._asked, self._grows, self._seen = now, False, -1
            self._seen = self.exchange(online)

    def _rests(self, now: float) -> bool:
        """Whether the log has grown, and has come to rest or has been growing for long."""
        size = self._consortium.size()
        if size != self._seen:
            self._began = self._began if self._grows else now
            self._grows, self._seen, self._grew = True, size, now
        for_s, at_most_s = timeouts.WITNESS_REST_S
        return self._grows and (now - self._grew >= for_s or now - self._began >= at_most_s)

    def exchange(self, online: set[str]) -> int:
        """Ask until every site that is there has cosigned all that is logged, or will not.

        Returns:
            How long the log is that was witnessed as far as it can be, or -1 where that takes more.
        """
        self._begin_anew()
        if not recovery.behind(self._database):
            self._consortium.checkpoint(self._now_ms())
        with ExitStack() as stack:
            lanes = self._lanes(self._due(online), stack)
            asked: Counter[str] = Counter()
            for _ in range(PASSES[0 if self._busy() else 1]):
                size = self._consortium.size()
                work = [
                    (talk, [site for site in sites if self._wants(site, size, asked[site])])
                    for talk, sites in lanes
                ]
                if not any(sites for _, sites in work):
                    return size
                with ThreadPoolExecutor(len(work)) as pool:
                    list(pool.map(lambda lane: self._pass(*lane), work))
                asked.update(site for _, sites in work for site in sites)
        return -1

    def _begin_anew(self) -> None:
        """A log under a new name is another one, of which nobody has cosigned anything yet."""
        if self._consortium.number != self._number:
            self._number = self._consortium.number
            for known in self._sites.values():
                known.cosigned = None

    def _due(self, online: set[str]) -> list[str]:
        now = self._monotonic()
        known = self._peers().keys() & online
        for site in known - self._sites.keys():
            leaves = self._database.execute(
                "SELECT leaf FROM consortium WHERE node = ? ORDER BY node_seq", (site,)
            )
            self._sites[site] = Witnesser(leaves=Peaks().plus(row["leaf"] for row in leaves))
        return [site for site in sorted(known) if self._sites[site].not_before <= now]

    def _lanes(self, sites: list[str], stack: ExitStack) -> list[tuple[Conversation, list[str]]]:
        """A few conversations, each with some of the sites."""
        count = min(timeouts.WITNESS_LANES, len(sites))
        parts = [sites[lane::count] for lane in range(count)]
        return [(stack.enter_context(self._talk(part)), part) for part in parts]

    def _wants(self, site: str, size: int, times: int) -> bool:
        """Whether there is something to ask of a site that was asked so often in this exchange."""
        known = self._sites[site]
        if known.not_before > self._monotonic():
            return False
        if times == 0 or recovery.behind(self._database):
            return times == 0
        if known.cosigned != size or known.proven < known.leaves.size:
            return True
        return not self._busy() and known.told != self._telling(known)

    def _telling(self, known: Witnesser) -> tuple[int, int]:
        """The checkpoint that a site cosigned last, and how many cosignatures it has by now."""
        rows = self._database.execute(
            "SELECT count(*) FROM cosignatures WHERE size = ?", (known.cosigned or 0,)
        )
        return (known.cosigned or 0, rows[0][0])

    def _pass(self, talk: Conversation, sites: list[str]) -> None:
        for site in sites:
            try:
                self._ask(talk, site)
            except Untrue as error:
                self._doubt(site, error.rule, str(error))

    def _ask(self, talk: Conversation, site: str) -> None:
        known = self._sites[site]
        known.not_before, known.lacks = 0.0, None
        if known.cosigned is None and self._put(talk, site, self._empty()) is None:
            return
        for _ in range(TRIES):
            if recovery.behind(self._database):
                return
            taken = self._put(talk, site, self._consortium.checkpoint(self._now_ms()))
            while taken is not None and known.lacks is not None:
                taken = self._put(talk, site, self._consortium.checkpoint(self._now_ms()))
            if taken is None or taken.cosignature:
                return
        raise Untrue("witness.size", "the site names another old size each time")

    def _empty(self) -> Note:
        """A statement that is always true of our log: that it began with nothing."""
        return sign_checkpoint(Checkpoint(self._consortium.origin, 0, EMPTY_ROOT), self._key)

    def _put(self, talk: Conversation, site: str, note: Note) -> Taken | None:
        """Ask one site once; None where there is no answer."""
        known, key = self._sites[site], self._peers().get(site)
        if key is None:
            return None
        question, telling = self._question(site, note), self._telling(known)
        asked = Asked(
            site=site,
            key=key,
            coordinator=self._consortium.coordinator,
            own_key=self._key.public,
            note=note,
            leaves=known.leaves,
            now_s=self._now_ms() // 1000,
            former=tuple(self._former(site)),
        )
        deadline_s = timeouts.WITNESS_S
        for said in talk.ask((site,), question, Witnessed, round=0, deadline_s=deadline_s):
            if isinstance(said.message, Refusal):
                self._doubt(site, said.message.rule, f"it refused: {said.message.explanation}")
                return None
            known.lacks = said.message.lacks
            if known.lacks is not None:
                known.proven, known.cosigned = said.message.proven, known.cosigned or 0
                return returning.lacking(said.message, question, asked)
            taken = witnessed.check(said.message, asked)
            self._keep(site, note, taken)
            if taken.cosignature:
                known.told = telling
                self._took_proofs(question, taken)
            return taken
        self._rest(site)
        return None

    def _question(self, site: str, note: Note) -> Witness:
        known, size = self._sites[site], note.checkpoint.size
        ours = Note(note.body, note.signatures[:1]).text
        head = self._consortium.site_heads().get(site, "")
        if size == 0:
            return Witness(
                checkpoint=ours,
                old_size=0,
                consistency=(),
                included=(),
                have=known.leaves.size,
                head=head,
            )
        old = known.size if known.size <= size else 0  # of a log before this one: the site says
        begun = recovery.recovery(self._consortium, size)
        anew = begun is not None and not known.cosigned  # it lets go of proofs of what was lost
        told = self._consortium.note(known.cosigned or 0)
        return Witness(
            checkpoint=ours,
            old_size=old,
            consistency=_hex(self._consortium.consistency(old, size)),
            included=() if anew else tuple(self._proofs(site, size)),
            have=known.leaves.size,
            cosigned=told.text if told is not None else "",
            recovery=begun,
            head=head,
            returned=returning.page(self._database, site, known.lacks),
        )

    def _took_proofs(self, question: Witness, taken: Taken) -> None:
        if question.included and taken.proven <= question.included[-1].seq:
            raise Untrue("witness.proven", "the site took no proof of its own events")

    def _proofs(self, site: str, size: int) -> list[Proven]:
        rows = self._database.execute(
            "SELECT seq, node_seq FROM consortium WHERE node = ? AND node_seq >= ? AND seq < ? "
            "ORDER BY node_seq LIMIT ?",
            (site, self._sites[site].proven, size, MAX_PROOFS),
        )
        return [
            Proven(
                seq=row["node_seq"],
                index=row["seq"],
                path=_hex(self._consortium.tree.inclusion(row["seq"], size)),
            )
            for row in rows
        ]

    def _keep(self, site: str, note: Note, taken: Taken) -> None:
        """All that an answer brought, in one transaction; nothing of it where we are behind."""
        known, size = self._sites[site], taken.size
        found = recovery.compare(self._consortium, taken.newer) if taken.newer else "here"
        if taken.newer is not None and found == "here":
            size = taken.newer.checkpoint.size
        if taken.newer is not None and found == "behind":
            recovery.note_behind(self._consortium, site, taken.newer, self._now_ms())
            logger.error("%s has cosigned more of our log than is here", site)
        if not recovery.behind(self._database):
            self._count(known, len(taken.lines))
            self._store(site, note, taken)
            known.leaves = taken.leaves
        known.size, known.proven = size, min(taken.proven, known.leaves.size)
        known.cosigned = taken.size if taken.cosignature else known.cosigned or 0
        if taken.cosignature:
            known.pause_s = timeouts.WITNESS_AGAIN_S[0]

    def _store(self, site: str, note: Note, taken: Taken) -> None:
        with self._database.transaction():
            recovery.check_whole(self._database)
            self._consortium.take(site, taken.lines)
            for word, text in taken.documents:
                self._documents.keep_text(witnessed.kind(word), text.encode())
            self._database.execute(
                "INSERT INTO site_heads VALUES (?, ?, ?) ON CONFLICT (site) DO UPDATE "
                "SET note = excluded.note, at_ms = excluded.at_ms",
                (site, taken.head, self._now_ms()),
            )
            if taken.cosignature:
                self._database.execute(
                    "INSERT INTO cosignatures VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (note.checkpoint.size, site, taken.cosignature, self._now_ms()),
                )

    def _count(self, known: Witnesser, lines: int) -> None:
        hour = self._now_ms() // 3_600_000
        known.taken = lines + (known.taken if hour == known.hour else 0)
        known.hour = hour
        if known.taken > MAX_EVENTS_AN_HOUR:
            raise Untrue("witness.flood", f"more than {MAX_EVENTS_AN_HOUR} events in an hour")

    def _rest(self, site: str) -> None:
        """Whoever does not answer, or not as it should, is asked again later, and less often."""
        known = self._sites[site]
        known.not_before = self._monotonic() + known.pause_s
        known.pause_s = min(2 * known.pause_s, timeouts.WITNESS_AGAIN_S[1])

    def _doubt(self, site: str, rule: str, explanation: str) -> None:
        """One event a rule and hour: else it would be what makes the log grow, and us ask again."""
        known, now = self._sites[site], self._monotonic()
        self._rest(site)
        logger.warning("%s as a witness: %s", site, explanation)
        if now - known.doubted.get(rule, -timeouts.DOUBT_EVERY_S) < timeouts.DOUBT_EVERY_S:
            return
        known.doubted[rule] = now
        forged = rule == "reply.signature"
        detail = {"site": site} if forged else {"site": site, "kind": Witness.kind}
        try:
            self._log.append(
                "auth.fail" if forged else "round.refused",
                actor=self._actor,
                outcome="denied",
                reason=rule,
                detail=detail,
            )
        except CohortiumError as error:
            logger.error("%s", error)


def _hex(proof: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple(step.hex() for step in proof)
