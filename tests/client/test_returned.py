"""A site.db from an old backup gets its own signed events back, and nothing else."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.asking import Asker
from tests.exporting import Desk, begin, consortium
from tests.federation import (
    COORDINATOR,
    FULL,
    Federation,
    InProcessSites,
    approve,
    coordinate,
    write_study,
)
from tests.witnessed import Witnesses

from cohortium.client import lost, returned, rotation
from cohortium.client.anchors import covering, newest
from cohortium.client.cosigned import Cosigned
from cohortium.client.site import Site, open_site
from cohortium.client.watermark import LostRecords
from cohortium.client.whole import require_whole_records
from cohortium.client.witness_cli import alarms
from cohortium.common import timeouts
from cohortium.common.audit import merkle, names, verify
from cohortium.common.audit.events import Event, os_user, read_event
from cohortium.common.audit.log import EventLog
from cohortium.common.audit.notes import Checkpoint, sign_checkpoint
from cohortium.common.audit.tree import Tree
from cohortium.common.cli import main
from cohortium.common.envelope import seal, unseal
from cohortium.common.identity import SigningKey, make_node_key
from cohortium.common.messages import Returned, Update, Witness, pack, unpack
from cohortium.common.study import Study, load_study
from cohortium.server import returning
from cohortium.server.config import CoordinatorDir

PERSON = "Dr. Weiss"


@dataclass
class Restored:
    """Site a spent two rounds after the backup that was put back; b is whole."""

    made: Witnesses
    study: Study
    backup: Path

    @property
    def site(self) -> Site:
        return self.made.federation.sites["a"]

    @property
    def asker(self) -> Asker:
        return Asker(self.made.federation.key, self.site)

    def put_back(self, mark: bool) -> None:
        """Put the old file in place, with or without the old mark beside it."""
        root = self.site.directory.root
        self.site.database.close()
        shutil.copy(self.backup / "site.db", root / "site.db")
        if mark:
            shutil.copy(self.backup / "site.mark", root / "site.mark")
        self.reopen()

    def reopen(self) -> None:
        root = self.site.directory.root
        self.site.database.close()
        self.made.federation.sites["a"] = open_site(root)
        self.made.witnessing = self.made.begin()

    def lines(self) -> list[str]:
        rows = self.made.consortium.database.execute(
            "SELECT line FROM consortium WHERE node = 'a' ORDER BY node_seq"
        )
        return [row["line"] for row in rows]


def shared(site: Site) -> list[Event]:
    rows = site.database.execute("SELECT line FROM shared ORDER BY seq")
    return [read_event(row["line"], "shared") for row in rows]


def pause(site: Site) -> None:
    site.log.append("run.paused", actor=site.actor, detail={"by": PERSON})


Tables = dict[str, list[Any]]


def everything(site: Site) -> Tables:
    tables = ("shared", "events", "included", "documents", "returned", "ledger")
    return {
        table: [tuple(row) for row in site.database.execute(f"SELECT * FROM {table} ORDER BY 1")]
        for table in tables
    }


def require_unchanged(site: Site, before: Tables) -> None:
    """Nothing but that a request was refused."""
    after = everything(site)
    for table, rows in before.items():
        assert after[table][: len(rows)] == rows
        new = after[table][len(rows) :]
        assert all('"action":"round.refused"' in row[1] for row in new)
        assert not new or table in ("shared", "events")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A consortium in which site a spent two rounds after its `backup` was taken."""
    root = tmp_path_factory.mktemp("template")
    _, federation = begin(root, ("a", "b"))
    made = watched(federation)
    study = write_study(root, FULL)
    site = federation.sites["a"]
    asker = Asker(federation.key, site)
    sign_off(site, study)
    assert asker.invite(study).message.decision == "approved"
    assert isinstance(asker.train(study, 1).message, Update)
    made.exchange()
    (root / "backup").mkdir()
    for name in ("site.db", "site.mark"):
        shutil.copy(root / "a" / name, root / "backup" / name)
    for number in (2, 3):
        assert isinstance(asker.train(study, number).message, Update)
        made.exchange()
    federation.close()
    return root


@pytest.fixture
def lossy(template: Path, tmp_path: Path) -> Iterator[Restored]:
    root = tmp_path / "here"
    shutil.copytree(template, root)
    key = SigningKey.load(CoordinatorDir(root / "home").signing_key)
    sites = {name: open_site(root / name) for name in ("a", "b")}
    federation = replace(coordinate(root / "home", key, sites), root=root)
    study = load_study(root / "study.toml")
    yield Restored(watched(federation), study, root / "backup")
    federation.close()


