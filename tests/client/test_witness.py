"""What a coordinator could try at a site that witnesses its log."""

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from tests.asking import Asker, Heard
from tests.federation import COORDINATOR, FULL, approve, clock, make_site, write_study

from cohortium.client import equivocation, halt
from cohortium.client.cosigned import Cosigned
from cohortium.client.doctor import examine
from cohortium.client.egress import MAX_FIELD_BYTES
from cohortium.client.site import Site, open_site
from cohortium.client.withheld import record, withheld
from cohortium.client.witness_cli import alarms
from cohortium.common.audit import merkle, names
from cohortium.common.audit.events import read_event
from cohortium.common.audit.notes import (
    Checkpoint,
    Note,
    cosign,
    log_key,
    read_note,
    sign_checkpoint,
    witness_key,
)
from cohortium.common.errors import UsageError
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Proven, Recovery, Witness, Witnessed
from cohortium.common.privacy.selftest import Selftest
from cohortium.common.study import Study


def leaf(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@dataclass
class Log:
    """A coordinator's log in memory, told as its keeper likes; `site` puts in what it is given."""

    asker: Asker
    leaves: list[bytes] = field(default_factory=lambda: [leaf(f"event {n}") for n in range(5)])
    origin: str = names.consortium_log(COORDINATOR)
    have: int = 0
    head: str = ""

    def note(self, size: int | None = None) -> Note:
        size = len(self.leaves) if size is None else size
        root = merkle.root_of(self.leaves[:size])
        return sign_checkpoint(Checkpoint(self.origin, size, root), self.asker.key)

    def question(self, old: int, size: int | None = None, **changes: object) -> Witness:
        size = len(self.leaves) if size is None else size
        nodes = merkle.nodes_of(self.leaves)
        proof = merkle.consistency(old, size, nodes) if old <= size else ()
        values = {
            "checkpoint": self.note(size).text,
            "old_size": old,
            "consistency": tuple(step.hex() for step in proof),
            "included": (),
            "have": self.have,
            "head": self.head,
        }
        return Witness(**{**values, **changes})  # type: ignore[arg-type]

    def ask(self, old: int, size: int | None = None, **changes: object) -> Heard:
        return self.asker.witness(self.question(old, size, **changes))

    def grow(self, *texts: str) -> None:
        self.leaves += [leaf(text) for text in texts]

    def take(self, said: Witnessed) -> list[Proven]:
        """Log what a site handed over; where each of its events is now."""
        start = len(self.leaves)
        self.leaves += [read_event(line, "event").leaf for line in said.events]
        self.have, self.head = self.have + len(said.events), said.checkpoint
        nodes, size = merkle.nodes_of(self.leaves), len(self.leaves)
        return [
            Proven(
                seq=read_event(line, "event").src.seq,
                index=start + n,
                path=tuple(s.hex() for s in merkle.inclusion(start + n, size, nodes)),
            )
            for n, line in enumerate(said.events)
        ]


@pytest.fixture
def asker(tmp_path: Path) -> Asker:
    key = SigningKey.generate()
    return Asker(key, make_site(tmp_path / "a", "a", key.public))


@pytest.fixture
def log(asker: Asker) -> Log:
    return Log(asker)


@pytest.fixture
def seen(log: Log) -> Log:
    """A log of five events that the site has cosigned."""
    assert log.ask(0).message.cosignature
    return log


def last(site: Site) -> Note:
    found = Cosigned(site.database).last()
    assert found is not None
    return found


def cosigned_at(heard: Heard, note: Note, site: Site) -> int | None:
    """When a site cosigned, by its key alone."""
    line = read_note(f"{note.body}\n{heard.message.cosignature}", "answer")
    return line.cosigned_at(witness_key(names.witness(COORDINATOR, site.name), site.key.public))


# ------------------------------------------------------------------ a log that grew


def test_a_log_that_only_grew_is_cosigned_each_time_and_noted(log: Log) -> None:
    site = log.asker.site
    for old in (0, 5, 6, 13):
        if old:
            log.grow(*(f"{old} {n}" for n in range({5: 1, 6: 7, 13: 30}[old])))
        heard = log.ask(old)
        assert cosigned_at(heard, log.note(), site) == pytest.approx(clock().timestamp(), abs=5)
        assert (heard.message.size, heard.message.newer) == (len(log.leaves), "")
        assert last(site).checkpoint == log.note().checkpoint
        assert last(site).signed_by(log_key(log.origin, log.asker.key.public))
    assert len(site.database.execute("SELECT * FROM cosigned")) == 4


def test_the_same_checkpoint_again_is_cosigned_again(seen: Log) -> None:
    assert seen.ask(0).message.cosignature
    assert seen.ask(5).message.cosignature


def test_another_old_size_than_ours_gets_our_size_and_note_and_no_cosignature(seen: Log) -> None:
    before = last(seen.asker.site)
    seen.grow("six", "seven")
    for old in (0, 4, 6):
        said = seen.ask(old).message
        assert (said.cosignature, said.size, said.newer) == ("", 5, before.text)
    assert last(seen.asker.site) == before
    assert seen.ask(5).message.cosignature


def test_a_checkpoint_of_nothing_asks_only_what_was_cosigned(seen: Log, tmp_path: Path) -> None:
    said = seen.ask(0, 0).message
    assert (said.cosignature, said.size) == ("", 5)
    assert said.newer == last(seen.asker.site).text
    other = make_site(tmp_path / "b", "b", seen.asker.key.public)
    said = Log(Asker(seen.asker.key, other)).ask(0, 0).message
    assert (said.cosignature, said.size, said.newer) == ("", 0, "")


def test_a_coordinator_restored_from_a_backup_is_shown_the_newer_note(seen: Log) -> None:
    seen.grow("six", "seven")
    assert seen.ask(5).message.cosignature
    del seen.leaves[6:]
    said = seen.ask(5).message
    assert (said.cosignature, said.size) == ("", 7)
    assert said.newer == last(seen.asker.site).text
    assert equivocation.standing(seen.asker.site.directory) is None


def test_a_site_killed_between_noting_and_answering_goes_on(seen: Log) -> None:
    seen.grow("six")
    site = seen.asker.site
    request = site.directory.root / "request"
    heard: list[bytes] = []

    class Sent(Asker):
        def deliver(self, raw: bytes) -> Heard:
            heard.append(raw)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Log(Sent(seen.asker.key, site), seen.leaves).ask(5)
    request.write_bytes(heard[0])
    script = (
        "import os, signal, sys; from pathlib import Path; "
        "from cohortium.client import rounds, witness; "
        "from cohortium.client.site import open_site; "
        "witness._anchor = lambda site: os.kill(os.getpid(), signal.SIGKILL); "
        "rounds.answer(Path(sys.argv[2]).read_bytes(), open_site(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", script, str(site.directory.root), str(request)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert last(site).checkpoint.size == 6
    assert seen.ask(5).message.cosignature  # the same is asked again
    seen.grow("seven")
    assert seen.ask(5).message.size == 6
    assert seen.ask(6).message.cosignature


# ------------------------------------------------------------------ who asks, and what


@pytest.mark.parametrize(
    ("origin", "mine", "rule"),
    [
        ("elsewhere.cohortium/log", True, "protocol"),
        (names.site_log(COORDINATOR, "a"), True, "protocol"),
        (names.consortium_log(COORDINATOR) + "1", True, "protocol"),
        (names.consortium_log(COORDINATOR) + "02", True, "protocol"),
        (names.consortium_log(COORDINATOR), False, "protocol"),
    ],
)
def test_a_checkpoint_of_another_log_or_another_key_is_not_cosigned(
    log: Log, origin: str, mine: bool, rule: str
) -> None:
    key = log.asker.key if mine else SigningKey.generate()
    made = Checkpoint(origin, 5, merkle.root_of(log.leaves))
    heard = log.ask(0, checkpoint=sign_checkpoint(made, key).text)
    assert heard.rule == rule
    assert Cosigned(log.asker.site.database).last() is None


@pytest.mark.parametrize("text", ["", "consortium.cohortium/log\n5\n", "x" * 1000])
def test_what_is_no_checkpoint_is_refused(log: Log, text: str) -> None:
    assert log.ask(0, checkpoint=text).rule in ("protocol", "site.cannot")
    assert Cosigned(log.asker.site.database).last() is None


@pytest.mark.parametrize("changes", [{"study": "0" * 64}, {"round": 1}])
def test_a_log_of_some_study_or_round_is_refused(log: Log, changes: dict[str, object]) -> None:
    assert log.asker.witness(log.question(0), **changes).rule == "protocol"


def test_a_site_that_paused_or_lacks_a_study_is_a_witness_all_the_same(log: Log) -> None:
    halt.pause(log.asker.site, "Dr. Weiss")
    assert log.ask(0).message.cosignature
    assert log.asker.site.database.execute("SELECT * FROM replies") == []


# ------------------------------------------------------------------ two histories


def stands(site: Site) -> bool:
    return equivocation.standing(site.directory) is not None


def test_two_roots_of_one_size_are_kept_both_and_stop_the_site(seen: Log) -> None:
    site, ours = seen.asker.site, last(seen.asker.site)
    seen.leaves[2] = leaf("another")
    assert seen.ask(5).rule == "log.equivocation"
    assert stands(site)
    (row,) = site.database.execute("SELECT ours, theirs FROM equivocations")
    notes = [read_note(row[name], "kept") for name in ("ours", "theirs")]
    assert notes[0] == ours
    assert notes[1].checkpoint == seen.note().checkpoint
    for note in notes:  # anybody can see that one key signed both
        assert note.signed_by(log_key(seen.origin, seen.asker.key.public))
    assert [e.action for e in site.log.events()][-2:] == ["log.equivocation", "round.refused"]
    assert last(site) == ours


def test_a_history_rewritten_and_signed_again_is_not_cosigned(seen: Log) -> None:
    seen.leaves[1] = leaf("rewritten")
    seen.grow("six", "seven")
    assert seen.ask(5).rule == "log.equivocation"
    assert stands(seen.asker.site)


@pytest.mark.parametrize("proof", [(), ("00" * 32,), ("00" * 32,) * 3])
def test_a_forged_proof_that_the_log_only_grew_is_two_histories(
    seen: Log, proof: tuple[str, ...]
) -> None:
    seen.grow("six", "seven")
    assert seen.ask(5, consistency=proof).rule == "log.equivocation"


def test_an_older_checkpoint_with_another_root_is_two_histories(seen: Log) -> None:
    seen.grow("six")
    assert seen.ask(5).message.cosignature
    seen.leaves[0] = leaf("another")
    assert seen.ask(0, 5).rule == "log.equivocation"


def test_two_views_to_two_sites_are_found_by_what_the_other_cosigned(
    seen: Log, tmp_path: Path
) -> None:
    other = make_site(tmp_path / "b", "b", seen.asker.key.public)
    view = Log(Asker(seen.asker.key, other), [*seen.leaves[:4], leaf("only b sees this")])
    assert view.ask(0).message.cosignature
    seen.grow("six")
    told = last(other).text
    assert seen.ask(5, cosigned=told).rule == "log.equivocation"
    (row,) = seen.asker.site.database.execute("SELECT ours, theirs FROM equivocations")
    assert row["theirs"] == told  # b's cosignature with it


def test_nothing_is_trained_or_evaluated_after_two_histories_until_a_person_lifts_it(
    seen: Log, tmp_path: Path
) -> None:
    study: Study = write_study(tmp_path, FULL)
    asker, site = seen.asker, seen.asker.site
    approve(site, study)
    assert asker.invite(study).message.decision == "approved"
    assert asker.train(study, 1).rule == ""
    ours = list(seen.leaves)
    seen.leaves[2] = leaf("another")
    assert seen.ask(5).rule == "log.equivocation"
    again = Asker(asker.key, open_site(site.directory.root))  # as after a restart
    assert again.train(study, 2).rule == "log.equivocation"
    assert again.train(study, 1).rule == "log.equivocation"  # the stored reply neither
    assert again.evaluate(study, 1).rule == "log.equivocation"
    seen.leaves = ours
    assert seen.ask(5).rule == "log.equivocation"  # the first history neither
    (loud,) = alarms(site.directory)
    assert "two histories" in loud
    found = {f.check: f.verdict for f in examine(site.directory.root)}
    assert found["log.equivocation"] == "fail"
    event = equivocation.lift(site, "Dr. Weiss", "a test of theirs, they showed us")
    (lifted,) = [e for e in site.log.events() if e.id == event]
    assert lifted.reason == "equivocation lifted: a test of theirs, they showed us"
    assert lifted.detail["person"] == "Dr. Weiss"
    assert again.train(study, 2).rule == ""
    assert seen.ask(5).message.cosignature
    assert alarms(site.directory) == []
    assert len(site.database.execute("SELECT * FROM equivocations")) == 1
    with pytest.raises(UsageError):
        equivocation.lift(site, "Dr. Weiss", "again")


def test_a_file_of_two_histories_that_cannot_be_read_says_no_all_the_same(seen: Log) -> None:
    site = seen.asker.site
    site.directory.equivocation.write_text("{")
    assert stands(site)
    assert seen.ask(5).rule == "log.equivocation"


# ------------------------------------------------------------------ what others cosigned


def test_others_cosignatures_are_kept_whether_their_keys_are_known_or_not(seen: Log) -> None:
    note, stranger = seen.note(), SigningKey.generate()
    theirs = cosign(note.body, names.witness(COORDINATOR, "b"), stranger, 1_800_000_000)
    assert seen.ask(5, cosigned=note.with_([theirs]).text).message.cosignature
    kept = last(seen.asker.site)
    assert theirs in kept.signatures
    assert len(kept.signatures) == 3


def test_a_checkpoint_that_was_never_cosigned_here_is_not_kept(seen: Log) -> None:
    before = last(seen.asker.site)
    assert seen.ask(5, cosigned=seen.note(4).text).message.cosignature
    assert last(seen.asker.site) == before
    assert len(seen.asker.site.database.execute("SELECT * FROM cosigned")) == 1


# ------------------------------------------------------------------ what is handed over


def pause(site: Site, times: int = 1) -> None:
    for _ in range(times):
        site.log.append("run.paused", actor=site.actor, detail={"by": "Dr. Weiss"})


def test_what_is_new_is_handed_over_once_with_the_head_of_the_whole_log_last(log: Log) -> None:
    site = log.asker.site
    pause(site, 2)
    said = log.ask(0).message
    events = [read_event(line, "event") for line in said.events]
    assert [e.action for e in events] == ["run.paused", "run.paused", "log.checkpoint"]
    assert [e.src.seq for e in events] == [0, 1, 2]
    assert "Weiss" not in "".join(said.events)
    whole = [event.leaf for event in site.log.events()]
    assert events[-1].detail == {"size": "2", "root": merkle.root_of(whole).hex()}
    head = read_note(said.checkpoint, "head")
    assert head.signed_by(log_key(names.site_log(COORDINATOR, "a"), site.key.public))
    assert head.checkpoint.root == merkle.root_of(event.leaf for event in events)
    log.have, log.head = 3, said.checkpoint
    assert log.ask(0).message.events == ()  # it grew by its own head no more
    assert "log.checkpoint" not in [event.action for event in site.log.events()]
    pause(site)
    assert len(log.ask(5).message.events) == 2


def test_more_than_one_answer_holds_is_handed_over_in_several(log: Log) -> None:
    site = log.asker.site
    with site.database.transaction():
        for number in range(150):
            document = Selftest(
                site="a", level="L0", verdict="passed", words=f"{number}", code="0", at=""
            )
            thing = site.documents.keep("selftest", document)
            site.log.append("privacy.selftest", actor=site.actor, obj=(thing,))
    asks = 0
    while (said := log.ask(len(log.leaves) if asks else 0, 5)).message.events:
        assert len(said.body) < MAX_FIELD_BYTES
        named = {thing.h for line in said.message.events for thing in read_event(line, "").obj}
        given = {
            "sha256:" + hashlib.sha256(text.encode()).hexdigest()
            for _, text in said.message.documents
        }
        assert given == named
        log.have += len(said.message.events)
        log.head = said.message.checkpoint
        asks += 1
    assert log.have == 151
    assert asks > 1


def test_a_coordinator_that_holds_more_of_us_than_there_is_is_told_of_our_old_backup(
    log: Log,
) -> None:
    log.have = 1
    heard = log.ask(0)
    assert heard.rule == "log.behind"
    assert Cosigned(log.asker.site.database).last() is None


# ------------------------------------------------------------------ our own events


def test_our_own_events_are_seen_in_the_log_and_remembered(log: Log) -> None:
    site = log.asker.site
    pause(site, 3)
    proofs = log.take(log.ask(0).message)
    said = log.ask(5, included=tuple(proofs)).message
    assert (bool(said.cosignature), said.proven) == (True, 4)
    rows = site.database.execute("SELECT seq, position, size FROM included ORDER BY seq")
    assert [tuple(row) for row in rows] == [(0, 5, 9), (1, 6, 9), (2, 7, 9), (3, 8, 9)]
    assert log.ask(9, included=tuple(proofs)).message.proven == 4  # shown twice is once


@pytest.mark.parametrize("wrong", ["path", "index", "passed over", "not ours"])
def test_a_wrong_proof_about_our_own_events_gets_no_cosignature(log: Log, wrong: str) -> None:
    site = log.asker.site
    pause(site, 3)
    proofs = log.take(log.ask(0).message)
    changed = {
        "path": [proofs[0].model_copy(update={"path": proofs[1].path}), *proofs[1:]],
        "index": [proofs[0].model_copy(update={"index": 0}), *proofs[1:]],
        "passed over": proofs[1:],
        "not ours": [*proofs, proofs[-1].model_copy(update={"seq": 4})],
    }[wrong]
    assert log.ask(5, included=tuple(changed)).rule == "witness.inclusion"
    assert last(site).checkpoint.size == 5
    assert Cosigned(site.database).proven() == 0


def test_our_own_events_in_another_order_get_no_cosignature(log: Log) -> None:
    site = log.asker.site
    pause(site, 1)
    said = log.ask(0).message
    log.take(said.model_copy(update={"events": said.events[::-1]}))
    nodes, size = merkle.nodes_of(log.leaves), len(log.leaves)
    proofs = tuple(
        Proven(seq=seq, index=at, path=tuple(s.hex() for s in merkle.inclusion(at, size, nodes)))
        for seq, at in ((0, 6), (1, 5))
    )
    assert log.ask(5, included=proofs).rule == "witness.inclusion"


def test_an_event_withheld_for_an_hour_is_an_alarm_once(log: Log) -> None:
    site = log.asker.site
    pause(site, 2)
    first, second, _ = log.take(log.ask(0).message)
    del second
    log.grow("later")
    nodes, size = merkle.nodes_of(log.leaves), len(log.leaves)
    path = tuple(s.hex() for s in merkle.inclusion(first.index, size, nodes))
    assert log.ask(5, included=(first.model_copy(update={"path": path}),)).message.proven == 1
    assert withheld(site.database, clock() + timedelta(minutes=59)) is None
    found = withheld(site.database, clock() + timedelta(minutes=61))
    assert found is not None
    assert (found.first, found.last) == (1, 2)
    late = open_site(site.directory.root, lambda: clock() + timedelta(hours=2))
    recorded = record(late, -1)
    assert recorded == 1
    assert record(late, recorded) == 1
    (event,) = [e for e in site.log.events() if e.action == "log.behind"]
    assert (event.detail["first"], event.detail["last"]) == ("1", "2")
    findings = list(examine(site.directory.root, lambda: clock() + timedelta(hours=2)))
    (said,) = [f for f in findings if f.check == "witness"]
    assert said.verdict == "warning"
    assert "events 1 to" in said.said


# ------------------------------------------------------------------ a log begun anew


def begin_anew(log: Log, kept: int, head: Note, **changes: str) -> Recovery:
    """Let a log go on under the next name with its first `kept` events, as an event says."""
    del log.leaves[kept:]
    changes.setdefault("first", str(kept))
    log.origin = names.consortium_log(COORDINATOR, 2)
    seen = head.checkpoint
    detail = {"origin": log.origin, "size": str(seen.size), "root": seen.root.hex(), **changes}
    line = log.asker.site.log.append(
        "log.recovered", actor=log.asker.site.actor, detail=detail
    ).line.replace('"node":"a"', f'"node":"{COORDINATOR}"')
    log.leaves.append(read_event(line, "event").leaf)
    return Recovery(line=line, index=kept, path=(), head=head.text)


def shown(log: Log, recovery: Recovery) -> Recovery:
    nodes, size = merkle.nodes_of(log.leaves), len(log.leaves)
    path = merkle.inclusion(recovery.index, size, nodes)
    return recovery.model_copy(update={"path": tuple(step.hex() for step in path)})


@pytest.fixture
def grown(seen: Log) -> Log:
    """A log of eight events, cosigned at five and at eight."""
    seen.grow("six", "seven", "eight")
    assert seen.ask(5).message.cosignature
    return seen


def test_a_log_under_a_new_name_is_refused_without_a_word_why(grown: Log) -> None:
    begin_anew(grown, 6, grown.note())
    assert grown.ask(5).rule == "log.recovered"


def test_a_log_begun_anew_after_a_loss_is_cosigned_and_the_old_head_kept(grown: Log) -> None:
    site, old = grown.asker.site, last(grown.asker.site)
    recovery = begin_anew(grown, 6, old)
    grown.grow("new")
    said = grown.ask(8, recovery=shown(grown, recovery)).message
    assert (said.cosignature, said.size) == ("", 5)  # of what is still there, that was cosigned
    assert grown.ask(5, recovery=shown(grown, recovery)).message.cosignature
    assert last(site).checkpoint == grown.note().checkpoint
    (row,) = site.database.execute("SELECT ours FROM equivocations")
    assert row["ours"] == old.text
    assert not stands(site)
    *_, event = [e for e in site.log.events() if e.action == "log.recovered"]
    assert event.detail == {"origin": grown.origin, "size": "8", "root": old.checkpoint.root.hex()}
    grown.grow("newer", "still")
    assert grown.ask(8, recovery=shown(grown, recovery)).message.cosignature


def test_a_log_begun_anew_that_changed_what_was_cosigned_before_is_two_histories(
    grown: Log,
) -> None:
    grown.leaves[3] = leaf("rewritten")
    recovery = begin_anew(grown, 6, last(grown.asker.site))
    assert grown.ask(5, recovery=shown(grown, recovery)).rule == "log.equivocation"


def test_a_log_begun_anew_may_differ_from_where_it_says_that_it_does(grown: Log) -> None:
    """A restored coordinator logs a little before it finds out."""
    site, old = grown.asker.site, last(grown.asker.site)
    grown.leaves[3:] = [leaf("after the backup"), leaf("and more"), leaf("still")]
    recovery = begin_anew(grown, 6, old, first="3")
    said = grown.ask(5, recovery=shown(grown, recovery)).message
    assert (said.cosignature, said.size, said.newer) == ("", 0, old.text)
    assert grown.ask(0, recovery=shown(grown, recovery)).message.cosignature
    assert last(site).checkpoint == grown.note().checkpoint
    assert not stands(site)


def test_a_log_begun_anew_that_kept_all_that_we_saw_is_the_old_one_under_another_name(
    grown: Log,
) -> None:
    site = grown.asker.site
    grown.grow("only others saw this")
    recovery = begin_anew(grown, 9, grown.note(), first="5")
    assert grown.ask(8, recovery=shown(grown, recovery)).message.cosignature
    assert site.database.execute("SELECT * FROM equivocations") == []
    assert Cosigned(site.database).at(8) is not None


def test_a_loss_said_smaller_than_what_we_saw_is_answered_with_our_note(grown: Log) -> None:
    note = grown.note(7)
    recovery = begin_anew(grown, 6, note)
    said = grown.ask(5, recovery=shown(grown, recovery)).message
    assert (said.cosignature, said.newer) == ("", last(grown.asker.site).text)


def test_another_head_of_the_size_that_we_saw_is_two_histories(grown: Log) -> None:
    other = Log(grown.asker, [*grown.leaves[:7], leaf("other")]).note()
    recovery = begin_anew(grown, 6, other)
    assert grown.ask(5, recovery=shown(grown, recovery)).rule == "log.equivocation"


@pytest.mark.parametrize(
    "changes", [{"size": "9"}, {"root": "00" * 32}, {"origin": "x"}, {"first": "-1"}]
)
def test_an_event_that_says_something_else_begins_no_log(
    grown: Log, changes: dict[str, str]
) -> None:
    recovery = begin_anew(grown, 6, last(grown.asker.site), **changes)
    assert grown.ask(5, recovery=shown(grown, recovery)).rule == "log.recovered"


def test_an_event_that_is_not_in_the_log_begins_no_log(grown: Log) -> None:
    recovery = begin_anew(grown, 6, last(grown.asker.site))
    grown.leaves[6] = leaf("another")
    assert grown.ask(5, recovery=shown(grown, recovery)).rule == "log.recovered"


def test_the_old_name_after_the_new_one_is_answered_with_the_newer_note(grown: Log) -> None:
    recovery = begin_anew(grown, 6, last(grown.asker.site))
    assert grown.ask(5, recovery=shown(grown, recovery)).message.cosignature
    grown.origin = names.consortium_log(COORDINATOR)
    grown.grow("more")
    said = grown.ask(7).message
    assert (said.cosignature, said.newer) == ("", last(grown.asker.site).text)
