"""An export seals what is there, once; shows an audience what it may see; and holds no patient."""

import csv
import getpass
import io
import json
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.exporting import (
    APPROVER,
    OFFICER,
    SECOND,
    Desk,
    begin,
    consortium,
    cosigned,
    hand_over,
    lines,
    run,
)
from tests.federation import COORDINATOR, FULL, Federation, coordinate
from tests.needles import spellings

from cohortium.client.party import open_party as open_site_party
from cohortium.client.site import Site, open_site
from cohortium.common.audit import bundle, esignature, names
from cohortium.common.audit.events import Thing, os_user
from cohortium.common.audit.evidence import ESignature
from cohortium.common.audit.merkle import inclusion
from cohortium.common.audit.notes import Checkpoint, cosign, sign_checkpoint
from cohortium.common.audit.quorum import Quorum
from cohortium.common.audit.report import signatures
from cohortium.common.audit.tree import Tree
from cohortium.common.document import parse_json
from cohortium.common.errors import SignatureError
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.server.party import open_party

PATIENT = "Jane-Doe-1971-02-29"
STRANGER = "Nurse-Jones"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A completed study whose sites' events are in the log, and a study that a person refused."""
    root = tmp_path_factory.mktemp("finished")
    _, federation = begin(root)
    for site in federation.sites.values():
        plant(site)
    run(federation, root)
    for site in federation.sites.values():
        site.log.append("run.paused", actor=os_user(), detail={"by": STRANGER})
    federation.log.append("run.stopped", actor=federation.actor, reason=f"stopped by {STRANGER}")
    hand_over(federation)
    cosigned(federation, "a", "b")
    federation.close()
    return root


def plant(site: Site) -> None:
    """A patient's name in a column that no schema knows."""
    table = site.directory.root / "ward.csv"
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{head},note", *(f"{row},{PATIENT}" for row in rows)]) + "\n")


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "net")
    return tmp_path / "net"