def watched(federation: Federation) -> Witnesses:
    now_ms = federation.sites["a"].now_ms
    return Witnesses(federation, federation.transport, consortium(federation), now_ms=now_ms)


def sign_off(site: Site, study: Study) -> None:
    approve(site, study)
    detail = {"person": PERSON, "meaning": "approval of this study on this site's data"}
    site.log.append("study.approved", actor=os_user(), study=study.digest, detail=detail)


@pytest.fixture
def restored(lossy: Restored) -> Restored:
    lossy.put_back(mark=False)
    return lossy


def require_whole(it: Restored) -> None:
    """Both logs, their trees, the mark, the ledger; and the consortium has all of it."""
    site = it.site
    for table in ("events", "shared"):
        log = EventLog(site.database, "a", "a", site.clock, table=table)
        size = log.verify().size
        tree = Tree(site.database, table)
        rows = site.database.execute(f"SELECT leaf FROM {table} ORDER BY seq")
        assert tree.root(size) == merkle.root_of(row["leaf"] for row in rows)
        tree.check()
    require_whole_records(site.database)
    site.watermark.check()
    lines = [event.line for event in shared(site)]
    assert it.lines() == lines
    assert Cosigned(site.database).proven() == len(lines)
    assert site.database.execute("SELECT * FROM returned") == []
    assert it.made.cosigners(it.made.note()) == {"a", "b"}


def test_a_site_that_accepted_its_loss_gets_its_events_back_and_is_a_witness_again(
    restored: Restored,
) -> None:
    before, local = restored.lines(), len(shared(restored.site))
    assert lost.accept(restored.site, PERSON) is not None
    since = shared(restored.site)[local:]
    assert len(since) > 0
    restored.made.exchange()
    require_whole(restored)
    lines = restored.lines()
    assert lines[: len(before)] == before
    said = read_event(lines[len(before)], "the next")
    assert said.action == "log.recovered"
    assert said.detail["size"] == str(len(before))
    assert said.detail["first"] == str(local)
    assert said.detail["origin"] == names.site_log(COORDINATOR, "a")
    moved = shared(restored.site)[len(before) + 1 :][: len(since)]
    assert [(e.id, e.ts, e.action) for e in moved] == [(e.id, e.ts, e.action) for e in since]
    assert not {e.salt for e in moved} & {e.salt for e in since}
    (whole,) = [e for e in restored.site.log.events() if e.action == "log.recovered"]
    assert whole.id == said.id
    for event in shared(restored.site):
        for thing in event.obj if event.action == "privacy.spent" else ():
            assert restored.site.documents.text(thing.h) is not None
    own = Tree(restored.site.database, "events")
    for least in range(own.size()):  # heads that the lost log had named anchor nothing here
        for anchor in (covering(own._database, least), newest(own._database, least)):
            assert anchor is None or own.root(anchor.own_size).hex() == anchor.root
    assert covering(own._database, 1 + whole.src.seq) is not None


