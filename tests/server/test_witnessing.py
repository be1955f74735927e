"""The coordinator has its log witnessed, by honest sites and by hostile ones."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.asking import Asker
from tests.federation import (
    COORDINATOR,
    PLAIN,
    Federation,
    InProcessSites,
    make_site,
    write_study,
)
from tests.witnessed import Witnesses, witnesses

from cohortium.client import equivocation
from cohortium.client.party import SiteParty
from cohortium.client.site import Site
from cohortium.common import timeouts
from cohortium.common.audit import merkle, names
from cohortium.common.audit.documents import thing_of
from cohortium.common.audit.events import leaf_hash, os_user, read_event
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.merkle import Peaks
from cohortium.common.audit.notes import (
    LOG_KEY,
    WITNESS_KEY,
    Checkpoint,
    NoteKey,
    cosign,
    read_note,
    sign_checkpoint,
)
from cohortium.common.envelope import seal, unseal
from cohortium.common.errors import RefusedError, UsageError
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Witness, Witnessed, pack, unpack
from cohortium.common.privacy.selftest import Selftest
from cohortium.server import recovery, witnessed
from cohortium.server.config import CoordinatorConfig, CoordinatorDir
from cohortium.server.consortium import Consortium
from cohortium.server.database import open_coordinator_database
from cohortium.server.outcome import Evidence
from cohortium.server.recovery import LogBehind
from cohortium.server.roster import Roster
from cohortium.server.running import Coordinator
from cohortium.server.store import Store
from cohortium.server.studies import start_studies
from cohortium.server.superlink import SuperLink, TlsFiles
from cohortium.server.witnessed import Asked, Untrue


def pause(site: Site) -> None:
    site.log.append("run.paused", actor=site.actor, detail={"by": "Dr. Weiss"})


def enrol(made: Witnesses, name: str = "d") -> None:
    federation = made.federation
    federation.log.append("node.enrolled", actor=federation.actor, detail={"site": name})


def selftest(site: Site, words: str = "all is well") -> None:
    document = Selftest(
        site=site.name, level="L0", verdict="passed", words=words, code="0", at="2026-01-01"
    )
    with site.database.transaction():
        thing = site.documents.keep("selftest", document)
        site.log.append("privacy.selftest", actor=site.actor, obj=(thing,))


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Witnesses]:
    made = witnesses(tmp_path, "a", "b")
    yield made
    made.federation.close()


def asked(made: Witnesses) -> int:
    return len(made.federation.transport.wire)


def refusals(made: Witnesses) -> list[tuple[str, str | None, str]]:
    """What the coordinator recorded of wrong answers: action, rule, site."""
    return [
        (event.action, event.reason, event.detail["site"])
        for event in made.federation.log.events()
        if event.outcome == "denied"
    ]


# ------------------------------------------------------------------ honest sites


def test_all_sites_cosign_one_checkpoint_over_all_that_was_logged(made: Witnesses) -> None:
    pause(made.federation.sites["a"])
    selftest(made.federation.sites["b"])
    size = made.exchange()
    assert size == made.consortium.size() == 2 + 2 + 2
    assert made.cosigners(made.note()) == {"a", "b"}
    assert made.note().checkpoint.root == merkle.root_of(
        leaf_hash(logged.line) for logged in made.consortium.logged()
    )
    for site in ("a", "b"):
        last = made.cosigned(site).last()
        assert last is not None
        assert made.cosigners(last) == {"a", "b"}  # each has the other's cosignature too
        assert made.cosigned(site).proven() == made.consortium.have(site) == 2
    kept = made.consortium.database.execute("SELECT t, text FROM documents")
    assert [(row["t"], json.loads(row["text"])["site"]) for row in kept] == [("selftest", "b")]


def test_a_sites_events_stand_in_the_log_as_it_signed_them_in_order(made: Witnesses) -> None:
    for site in made.federation.sites.values():
        pause(site)
        pause(site)
    made.exchange()
    for name, text in made.consortium.site_heads().items():
        leaves = [logged.leaf for logged in made.consortium.logged() if logged.node == name]
        head = read_note(text, "head").checkpoint
        assert (head.size, head.root) == (3, merkle.root_of(leaves))
        assert head.origin == names.site_log(COORDINATOR, name)


def test_an_idle_log_is_not_talked_about(made: Witnesses) -> None:
    made.witnessing.look()
    made.elapsed_s += 2.0
    made.witnessing.look()
    before, size = asked(made), made.consortium.size()
    for _ in range(100):
        made.elapsed_s += 10.0
        made.witnessing.look()
    assert (asked(made), made.consortium.size()) == (before, size)


def test_sites_are_asked_soon_after_the_log_came_to_rest_and_while_it_grows_for_long(
    made: Witnesses,
) -> None:
    made.busy = True
    made.witnessing.look()
    began, before = made.elapsed_s, asked(made)
    while asked(made) == before:
        enrol(made)
        made.elapsed_s += 0.5
        made.witnessing.look()
    assert made.elapsed_s - began == pytest.approx(timeouts.WITNESS_REST_S[1], abs=1.0)
    enrol(made)
    before = asked(made)
    made.witnessing.look()
    assert asked(made) == before  # it may go on growing
    made.elapsed_s += timeouts.WITNESS_REST_S[0]
    made.witnessing.look()
    assert asked(made) > before


@pytest.mark.parametrize("busy", [True, False])
def test_what_sites_did_by_themselves_is_fetched_though_the_log_did_not_grow(
    made: Witnesses, busy: bool
) -> None:
    made.busy = busy
    made.exchange()
    made.witnessing.look()
    pause(made.federation.sites["a"])
    made.elapsed_s += timeouts.WITNESS_EVERY_S[0 if busy else 1]
    made.witnessing.look()
    assert made.consortium.have("a") == 2
    assert timeouts.WITNESS_EVERY_S[1] < timeouts.PROVEN_WITHIN_S


def test_a_site_that_comes_back_cosigns_at_once(made: Witnesses) -> None:
    made.offline = {"b"}
    made.witnessing.look()
    assert made.cosigners(made.note()) == {"a"}
    made.offline = set()
    made.witnessing.look()
    assert made.cosigners(made.note()) == {"a", "b"}


def test_a_coordinator_and_a_site_that_were_started_again_go_on(made: Witnesses) -> None:
    made.exchange()
    pause(made.federation.sites["a"])
    enrol(made)
    made.witnessing = made.begin()
    made.exchange()
    assert made.cosigners(made.note()) == {"a", "b"}
    assert made.cosigned("a").proven() == 2
    assert refusals(made) == []


def test_while_a_study_runs_an_exchange_is_short_whatever_sites_log(made: Witnesses) -> None:
    class Chatty(InProcessSites):
        def ask(
            self, heads: Mapping[str, bytes], body: bytes, deadline_s: float
        ) -> Iterator[tuple[str, bytes]]:
            for name in heads:
                pause(self.sites[name])
            yield from super().ask(heads, body, deadline_s)

    made.busy, made.sites = True, Chatty(made.federation.sites)
    assert made.exchange() == -1  # more is to be done, later
    assert made.consortium.size() < 30


@settings(max_examples=4, deadline=None)
@given(steps=st.lists(st.sampled_from("abcx!"), max_size=12))
def test_whatever_was_logged_where_in_the_end_every_site_has_seen_it_all(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    made = witnesses(tmp_path_factory.mktemp("any"), "a", "b", "c")
    for step in steps:
        if step == "x":
            enrol(made)
        elif step == "!":
            made.exchange()
        else:
            pause(made.federation.sites[step])
    made.exchange()
    assert made.cosigners(made.note()) == {"a", "b", "c"}
    for site in "abc":
        shared = steps.count(site)
        proven = made.cosigned(site).proven()
        assert proven == made.consortium.have(site) >= shared
    assert refusals(made) == []
    made.federation.close()


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=40), st.integers(0, 40))
def test_a_tree_that_is_only_its_peaks_grows_like_the_whole(leaves: list[bytes], at: int) -> None:
    peaks = Peaks().plus(leaves[:at]).plus(leaves[at:])
    assert peaks.size == len(leaves)
    assert peaks.root == merkle.root(len(leaves), merkle.nodes_of(leaves))


# ------------------------------------------------------------------ hostile sites


@dataclass
class Hostile(InProcessSites):
    """Site a says what it likes, signed by its own key."""

    change: Callable[[Witness, Witnessed], Witnessed] = lambda question, said: said

    def ask(
        self, heads: Mapping[str, bytes], body: bytes, deadline_s: float
    ) -> Iterator[tuple[str, bytes]]:
        for name, raw in super().ask(heads, body, deadline_s):
            if name != "a":
                yield name, raw
                continue
            header, packed = unseal(raw, self.sites[name].key.public)
            question, said = unpack(body, Witness)[0], unpack(packed, Witnessed)[0]
            changed = self.change(question, said)
            yield name, seal(header, pack(changed), self.sites[name].key)


def signed(site: Site, lines: list[str], have: int = 0) -> dict[str, Any]:
    """Lines with the site's own checkpoint over exactly them."""
    assert have == 0
    root = merkle.root_of(leaf_hash(line) for line in lines)
    head = Checkpoint(names.site_log(COORDINATOR, site.name), len(lines), root)
    return {"events": tuple(lines), "checkpoint": sign_checkpoint(head, site.key).text}