@pytest.fixture
def desk(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(root / "home", tmp_path, capsys)


@pytest.fixture
def opened(root: Path) -> Iterator[Federation]:
    """The same directories, opened beside the command."""
    party = open_party(root / "home")
    sites = {name: open_site(root / name) for name in ("a", "b", "c")}
    federation = coordinate(root / "home", party.key, sites)
    yield federation
    federation.close()
    party.database.close()


# ------------------------------------------------------------------ sealed once


def test_the_same_state_is_sealed_once_and_gives_the_same_bytes(desk: Desk) -> None:
    first, second = desk.ok(out="1.zip"), desk.ok(out="2.zip")
    assert (first["sealed_now"], second["sealed_now"]) == (True, False)
    assert first["event"] == second["event"]
    assert (desk.out / "1.zip").read_bytes() == (desk.out / "2.zip").read_bytes()
    sealed = [e for e in lines(desk.files("2.zip")) if e["action"] == "export.sealed"]
    assert [event["id"] for event in sealed] == [first["event"]]


def test_an_export_between_two_of_another_audience_changes_neither(desk: Desk) -> None:
    first = desk.ok(out="1.zip")
    desk.ok("--audience", "regulator", out="r.zip")
    again = desk.ok(out="2.zip")
    assert (again["manifest"], again["sealed_now"]) == (first["manifest"], False)
    assert again["log"]["size"] == first["log"]["size"] + 1


def test_what_fits_into_no_zip_is_refused_before_it_is_sealed(
    desk: Desk, opened: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "LARGEST", 10_000)
    code, said = desk.run()
    assert code == 2
    assert "larger than 2 GiB" in said["error"]
    assert all(event.action != "export.sealed" for event in opened.log.events())


def test_something_that_happened_since_is_another_export(desk: Desk, opened: Federation) -> None:
    first = desk.ok(out="1.zip")
    opened.log.append("log.started", actor=opened.actor)
    second = desk.ok(out="2.zip")
    assert second["sealed_now"]
    assert second["manifest"] != first["manifest"]


def test_the_seal_is_over_the_manifest_and_bound_to_name_time_and_meaning(desk: Desk) -> None:
    said = desk.ok()
    files = desk.files()
    seal = parse_json(files["log/seal.json"], ESignature, "seal")
    party = open_party(desk.root)
    key = party.key.public
    esignature.verify(seal, key)
    assert (seal.name, seal.user, seal.signed) == (OFFICER, getpass.getuser(), said["manifest"])
    assert seal.meaning == esignature.MEANING
    for field, value in {"name": APPROVER, "at": "2020", "meaning": "review", "role": "x"}.items():
        with pytest.raises(SignatureError):
            esignature.verify(seal.model_copy(update={field: value}), key)
    (event,) = [e for e in lines(files) if e["id"] == said["event"]]
    assert event["detail"]["manifest"] == said["manifest"]
    assert {thing["t"] for thing in event["obj"]} == {"manifest", "esignature"}
    party.database.close()


def test_an_export_is_in_the_checkpoint_of_the_log_that_it_exports(desk: Desk) -> None:
    said = desk.ok()
    files = desk.files()
    party = open_party(desk.root)
    note = party.checkpoint(0)
    assert note.checkpoint.size == said["log"]["size"]
    assert len(files["log/leaf-hashes.bin"]) == 32 * said["log"]["size"]
    assert files["log/checkpoint"].decode().startswith(note.body)
    party.database.close()


def test_each_site_signed_its_events_and_their_leaves_stand_in_order(desk: Desk) -> None:
    desk.ok()
    files = desk.files()
    raw = files["log/leaf-hashes.bin"]
    leaves = [raw[i : i + 32] for i in range(0, len(raw), 32)]
    for site in ("a", "b", "c"):
        own = files[f"log/sites/{site}.leaves"]
        found = [own[i : i + 32] for i in range(0, len(own), 32)]
        places = [leaves.index(leaf) for leaf in found]
        assert len(found) > 5
        assert places == sorted(places)
        assert f"{COORDINATOR}.cohortium/{site}/log\n{len(found)}\n" in (
            files[f"log/sites/{site}.checkpoint"].decode()
        )


def test_cosignatures_that_came_later_are_added_by_the_same_command(
    desk: Desk, opened: Federation
) -> None:
    first = desk.ok()
    assert (first["witnessed"], first["witnesses"]) == (False, {})
    cosigned(opened, "a")
    assert desk.ok()["witnessed"] is False
    cosigned(opened, "a", "c")
    last = desk.ok()
    assert (last["witnessed"], set(last["witnesses"])) == (True, {"a", "c"})
    assert (last["event"], last["manifest"]) == (first["event"], first["manifest"])


def test_a_cosignature_by_another_key_counts_for_nothing(desk: Desk, opened: Federation) -> None:
    desk.ok()
    log = consortium(opened)
    note = log.checkpoint(0)
    for name in ("a", "b"):
        line = cosign(note.body, names.witness(COORDINATOR, name), SigningKey.generate(), 1).line
        log.database.execute(
            "INSERT INTO cosignatures VALUES (?, ?, ?, 0)", (note.checkpoint.size, name, line)
        )
    said = desk.ok()
    assert (said["witnessed"], said["witnesses"]) == (False, {})


# ------------------------------------------------------------------ audiences


def everything(desk: Desk, out: str = "e.zip") -> bytes:
    return b"\n".join(desk.files(out).values())


def test_a_consortium_sees_no_person_but_those_who_signed(desk: Desk, opened: Federation) -> None:
    said = desk.ok(person="Ida-Signer")
    shown = everything(desk)
    assert STRANGER.encode() not in shown
    assert APPROVER.encode() in shown
    assert said["log"]["withheld"] > 0
    for event in lines(desk.files()):
        signed = event["action"] in ("study.approved", "export.sealed")
        assert signed or event["actor"]["type"] != "person"
    desk.ok("--audience", "regulator", out="r.zip")
    assert STRANGER.encode() in everything(desk, "r.zip")


def test_a_refusals_words_stay_away_from_a_consortium(desk: Desk, opened: Federation) -> None:
    study = opened.store.studies()[0]
    refused = {"decision": "refused", "rule": "study.rejected"}
    consent = opened.store.consents(study.digest)["a"].model_copy(
        update={**refused, "explanation": f"rejected by {STRANGER}", "approvers": ()}
    )
    opened.store.decide(study.digest, "a", consent, 0)
    record = opened.store.rounds(study.digest)[0]
    text = {"b": f"study.stopped: by {STRANGER}"}
    opened.store.record(study.digest, record.model_copy(update={"refused": text}))
    desk.ok()
    shown = everything(desk)
    assert STRANGER.encode() not in shown
    assert b"study.stopped" in shown
    assert b"study.rejected" in shown


def test_a_regulator_sees_the_whole_log_or_nothing(desk: Desk) -> None:
    assert desk.ok("--audience", "regulator")["log"]["withheld"] == 0
    for narrow in (("--study", "ward-study"), ("--since", "2020-01-01"), ("--until", "2030-01-01")):
        code, document = desk.run("--audience", "regulator", *narrow, out="n.zip")
        assert (code, "nothing is withheld" in document["error"]) == (2, True)
        assert not (desk.out / "n.zip").exists()


def test_a_site_shows_its_own_log_and_the_coordinator_no_sites(desk: Desk, root: Path) -> None:
    assert desk.run("--audience", "site")[0] == 2
    at_site = Desk(root / "a", desk.out, desk.capsys)
    code, document = at_site.run("--audience", "regulator")
    assert (code, "run this there" in document["error"]) == (2, True)
    said = at_site.ok(person=APPROVER)
    assert (said["audience"], said["log"]["withheld"]) == ("site", 0)
    shown = everything(at_site)
    assert STRANGER.encode() in shown
    assert b'"study.approved"' in shown


def test_no_patient_is_in_any_bundle(desk: Desk, root: Path) -> None:
    desk.ok(out="1.zip")
    desk.ok("--audience", "regulator", "--pdf", out="2.zip")
    Desk(root / "a", desk.out, desk.capsys).ok(out="3.zip", person=APPROVER)
    rows = (root / "a" / "ward.csv").read_text().splitlines()[1:]
    needles = [*spellings(PATIENT), *(row.encode() for row in rows)]
    for out in ("1.zip", "2.zip", "3.zip"):
        content = everything(desk, out)
        assert [needle for needle in needles if needle in content] == []


def test_the_rest_is_withheld_and_counted(desk: Desk, opened: Federation) -> None:
    whole = desk.ok(out="1.zip")["log"]
    event = opened.log.append("node.dropped", actor=opened.actor, study="f" * 64, reason="x.y")
    desk.ok(out="2.zip")
    assert event.id in {e["id"] for e in lines(desk.files("2.zip"))}
    desk.ok("--study", "ward-study", out="3.zip")
    assert event.id not in {e["id"] for e in lines(desk.files("3.zip"))}
    late = desk.ok("--since", "2099-01-01", out="4.zip")
    shown = lines(desk.files("4.zip"))
    assert {e["action"] for e in shown} == {"export.sealed"}
    assert late["log"]["withheld"] == late["log"]["size"] - len(shown)
    assert late["log"]["size"] > whole["size"]


def test_of_a_blinded_study_a_consortium_sees_no_result_of_a_site(
    desk: Desk, opened: Federation, root: Path
) -> None:
    blind = "[evaluation]\nblinded = true\nevery = 3\n"
    study = run(opened, root, FULL, blind, name="blind-study")
    hand_over(opened)
    desk.ok()
    found = open_party(desk.root)
    evidence = found.gather("consortium", "blind-study", "", "", OFFICER)
    (facts,) = evidence.studies
    assert facts.blinded
    assert facts.evaluations == {}
    assert all(one.sites == {} for one in facts.performance)
    assert facts.audit is not None
    assert {c.site for c in facts.audit.contrasts} <= {None}
    assert all(c.sites == () and c.attribute != "site" for c in facts.audit.contrasts)
    flags = [e for e in evidence.events if e.action == "flag.raised" and e.study == study.digest]
    assert flags == []
    assert b"Blinded: of blind-study" in desk.files()["report/report.html"]
    whole = found.gather("regulator", None, "", "", OFFICER)
    assert set(whole.studies[-1].evaluations) == {"a", "b", "c"}
    found.database.close()


# ------------------------------------------------------------------ who, and where to


def name_people(home: Path, file: str, **people: str) -> None:
    rows = [f'"{name}" = "{role}"' for name, role in people.items()]
    path = home / file
    path.write_text(path.read_text() + "\n[people]\n" + "\n".join(rows) + "\n")


def sealed(home: Path) -> int:
    party = open_party(home)
    count = sum(event.action == "export.sealed" for event in party.log.events())
    party.database.close()
    return count


def test_an_operator_exports_nothing_and_an_auditor_may(desk: Desk) -> None:
    name_people(desk.root, "coordinator.toml", **{getpass.getuser(): "operator"})
    code, document = desk.run()
    assert (code, "is not officer or auditor or lead" in document["error"]) == (4, True)
    assert sealed(desk.root) == 0
    path = desk.root / "coordinator.toml"
    path.write_text(path.read_text().replace('"operator"', '"auditor"'))
    desk.ok()
    assert json.loads(desk.files()["log/seal.json"])["role"] == "auditor"


def test_a_registered_auditor_signs_with_a_key_of_their_own(desk: Desk) -> None:
    key = SigningKey.generate()
    key.save(desk.out / "auditor.key")
    words = ("--key", str(desk.out / "auditor.key"))
    code, document = desk.run(*words, person="A. Ditor")
    assert (code, key.public.text in document["error"]) == (4, True)
    assert sealed(desk.root) == 0
    path = desk.root / "coordinator.toml"
    path.write_text(path.read_text() + f'\n[auditors]\n"A. Ditor" = "{key.public.text}"\n')
    desk.ok(*words, person="A. Ditor")
    seal = parse_json(desk.files()["log/seal.json"], ESignature, "seal")
    esignature.verify(seal, VerifyKey.from_text(key.public.text))
    assert seal.role == "auditor"
    assert desk.run(*words, person="Somebody Else")[0] == 4


def test_another_file_is_not_written_over_and_nothing_is_sealed(desk: Desk) -> None:
    (desk.out / "e.zip").write_bytes(b"important")
    code, document = desk.run()
    assert (code, "is not this export" in document["error"]) == (2, True)
    assert (desk.out / "e.zip").read_bytes() == b"important"
    assert desk.run(out="absent/e.zip")[0] == 2
    assert sealed(desk.root) == 0
    desk.ok("--force")
    desk.ok()
    assert sealed(desk.root) == 1


def test_a_bundle_of_other_content_is_another_file_too(desk: Desk, opened: Federation) -> None:
    desk.ok()
    before = (desk.out / "e.zip").read_bytes()
    opened.log.append("log.started", actor=opened.actor)
    assert desk.run()[0] == 2
    assert (desk.out / "e.zip").read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ("--since", "yesterday"),
        ("--until", "2026-13"),
        ("--retention-years", "5"),
        ("--study", "none-such"),
        ("--audience", "press"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_usage(desk: Desk, words: tuple[str, ...]) -> None:
    assert desk.run(*words)[0] == 2
    assert sealed(desk.root) == 0


# ------------------------------------------------------------------ at a site


def anchor(site: Site, federation: Federation) -> int:
    """As the witness leaves it: the head of the own log, shared, logged, proven and cosigned."""
    own = Tree(site.database, "events")
    size = own.size()
    shared = type(site.log)(site.database, site.name, site.name, site.clock, table="shared")
    event = shared.append(
        "log.checkpoint", actor=site.actor, detail={"size": str(size), "root": own.root(size).hex()}
    )
    hand_over(federation)
    place = consortium(federation).size() - 1
    while consortium(federation).tree._node(0, place) != event.leaf:
        place -= 1
    note = consortium(federation).checkpoint(0)
    path = inclusion(place, note.checkpoint.size, consortium(federation).tree._node)
    ours = cosign(note.body, names.witness(COORDINATOR, site.name), site.key, SECOND)
    site.database.execute(
        "INSERT INTO cosigned VALUES (?, ?, 0)", (note.checkpoint.size, note.with_([ours]).text)
    )
    site.database.execute(
        "INSERT INTO included VALUES (?, ?, ?, ?, 0)",
        (event.src.seq, place, note.checkpoint.size, json.dumps([p.hex() for p in path])),
    )
    return size


def test_a_sites_log_is_anchored_where_the_consortiums_log_names_its_head(
    desk: Desk, root: Path, opened: Federation
) -> None:
    at_site = Desk(root / "a", desk.out, desk.capsys)
    first = at_site.ok(person=APPROVER)
    assert first["witnessed"] is False
    assert "log/anchor.json" not in at_site.files()
    size = anchor(opened.sites["a"], opened)
    assert size == first["log"]["size"]
    said = at_site.ok(person=APPROVER)
    assert (said["event"], said["witnessed"], list(said["witnesses"])) == (
        first["event"], True, ["a"],
    )  # fmt: skip
    files = at_site.files()
    found = json.loads(files["log/anchor.json"])
    head = json.loads(found["line"])
    assert (head["action"], head["detail"]["size"]) == ("log.checkpoint", str(size))
    assert files["log/consortium.checkpoint"].decode().split("\n")[1] == str(found["size"])
    party = open_site_party(root / "a")
    own = party.checkpoint(0)
    assert files["log/checkpoint"].decode() == own.text
    evidence = party.gather("site", None, "", "", APPROVER)
    shorter = sign_checkpoint(Checkpoint(own.checkpoint.origin, size - 1, bytes(32)), party.key)
    assert party.log_files(evidence, shorter) == {}
    party.database.close()


def test_a_site_may_show_what_left_it_and_nothing_small_that_stayed(desk: Desk, root: Path) -> None:
    party = open_site_party(root / "a")
    evidence = party.gather("site", None, "", "", APPROVER)
    (study,) = evidence.studies
    (approval,) = study.approvals
    (signed,) = signatures.signatures(signatures.decisions(evidence)).rows
    assert (signed[1:3], signed[8]) == (("approval", APPROVER), approval.signed)
    assert (approval.name, study.consents["a"].approvers) == (APPROVER, (APPROVER,))
    assert set(study.evaluations) == {"a"}
    assert [record.round for record in study.rounds] == [1, 2, 3]
    assert all(record.received["a"]["update"] > 0 for record in study.rounds)
    party.database.close()


# ------------------------------------------------------------------ quorum


def test_a_quorum_is_as_many_witnesses_as_the_policy_says() -> None:
    keys = [SigningKey.generate() for _ in range(3)]
    policy = "\n".join(
        [
            *(
                f"witness w{i} {names.witness('net', f'w{i}')}+{_key(i, k)}"
                for i, k in enumerate(keys)
            ),
            "group hospitals 2 w0 w1 w2",
            "quorum hospitals",
        ]
    )
    quorum = Quorum.parse(policy)
    note = sign_checkpoint(Checkpoint("net.cohortium/log", 1, bytes(32)), keys[0])
    lines = [cosign(note.body, names.witness("net", f"w{i}"), k, 5) for i, k in enumerate(keys)]
    assert not quorum.met(note.with_(lines[:1]))
    assert quorum.met(note.with_(lines[:2]))
    assert quorum.cosigned(note.with_(lines)) == {"w0": 5, "w1": 5, "w2": 5}


def _key(number: int, key: SigningKey) -> str:
    from cohortium.common.audit.notes import witness_key

    return witness_key(names.witness("net", f"w{number}"), key.public).text.split("+", 1)[1]


# ------------------------------------------------------------------ the report's files


class Page(HTMLParser):
    """What a page loads, and whether each of its tables can be read by a screen reader."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_needs_nothing_runs_nothing_and_can_be_read_aloud(desk: Desk) -> None:
    desk.ok()
    page = Page(desk.files()["report/report.html"].decode())
    names_of_tags = {tag for tag, _ in page.tags}
    assert names_of_tags.isdisjoint({"script", "img", "iframe", "link", "form", "object"})
    for _, attributes in page.tags:
        assert {"src", "action", "onclick"}.isdisjoint(attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert len(page.of("table")) == len(page.of("caption")) > 10
    assert all(one.get("scope") in ("col", "row") for one in page.of("th"))
    anchors = {a["id"] for _, a in page.tags if "id" in a}
    assert {(one["href"] or "#")[1:] for one in page.of("a")} <= anchors
    for words in ("Who approved what", "What left the building", "Privacy budget by site",
                  "Open flags", "Proof of review", "Witnessed by whom, until when",
                  "What this does not prove", APPROVER, OFFICER):  # fmt: skip
        assert words in page.text
    assert "compliant" not in page.text.lower()


def table(files: dict[str, bytes], name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(files[name].decode(), newline="")))


def test_the_egress_register_has_each_message_with_size_and_hash_from_both_sides(
    desk: Desk, opened: Federation
) -> None:
    desk.ok()
    rows = table(dict(desk.files()), "report/egress.csv")
    events = [
        (site.name, str(event.round), thing)
        for site in opened.sites.values()
        for event in site.log.events()
        if event.action == "round.update.sent"
        for thing in event.obj
    ]
    updates = [row for row in rows if row["kind"] == "update"]
    assert [(r["site"], r["round"], r["sha256"], r["bytes"]) for r in updates] == [
        (site, number, thing.h, str(thing.bytes)) for site, number, thing in sorted(events, key=key)
    ]
    assert all(int(row["bytes received"]) > int(row["bytes"]) for row in updates)


def key(found: tuple[str, str, Thing]) -> tuple[str, int]:
    return found[0], int(found[1])


def test_approvals_bear_name_time_and_meaning_and_the_budget_is_said_in_words(desk: Desk) -> None:
    desk.ok()
    files = dict(desk.files())
    approvals = table(files, "report/approvals.csv")
    assert [(row["site"], row["by"], row["meaning"]) for row in approvals] == [
        (site, APPROVER, "approval of this study on this site's data") for site in ("a", "b", "c")
    ]
    assert all(row["at"].endswith("Z") and row["event"] for row in approvals)
    budget = table(files, "report/budget.csv")
    assert [row["site"] for row in budget] == ["a", "b", "c"]
    for row in budget:
        assert float(row["epsilon spent"]) <= 3.0 < float(row["epsilon cap"])
        assert row["in words"].startswith("an attacker who accepts 1% false alarms")
    traced = table(files, "report/traceability.csv")
    assert [(row["site"], row["rounds"], row["approved by"]) for row in traced] == [
        (site, "1 to 3", APPROVER) for site in ("a", "b", "c")
    ]
    assert len({row["model"] for row in traced}) == 1


def test_a_pdf_is_the_same_for_the_same_evidence(desk: Desk) -> None:
    pytest.importorskip("reportlab")
    desk.ok("--pdf", out="1.zip")
    desk.ok("--pdf", out="2.zip")
    one, other = (desk.files(out)["report/report.pdf"] for out in ("1.zip", "2.zip"))
    assert one.startswith(b"%PDF")
    assert one == other


def test_without_the_extra_a_pdf_is_one_clear_line(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "reportlab", None)
    code, document = desk.run("--pdf")
    assert (code, "pip install 'cohortium[pdf]'" in document["error"]) == (2, True)
    assert sealed(desk.root) == 0


# ------------------------------------------------------------------ the log itself


def test_a_log_that_was_changed_is_not_exported(desk: Desk, opened: Federation) -> None:
    database = opened.store.database
    database.execute("DROP TRIGGER events_are_never_changed")
    changed = "replace(line, 'round.aggregated', 'round.refused')"
    database.execute(f"UPDATE events SET line = {changed}")
    code, document = desk.run()
    assert (code, "does not match its hash; the log was changed" in document["error"]) == (1, True)
    assert not (desk.out / "e.zip").exists()