def test_what_is_spent_afterwards_reaches_the_consortium_and_its_bundles_verify(
    restored: Restored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost.accept(restored.site, PERSON)
    go_on(restored, tmp_path)
    require_whole(restored)
    spent = [e for e in shared(restored.site) if e.action == "privacy.spent"]
    assert [e.round for e in spent] == [1, 2, 3, None, 1]
    home = restored.made.federation.root / "home"
    said = verified(home, capsys, "--audience", "regulator")
    assert "RESULT: VERIFIED" in said, said
    assert "rows of the ledger were lost" in said
    said = verified(restored.site.directory.root, capsys)
    assert "RESULT: VERIFIED" in said, said


def test_a_site_that_does_not_count_what_it_lost_is_found_out_by_the_verifier(
    restored: Restored,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lost, "_charge", lambda site, account, person: None)
    monkeypatch.setattr(returned, "uncounted", lambda site: [])
    lost.accept(restored.site, PERSON)
    go_on(restored, tmp_path)
    home = restored.made.federation.root / "home"
    said = verified(home, capsys, "--audience", "regulator")
    assert "2 steps that were lost are not counted as spent again" in said


def go_on(restored: Restored, place: Path) -> None:
    """The loss is accepted: the events come back, and another study trains."""
    restored.made.exchange()
    later = write_study(place, FULL, name="later-study")
    sign_off(restored.site, later)
    assert restored.asker.invite(later).message.decision == "approved"
    assert isinstance(restored.asker.train(later, 1).message, Update)
    restored.made.exchange()


def verified(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the verifier says of a bundle that is exported now."""
    Desk(root, root, capsys).ok(*words)
    with pytest.raises(SystemExit, match="0"):
        main(["audit", "policy", "--out", str(root / "policy"), "--dir", str(root)])
    capsys.readouterr()
    verify.main([str(root / "e.zip"), "--policy", str(root / "policy")])
    return capsys.readouterr().out


def test_nothing_is_given_back_before_a_person_accepted_the_loss(
    restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(restored.site)
    monkeypatch.setattr(timeouts, "WITNESS_S", 0.1)
    restored.made.exchange()
    require_unchanged(restored.site, before)
    refused = [e for e in restored.made.federation.log.events() if e.outcome == "denied"]
    assert [e.reason for e in refused] == ["site.database"]


def test_a_site_restored_with_its_mark_learns_of_its_loss_and_counts_it(lossy: Restored) -> None:
    lossy.put_back(mark=True)
    site = lossy.site
    site.watermark.check()  # here nothing else remembers
    spent = site.ledger(lossy.study).balance().epsilon_spent
    lossy.made.exchange()
    refused = [e for e in lossy.made.federation.log.events() if e.outcome == "denied"]
    assert [e.reason for e in refused] == ["log.behind"]
    assert lossy.asker.train(lossy.study, 2).rule == "site.database"
    (alarm,) = alarms(site.directory)
    assert "had signed are missing" in alarm
    with pytest.raises(LostRecords, match="accept-loss"):
        returned.require_none_lost(site)
    accepted = lost.accept(site, PERSON)
    assert accepted is not None
    assert accepted.steps == 2
    assert site.ledger(lossy.study).balance().epsilon_spent > spent
    assert lost.accept(site, PERSON) is None  # counted once
    lossy.made.elapsed_s += 4000.0
    lossy.made.exchange()
    require_whole(lossy)


def test_a_log_that_grew_past_the_loss_before_anybody_noticed_is_found_out_too(
    lossy: Restored,
) -> None:
    lossy.put_back(mark=True)
    while len(shared(lossy.site)) <= lossy.made.consortium.have("a"):
        pause(lossy.site)
    lossy.made.exchange()
    lost.accept(lossy.site, PERSON)
    lossy.made.elapsed_s += 4000.0
    lossy.made.exchange()
    require_whole(lossy)


def test_a_long_loss_comes_back_in_pages(
    restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(returning, "MAX_LINES", 2)
    before = len(shared(restored.site))
    lost.accept(restored.site, PERSON)
    assert restored.made.consortium.have("a") - before > 4
    restored.made.exchange()
    require_whole(restored)


def test_what_an_earlier_key_of_ours_had_signed_counts(restored: Restored) -> None:
    lost.accept(restored.site, PERSON)
    head = restored.made.consortium.site_heads()["a"]
    make_node_key(restored.site.directory.node_key)
    rotation.rotate(restored.site.directory)
    restored.reopen()
    seen = returned._own(restored.site, head)
    assert seen is not None
    assert seen.size == restored.made.consortium.have("a")


# ------------------------------------------------------------------ a hostile coordinator


@dataclass
class Hostile(InProcessSites):
    """Changes what site a is asked, and signs it."""

    key: SigningKey = field(default_factory=SigningKey.generate)
    change: Callable[[Witness], Witness] = lambda question: question
    rules: list[str] = field(default_factory=list)

    def ask(self, heads: Any, body: bytes, deadline_s: float) -> Iterator[tuple[str, bytes]]:
        question = unpack(body, Witness)[0]
        for name, head in heads.items():
            if name != "a":
                yield from super().ask({name: head}, body, deadline_s)
                continue
            header, _ = unseal(head + body, self.key.public)
            heard = Asker(self.key, self.sites["a"]).witness(
                unpack(pack(self.change(question)), Witness)[0]
            )
            self.rules.append(heard.rule)
            answer = header.model_copy(
                update={
                    "kind": heard.header.kind,
                    "sender": "a",
                    "recipient": COORDINATOR,
                }
            )
            yield name, seal(answer, heard.body, self.sites["a"].key)


def with_lines(change: Callable[[list[str]], list[str]]) -> Callable[[Witness], Witness]:
    def changed(question: Witness) -> Witness:
        page = question.returned
        if page is None:
            return question
        lines = tuple(change(list(page.lines)))
        return question.model_copy(update={"returned": page.model_copy(update={"lines": lines})})

    return changed


def edited(line: str, old: str, new: str) -> str:
    assert old in line
    return line.replace(old, new)


def salted(line: str) -> str:
    """The same event with another salt, in canonical form."""
    return read_event(line, "event").model_copy(update={"salt": "0" * 32}).line


def more(lines: list[str]) -> list[str]:
    last = read_event(lines[-1], "last")
    place = last.src.model_copy(update={"seq": last.src.seq + 1})
    return [*lines, last.model_copy(update={"src": place}).line]


def other_head(question: Witness, size: int | None = None, key: SigningKey | None = None) -> Any:
    at = question.have if size is None else size
    seen = Checkpoint(names.site_log(COORDINATOR, "a"), at, b"0" * 32)
    return sign_checkpoint(seen, key or SigningKey.generate()).text


ATTACKS: dict[str, tuple[Callable[[Witness], Witness], str]] = {
    "a line changed": (
        with_lines(lambda lines: [edited(lines[0], '"outcome":"s', '"outcome": "s'), *lines[1:]]),
        "protocol",
    ),
    "an event changed": (
        with_lines(lambda lines: [salted(lines[0]), *lines[1:]]),
        "log.behind",
    ),
    "an event added": (with_lines(more), "log.behind"),
    "an event left out": (with_lines(lambda lines: [lines[0], *lines[2:]]), "protocol"),
    "two events exchanged": (with_lines(lambda lines: lines[::-1]), "protocol"),
    "another site's events": (
        with_lines(lambda lines: [line.replace('"node":"a"', '"node":"b"') for line in lines]),
        "protocol",
    ),
    "a checkpoint by another key": (
        lambda q: q.model_copy(update={"head": other_head(q)}),
        "log.behind",
    ),
    "no checkpoint": (lambda q: q.model_copy(update={"head": ""}), "log.behind"),
    "a checkpoint over fewer events": (
        lambda q: q.model_copy(update={"have": q.have + 1}),
        "log.behind",
    ),
    "a document that nobody named": (
        lambda q: q.model_copy(
            update={
                "returned": q.returned.model_copy(update={"documents": (("selftest", "{}"),)})
                if q.returned
                else None
            }
        ),
        "protocol",
    ),
}


def test_a_coordinator_can_put_nothing_into_our_log(
    restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "WITNESS_S", 0.1)
    lost.accept(restored.site, PERSON)
    made = restored.made
    for attack, (change, rule) in ATTACKS.items():
        before = everything(restored.site)
        hostile = Hostile(made.federation.sites, key=made.federation.key, change=change)
        made.sites, made.witnessing = hostile, made.begin()
        made.exchange()
        assert (attack, hostile.rules[-1]) == (attack, rule)
        require_unchanged(restored.site, before)
    made.sites, made.witnessing = made.federation.transport, made.begin()
    made.exchange()
    require_whole(restored)


def test_a_head_that_our_log_has_grown_past_gives_nothing_back(lossy: Restored) -> None:
    site, made = lossy.site, lossy.made
    before = everything(site)
    page = Returned(first=0, lines=tuple(lossy.lines()), proof=())
    made.sites = Hostile(
        made.federation.sites,
        key=made.federation.key,
        change=lambda q: q.model_copy(update={"returned": page}),
    )
    made.exchange()
    assert everything(site)["shared"] == before["shared"]


def test_a_kill_while_events_are_put_back_leaves_all_as_it_was(restored: Restored) -> None:
    lost.accept(restored.site, PERSON)
    made, site = restored.made, restored.site
    sent: list[bytes] = []

    class Kept(InProcessSites):
        def ask(self, heads: Any, body: bytes, deadline_s: float) -> Iterator[tuple[str, bytes]]:
            sent.append(heads.get("a", b"") + body)
            if len(sent) < 2:
                yield from super().ask(heads, body, deadline_s)

    made.sites, made.offline = Kept(made.federation.sites), {"b"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(timeouts, "WITNESS_S", 0.1)
        made.exchange()
    before = everything(site)
    site.database.close()
    request = site.directory.root / "request"
    request.write_bytes(sent[1])
    script = (
        "import os, signal, sys; from pathlib import Path; "
        "from cohortium.client import returned, rounds; "
        "from cohortium.client.site import open_site; "
        "returned.anchors.write = lambda site: os.kill(os.getpid(), signal.SIGKILL); "
        "rounds.answer(Path(sys.argv[2]).read_bytes(), open_site(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", script, str(site.directory.root), str(request)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr
    restored.reopen()
    after = everything(restored.site)
    assert len(after.pop("returned")) > 0  # set aside before, in a transaction of its own
    assert after == {table: before[table] for table in after} | {"documents": after["documents"]}
    with pytest.raises(Exception, match="never deleted"):
        restored.site.database.execute("DELETE FROM shared")
    made.sites, made.offline = made.federation.transport, set()
    made.elapsed_s += 4000.0
    made.exchange()
    require_whole(restored)
    with pytest.raises(Exception, match="never deleted"):
        restored.site.database.execute("DELETE FROM shared")