def edited(line: str, **changes: Any) -> str:
    """An event with other values, in canonical form."""
    values = {**json.loads(line), **changes}
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


Change = Callable[[Site, Witness, Witnessed], dict[str, Any]]

HASH = "sha256:" + "0" * 64
FREE = "Jane Doe, born 1971"


def first(changes: Mapping[str, Any]) -> Change:
    """The first event says something else; the rest is in order."""
    return lambda site, question, said: signed(
        site, [edited(said.events[0], **changes), *said.events[1:]]
    )


def document(text: str) -> Change:
    """The self-test is another document, which its event names rightly."""

    def change(site: Site, question: Witness, said: Witnessed) -> dict[str, Any]:
        thing = thing_of("selftest", text.encode()).model_dump(mode="json", exclude_none=True)
        line = edited(said.events[1], obj=[thing])
        lines = [said.events[0], line, *said.events[2:]]
        return {**signed(site, lines), "documents": (("selftest", text),)}

    return change


def of_selftest(**changes: Any) -> str:
    made = Selftest(site="a", level="L0", verdict="passed", words="w", code="0", at="t").model_dump(
        mode="json"
    )
    text = {**made, **changes}
    return json.dumps(text, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


OTHER = SigningKey.generate()
ATTACKS: dict[str, tuple[Change, str]] = {
    "a cosignature by another key": (
        lambda site, question, said: {
            "cosignature": cosign(
                read_note(question.checkpoint, "q").body,
                names.witness(COORDINATOR, "a"),
                OTHER,
                site.now_ms() // 1000,
            ).line
        },
        "witness.cosignature",
    ),
    "a cosignature of another checkpoint": (
        lambda site, question, said: {
            "cosignature": cosign(
                f"{names.consortium_log(COORDINATOR)}\n3\n{'A' * 43}=\n",
                names.witness(COORDINATOR, "a"),
                site.key,
                site.now_ms() // 1000,
            ).line
        },
        "witness.cosignature",
    ),
    "a cosignature of yesterday": (
        lambda site, question, said: {
            "cosignature": cosign(
                read_note(question.checkpoint, "q").body,
                names.witness(COORDINATOR, "a"),
                site.key,
                site.now_ms() // 1000 - 86_400,
            ).line
        },
        "witness.cosignature",
    ),
    "a cosignature in the name of another site": (
        lambda site, question, said: {
            "cosignature": cosign(
                read_note(question.checkpoint, "q").body,
                names.witness(COORDINATOR, "b"),
                site.key,
                site.now_ms() // 1000,
            ).line
        },
        "witness.cosignature",
    ),
    "two lines for one cosignature": (
        lambda site, question, said: {"cosignature": said.cosignature * 2},
        "witness.cosignature",
    ),
    "text before the cosignature": (
        lambda site, question, said: {
            "cosignature": "more\n\n"
            + cosign(
                f"{read_note(question.checkpoint, 'q').body}\nmore\n",
                names.witness(COORDINATOR, "a"),
                site.key,
                site.now_ms() // 1000,
            ).line
        },
        "witness.cosignature",
    ),
    "no cosignature and no word of what was cosigned": (
        lambda site, question, said: {"cosignature": ""},
        "witness.size",
    ),
    "a note of ours that we never signed": (
        lambda site, question, said: {
            "cosignature": "",
            "newer": sign_checkpoint(
                Checkpoint(names.consortium_log(COORDINATOR), 99, b"0" * 32), OTHER
            ).text,
        },
        "witness.newer",
    ),
    "its own checkpoint as one of ours": (
        lambda site, question, said: {"cosignature": "", "newer": said.checkpoint},
        "witness.newer",
    ),
    "another site's event": (
        first({"src": {"org": "b", "node": "b", "seq": 0}}),
        "witness.event",
    ),
    "an event out of its place": (
        first({"src": {"org": "a", "node": "a", "seq": 1}}),
        "witness.event",
    ),
    "a gap": (
        lambda site, question, said: signed(site, list(said.events[1:])),
        "witness.event",
    ),
    "an action that sites do not share": (first({"action": "log.started"}), "witness.event"),
    "an action that there is not": (first({"action": "patient.seen"}), "witness.event"),
    "a person as the actor": (
        first({"actor": {"type": "person", "id": "Jane Doe", "auth": "os-user"}}),
        "witness.event",
    ),
    "a person in the details": (first({"detail": {"by": "Jane Doe"}}), "witness.event"),
    "free text as a dataset": (
        first({"action": "dataset.registered", "detail": {"dataset": FREE}}),
        "witness.event",
    ),
    "free text as a reason": (first({"reason": FREE}), "witness.event"),
    "free text as a study": (first({"study": FREE}), "witness.event"),
    "free text as a run": (first({"run": FREE}), "witness.event"),
    "free text as the type of a thing": (
        first({"obj": [{"t": FREE, "h": HASH}]}),
        "witness.event",
    ),
    "free text as the name of a thing": (
        first({"obj": [{"t": "x", "id": FREE, "h": HASH}]}),
        "witness.event",
    ),
    "free text as a policy": (first({"policy": {"id": FREE, "h": HASH}}), "witness.event"),
    "a thousand things": (first({"obj": [{"t": "x", "h": HASH}] * 1000}), "witness.event"),
    "an event that is not canonical": (
        lambda site, question, said: signed(site, [" " + said.events[0], *said.events[1:]]),
        "witness.event",
    ),
    "no event at all": (
        lambda site, question, said: signed(site, ["{}", *said.events[1:]]),
        "witness.event",
    ),
    "a huge answer": (
        lambda site, question, said: {"documents": (("selftest", "x" * 300_000),)},
        "witness.size",
    ),
    "a document that no event names": (
        lambda site, question, said: {"documents": (*said.documents, ("selftest", "{}"))},
        "witness.document",
    ),
    "a document that is missing": (
        lambda site, question, said: {"documents": ()},
        "witness.document",
    ),
    "a document twice": (
        lambda site, question, said: {"documents": said.documents * 2},
        "witness.document",
    ),
    "a document of another type": (
        lambda site, question, said: {
            "documents": (("ledger.row", said.documents[0][1]), *said.documents[1:])
        },
        "witness.document",
    ),
    "a document with a key of its own": (document(of_selftest(patient=FREE)), "witness.document"),
    "a document that is none": (document("Jane Doe"), "witness.document"),
    "a document that is not canonical": (document(" " + of_selftest()), "witness.document"),
    "a document of another site": (document(of_selftest(site="b")), "witness.document"),
    "a document with a long text": (document(of_selftest(words="x" * 501)), "witness.document"),
    "a document with an unseen text": (document(of_selftest(words="\x1b[2J")), "witness.document"),
    "a large document": (
        document(of_selftest(checks={f"{n}": "x" * 400 for n in range(50)})),
        "witness.document",
    ),
    "an own checkpoint over other events": (
        lambda site, question, said: {
            "checkpoint": signed(site, list(said.events[:1]))["checkpoint"]
        },
        "witness.head",
    ),
    "an own checkpoint by another key": (
        lambda site, question, said: {
            "checkpoint": sign_checkpoint(read_note(said.checkpoint, "head").checkpoint, OTHER).text
        },
        "witness.head",
    ),
    "an own checkpoint of another log": (
        lambda site, question, said: {
            "checkpoint": sign_checkpoint(
                Checkpoint(
                    names.own_log(COORDINATOR, "a"),
                    len(said.events),
                    merkle.root_of(leaf_hash(line) for line in said.events),
                ),
                site.key,
            ).text
        },
        "witness.head",
    ),
    "an own checkpoint that is none": (
        lambda site, question, said: {"checkpoint": FREE},
        "witness.head",
    ),
}


@dataclass(frozen=True)
class Answered:
    """An honest answer of site a: a pause, a self-test, a cosignature; and what was asked."""

    site: Site
    question: Witness
    said: Witnessed
    asked: Asked


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    key = SigningKey.generate()
    site = make_site(tmp_path_factory.mktemp("honest") / "a", "a", key.public)
    pause(site)
    selftest(site)
    log = Checkpoint(names.consortium_log(COORDINATOR), 3, b"3" * 32)
    note = sign_checkpoint(log, key)
    question = Witness(checkpoint=note.text, old_size=0, consistency=(), included=(), have=0)
    said = Asker(key, site).witness(question).message
    asked = Asked("a", site.key.public, COORDINATOR, key.public, note, Peaks(), now_s=0)
    return Answered(site, question, said, replace(asked, now_s=site.now_ms() // 1000))


def test_an_honest_answer_is_taken_whole(honest: Answered) -> None:
    taken = witnessed.check(honest.said, honest.asked)
    assert (len(taken.lines), len(taken.documents), taken.leaves.size) == (3, 1, 3)
    assert taken.cosignature


def test_events_from_before_a_site_changed_its_key_are_taken_by_its_new_keys_word(
    honest: Answered,
) -> None:
    old, new = honest.asked.key, SigningKey.generate()
    head = read_note(honest.said.checkpoint, "head").checkpoint
    seconds = honest.asked.now_s
    signed = {
        "checkpoint": sign_checkpoint(head, new).text,
        "cosignature": cosign(
            honest.asked.note.body, names.witness(COORDINATOR, "a"), new, seconds
        ).line,
    }
    said, asked = honest.said.model_copy(update=signed), replace(honest.asked, key=new.public)
    with pytest.raises(Untrue, match="actor"):
        witnessed.check(said, asked)
    assert len(witnessed.check(said, replace(asked, former=(old,))).lines) == 3


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_of_a_hostile_sites_answer_is_taken(honest: Answered, attack: str) -> None:
    change, rule = ATTACKS[attack]
    said = honest.said.model_copy(update=change(honest.site, honest.question, honest.said))
    with pytest.raises(Untrue) as caught:
        witnessed.check(said, honest.asked)
    assert caught.value.rule == rule
    assert "Jane" not in str(caught.value)


@pytest.mark.parametrize(
    "attack",
    ["a cosignature by another key", "a person in the details", "a document that is missing"],
)
def test_a_hostile_site_is_recorded_once_an_hour_and_holds_up_nobody(
    made: Witnesses, attack: str
) -> None:
    change, rule = ATTACKS[attack]
    site = made.federation.sites["a"]
    pause(site)
    selftest(site)

    def changed(question: Witness, said: Witnessed) -> Witnessed:
        return said.model_copy(update=change(site, question, said))

    made.sites = Hostile(made.federation.sites, change=changed)
    made.exchange()
    assert refusals(made) == [("round.refused", rule, "a")]
    assert made.cosigners(made.note()) == {"b"}
    assert made.consortium.have("a") == 0
    assert made.consortium.site_heads().keys() == {"b"}
    made.elapsed_s += timeouts.WITNESS_AGAIN_S[0]
    size = made.consortium.size()
    made.exchange()
    assert made.consortium.size() == size
    made.sites = made.federation.transport
    made.elapsed_s += timeouts.WITNESS_AGAIN_S[1]
    made.exchange()
    assert made.cosigners(made.note()) == {"a", "b"}


def test_a_site_that_does_not_answer_is_left_alone_and_asked_again_later(made: Witnesses) -> None:
    made.sites = InProcessSites({"b": made.federation.sites["b"]})
    made.witnessing._talk = made._talk
    timeouts_s = timeouts.WITNESS_S
    try:
        timeouts.WITNESS_S = 0.1
        made.witnessing.look()
        assert made.cosigners(made.note()) == {"b"}
        made.sites = made.federation.transport
        made.elapsed_s += 1.0
        made.witnessing.look()
        assert made.cosigners(made.note()) == {"b"}
        made.elapsed_s += timeouts.WITNESS_AGAIN_S[0]
        made.witnessing.look()
        assert made.cosigners(made.note()) == {"a", "b"}
    finally:
        timeouts.WITNESS_S = timeouts_s


def test_a_site_that_found_two_histories_is_recorded_by_its_rule(made: Witnesses) -> None:
    made.exchange()
    site, log = made.federation.sites["a"], names.consortium_log(COORDINATOR)
    notes = [
        sign_checkpoint(Checkpoint(log, 1, bytes([n]) * 32), made.federation.key) for n in (0, 1)
    ]
    equivocation.keep(site, equivocation.TwoHistories(*notes))
    enrol(made)
    made.exchange()
    assert refusals(made) == [("round.refused", "log.equivocation", "a")]
    assert made.cosigners(made.note()) == {"b"}


# ------------------------------------------------------------------ an old backup


def backup(made: Witnesses, place: Path) -> Path:
    """The coordinator's database as it is now."""
    copy = place / "backup.db"
    shutil.copy(made.consortium.database.path, copy)
    return copy


def restore(made: Witnesses, copy: Path) -> Witnesses:
    """The same consortium with the coordinator's database from a backup."""
    old = made.federation
    database = open_coordinator_database(copy)
    log = EventLog(database, COORDINATOR, COORDINATOR, lambda: made_clock(old))
    again = Federation(old.root, old.key, old.sites, Store(database), log, old.transport)
    consortium = Consortium(database, old.key, COORDINATOR)
    found = Witnesses(again, again.transport, consortium, now_ms=made.now_ms)
    enrol(found, "as after a start")
    return found


def made_clock(federation: Federation) -> Any:
    return next(iter(federation.sites.values())).clock()


@pytest.fixture
def lost(made: Witnesses, tmp_path: Path) -> Witnesses:
    """A coordinator whose last events, seen by both sites, are gone."""
    made.exchange()
    copy = backup(made, tmp_path)
    for name in "defg":
        enrol(made, name)
    for site in made.federation.sites.values():
        pause(site)
    made.exchange()
    made.federation.store.database.close()
    return restore(made, copy)


def recovered(made: Witnesses) -> int:
    actor, person = os_user(), "Dr. Lead"
    event = recovery.recover(made.consortium, made.federation.log, actor, person, made.now_ms())
    return int(event.detail["size"])


def test_an_old_backup_is_found_out_before_another_history_is_signed(lost: Witnesses) -> None:
    lost.exchange()
    seen = recovery.behind(lost.consortium.database)
    assert seen.keys() == {"a", "b"}
    with pytest.raises(LogBehind, match=r"log\.behind: .* is an old backup: .* recover-log"):
        enrol(lost)
    for site in lost.federation.sites.values():
        assert equivocation.standing(site.directory) is None
    assert lost.consortium.have("a") == 0  # nothing is taken either
    before = asked(lost)
    lost.exchange()
    assert asked(lost) == before


def test_an_old_backup_that_has_grown_to_the_size_that_was_seen_is_found_out_too(
    made: Witnesses, tmp_path: Path
) -> None:
    made.exchange()
    copy = backup(made, tmp_path)
    enrol(made)
    made.exchange()
    size = made.consortium.size()
    made.federation.store.database.close()
    again = restore(made, copy)
    assert again.consortium.size() == size
    again.exchange()
    assert recovery.behind(again.consortium.database).keys() == {"a", "b"}
    for site in again.federation.sites.values():
        assert equivocation.standing(site.directory) is None


def test_events_that_sites_saw_after_what_is_in_common_are_proven_anew(
    made: Witnesses, tmp_path: Path
) -> None:
    made.exchange()
    for site in made.federation.sites.values():
        pause(site)
    made.exchange()
    copy = backup(made, tmp_path)
    with closing(sqlite3.connect(copy)) as older, older:  # made before the last of these came
        older.execute("DELETE FROM cosignatures WHERE size > (SELECT min(size) FROM notes)")
    for name in "de":
        enrol(made, name)
    made.exchange()
    for site in made.federation.sites.values():
        selftest(site)  # what nobody has seen yet
    made.federation.store.database.close()
    lost = restore(made, copy)
    lost.exchange()
    assert recovery.behind(lost.consortium.database).keys() == {"a", "b"}
    recovered(lost)
    lost.exchange()
    assert lost.cosigners(lost.note()) == {"a", "b"}
    assert refusals(lost) == []
    for name in "ab":
        assert lost.cosigned(name).proven() == lost.consortium.have(name)


def test_a_log_begun_anew_names_what_was_lost_and_all_sites_go_on_with_it(
    lost: Witnesses,
) -> None:
    lost.exchange()
    heads = {site: lost.cosigned(site).last() for site in "ab"}
    first = lost.consortium.size()
    assert recovered(lost) == 10
    assert recovery.behind(lost.consortium.database) == {}
    lost.exchange()
    assert lost.consortium.origin == names.consortium_log(COORDINATOR, 2)
    assert lost.cosigners(lost.note()) == {"a", "b"}
    assert refusals(lost) == []
    event = read_event(next(lost.consortium.logged(first)).line, "first")
    assert event.action == "log.recovered"
    assert [thing.id for thing in event.obj] == ["a", "b"]
    for site, head in heads.items():
        assert head is not None
        rows = lost.federation.sites[site].database.execute("SELECT ours FROM equivocations")
        assert rows[0]["ours"] == head.text  # the evidence of what was lost stays at the site
        said = [
            e
            for e in (read_event(logged.line, "event") for logged in lost.consortium.logged())
            if e.action == "log.recovered" and e.src.node == site
        ]
        assert said[0].detail["size"] == "10"  # and in the log that was begun anew
        assert lost.cosigned(site).proven() == lost.consortium.have(site)
        pauses = [
            e
            for e in (read_event(logged.line, "event") for logged in lost.consortium.logged())
            if e.action == "run.paused" and e.src.node == site
        ]
        assert len(pauses) == 1  # what a site shared is handed over again: none of it is lost
    lost.witnessing = lost.begin()
    enrol(lost)
    lost.exchange()
    assert lost.cosigners(lost.note()) == {"a", "b"}


def test_a_site_that_was_away_when_the_log_was_begun_anew_goes_on_with_it(
    lost: Witnesses,
) -> None:
    lost.offline = {"b"}
    lost.exchange()
    recovered(lost)
    lost.exchange()
    assert lost.cosigners(lost.note()) == {"a"}
    lost.offline = set()
    lost.exchange()
    assert lost.cosigners(lost.note()) == {"a", "b"}
    assert recovery.behind(lost.consortium.database) == {}


def test_a_site_that_saw_more_than_was_named_as_lost_stops_the_log_again(
    made: Witnesses, tmp_path: Path
) -> None:
    made.exchange()
    copy = backup(made, tmp_path)
    for name in "defg":
        enrol(made, name)
    made.exchange()
    made.offline = {"a"}
    enrol(made)
    made.exchange()
    made.federation.store.database.close()
    again = restore(made, copy)
    again.offline = {"b"}
    again.exchange()
    smaller = recovered(again)
    again.exchange()
    again.offline = set()
    again.exchange()
    assert recovery.behind(again.consortium.database).keys() == {"b"}
    with pytest.raises(LogBehind):
        enrol(again)
    assert recovered(again) > smaller
    again.exchange()
    assert again.consortium.origin == names.consortium_log(COORDINATOR, 3)
    assert again.cosigners(again.note()) == {"a", "b"}


def test_a_log_that_went_on_after_the_backup_to_a_size_that_was_seen_is_no_second_history(
    made: Witnesses, tmp_path: Path
) -> None:
    made.exchange()
    copy = backup(made, tmp_path)
    for name in "defg":
        enrol(made, name)
        made.exchange()  # a checkpoint of each size is cosigned
    made.federation.store.database.close()
    again = restore(made, copy)
    enrol(again)
    again.exchange()
    recovered(again)
    again.exchange()
    assert again.cosigners(again.note()) == {"a", "b"}
    for site in again.federation.sites.values():
        assert equivocation.standing(site.directory) is None


def test_a_whole_log_is_not_begun_anew(made: Witnesses) -> None:
    made.exchange()
    with pytest.raises(UsageError):
        recovered(made)
    assert made.consortium.number == 1


def test_a_hostile_site_cannot_stop_the_log_with_a_note_that_was_true(made: Witnesses) -> None:
    made.exchange()
    old = made.cosigned("a").last()
    assert old is not None
    enrol(made)

    def older(question: Witness, said: Witnessed) -> Witnessed:
        return said.model_copy(
            update={"cosignature": "", "newer": old.text, "size": old.checkpoint.size}
        )

    made.sites = Hostile(made.federation.sites, change=older)
    made.exchange()
    assert recovery.behind(made.consortium.database) == {}
    assert refusals(made) == [("round.refused", "witness.size", "a")]


def test_policies_name_the_keys_that_the_cosignatures_hold_by(made: Witnesses) -> None:
    made.exchange()
    whole = made.consortium.policy(made.peers)
    keys = [NoteKey.parse(line.split()[-1]) for line in whole.splitlines() if "+" in line]
    note = made.note()
    assert sum(key.type == WITNESS_KEY and note.cosigned_at(key) is not None for key in keys) == 2
    assert sum(key.type == LOG_KEY and note.signed_by(key) for key in keys) == 1
    own = SiteParty(made.federation.sites["a"]).policy().splitlines()
    assert {line for line in own if "+" in line} < set(whole.splitlines())


def test_nothing_is_released_or_submitted_while_the_log_is_behind(lost: Witnesses) -> None:
    lost.exchange()
    before = list(lost.consortium.database.execute("SELECT seq FROM events"))
    with pytest.raises(LogBehind):
        forget_heads(lost)
    assert lost.consortium.site_heads() != {}
    assert lost.consortium.database.execute("SELECT seq FROM events") == before
    assert not issubclass(LogBehind, RefusedError)


def test_a_study_waits_and_says_why_while_the_log_is_behind(
    lost: Witnesses, tmp_path: Path
) -> None:
    lost.exchange()
    study = write_study(tmp_path, PLAIN)
    lost.federation.store.submit(study, 0)
    here = daemon_of(lost, tmp_path)
    before = asked(lost)
    start_studies(here)
    here.stop.set()
    here.threads[study.digest].join(20.0)
    row = lost.federation.store.study(study.digest)
    assert not row.ended
    assert row.progress.startswith("waits: log.behind: ")
    assert asked(lost) == before


def daemon_of(made: Witnesses, root: Path) -> Coordinator:
    """The parts of a daemon whose SuperLink was never started."""
    federation, tls = made.federation, TlsFiles(root, root, root)
    config = CoordinatorConfig(name=COORDINATOR, host="localhost")
    return Coordinator(
        directory=CoordinatorDir(root),
        config=config,
        key=federation.key,
        database=federation.store.database,
        log=federation.log,
        roster=Roster(federation.store.database, federation.log),
        store=federation.store,
        superlink=SuperLink(root, tls, "127.0.0.1", 1, root / "log"),
        evidence=Evidence(config=config, tls="", ca_fingerprint=""),
    )


def forget_heads(made: Witnesses) -> None:
    """Something that is recorded in the same transaction."""
    with made.consortium.database.transaction():
        made.consortium.database.execute("DELETE FROM site_heads")
        enrol(made)
