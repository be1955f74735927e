"""Attacks on what was sealed: files, signature, ledger, self-tests, studies, fairness.

First by whoever holds the file. Then by a coordinator who seals a falsified export properly, and
last by a site that records falsehoods with its own key: what is caught then contradicts itself.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import bundles
from tests.bundles import (
    COORDINATOR,
    as_json,
    made,
    packed,
    place,
    retold,
    verified,
    with_rows,
)

from cohortium.common.audit import bundle, verify
from cohortium.common.audit.events import leaf_hash
from cohortium.common.document import canonical
from cohortium.common.identity import SigningKey

LEDGER, SELFTESTS, RATES = "privacy/ledger.jsonl", "privacy/selftests.jsonl", "fairness/rates.json"
Values = dict[str, Any]


def resealed(name: str, content: bytes) -> dict[str, bytes]:
    """An export in which one file was falsified before it was sealed."""
    assert content != made().content.get(name)
    return packed(content={**made().content, name: content})


# ------------------------------------------------------------------ files and manifest


def test_a_file_edited(tmp_path: Path) -> None:
    ran = verified(tmp_path, {**packed(), "report/report.html": b"<title>All is well</title>"})
    assert ran.code == 1
    assert ran.failure == "report/report.html: was changed after the export was sealed"


def test_a_file_added(tmp_path: Path) -> None:
    ran = verified(tmp_path, {**packed(), "report/zz.csv": b"x"})
    assert (ran.code, ran.failure) == (1, "report/zz.csv: was added after the export was sealed")


def test_a_file_added_beside_the_log_where_the_manifest_does_not_look(tmp_path: Path) -> None:
    for name in ("log/opinion.txt", "log/sites/x.html", "log/anchor.json"):
        ran = verified(tmp_path, {**packed(), name: b"x"})
        assert (ran.code, ran.failure) == (1, f"{name}: no such file belongs in log/")


def test_a_file_removed(tmp_path: Path) -> None:
    files = packed()
    del files["report/approvals.csv"]
    ran = verified(tmp_path, files)
    assert (ran.code, ran.failure) == (1, "report/approvals.csv: is missing")


def test_two_files_exchanged(tmp_path: Path) -> None:
    files, (one, other) = packed(), ("studies/open/study.json", "studies/private/study.json")
    files[one], files[other] = files[other], files[one]
    ran = verified(tmp_path, files)
    assert ran.code == 1
    assert ran.failure == f"{one}: was changed after the export was sealed"


@pytest.mark.parametrize("name", ["manifest.json", "log/checkpoint", "log/seal.json"])
def test_a_file_that_everything_rests_on_removed(tmp_path: Path, name: str) -> None:
    files = packed()
    del files[name]
    ran = verified(tmp_path, files)
    assert (ran.code, ran.failure) == (1, f"{name}: is missing")


def test_the_manifest_made_to_fit_an_edited_file(tmp_path: Path) -> None:
    content = {**made().content, "report/report.html": b"<title>All is well</title>"}
    manifest = bundle.manifest(made().evidence, content)
    ran = verified(tmp_path, {**packed(), **content, "manifest.json": manifest})
    assert ran.code == 1
    assert "none of the 1 export.sealed events in the log names it" in ran.failure


def test_an_export_that_was_never_sealed(tmp_path: Path) -> None:
    ran = verified(tmp_path, packed(sealed=False))
    assert (ran.code, "none of the 0 export.sealed events" in ran.failure) == (1, True)


def test_the_manifest_signed_by_a_stranger(tmp_path: Path) -> None:
    files = packed(officer="stranger", strangers={"stranger": SigningKey.generate()})
    ran = verified(tmp_path, files)
    assert (ran.code, "signed by a stranger's key" in ran.failure) == (1, True)


def auditor(role: str, key: SigningKey, seq: int = 16) -> str:
    detail = {"user": "E. Haddad", "role_after": role, "key_after": key.public.text}
    return bundles.event_line(COORDINATOR, seq, "user.role.changed", detail=detail)


def test_an_auditor_signs_who_is_registered_and_not_one_who_no_longer_is(tmp_path: Path) -> None:
    key = SigningKey.generate()
    named = [*made().lines, auditor("auditor", key)]
    files = packed(lines=named, officer="auditor", strangers={"auditor": key})
    ran = verified(tmp_path, files)
    assert ran.code == 0
    assert "with the key of the auditor E. Haddad, registered by event 61" in ran.out
    named.append(auditor("nobody", key, 17))
    files = packed(lines=named, officer="auditor", strangers={"auditor": key})
    assert "signed by a stranger's key" in verified(tmp_path, files).failure


def test_an_auditor_whom_only_the_coordinators_word_makes_one_is_to_be_compared(
    tmp_path: Path,
) -> None:
    one, key = made(), SigningKey.generate()
    files = packed(officer="auditor", strangers={"auditor": key})
    manifest, seal = files["manifest.json"], files["log/seal.json"]
    sealing = bundles.sealing(one.lines, COORDINATOR, manifest, seal, "regulator")
    for whose, code in ((key, 0), (SigningKey.generate(), 1)):
        event = json.loads(sealing)
        event["actor"] = {
            "type": "person",
            "id": "E. Haddad",
            "auth": f"signature:{whose.public.fingerprint}",
        }
        line = as_json(event).decode()
        relogged = packed(lines=[*one.lines, line], sealed=False)
        ran = verified(tmp_path, {**relogged, "log/seal.json": seal})
        assert ran.code == code
        assert (f"{key.public.fingerprint} is an auditor's key by the word of" in ran.out) != code


@pytest.mark.parametrize("key", ["name", "meaning", "at", "signature", "signed"])
def test_the_signature_changed_and_logged_again(tmp_path: Path, key: str) -> None:
    files, one = packed(), made()
    seal = json.loads(files["log/seal.json"])
    seal[key] = ("0" if seal[key][0] != "0" else "1") + seal[key][1:]
    text = as_json(seal)
    assert "is not the e-signature that event 61" in (
        verified(tmp_path, {**files, "log/seal.json": text}).failure
    )
    sealing = bundles.sealing(one.lines, COORDINATOR, files["manifest.json"], text, "regulator")
    relogged = packed(lines=[*one.lines, sealing], sealed=False)
    ran = verified(tmp_path, {**relogged, "log/seal.json": text})
    assert ran.code == 1
    assert ran.failure.startswith("log/seal.json: ")


def test_a_manifest_that_lets_files_go_after_a_month(tmp_path: Path) -> None:
    one = made()
    manifest = json.loads(bundle.manifest(one.evidence, one.content))
    manifest["files"][0]["retain_until"] = "2026-12-24T00:00:00.000Z"
    short = as_json(manifest)
    seal = canonical(bundles.esignature(short, one.keys[COORDINATOR]))
    sealing = bundles.sealing(one.lines, COORDINATOR, short, seal, "regulator")
    files = packed(lines=[*one.lines, sealing], sealed=False)
    ran = verified(tmp_path, {**files, "manifest.json": short, "log/seal.json": seal})
    assert (ran.code, "less than half a year" in ran.failure) == (1, True)


# ------------------------------------------------------------------ falsified, then sealed


def test_a_study_replaced_by_one_that_protects_less(tmp_path: Path) -> None:
    name = "studies/private/study.json"
    study = json.loads(made().content[name])
    study["privacy"]["epsilon"] = 40.0
    ran = verified(tmp_path, resealed(name, as_json(study)))
    assert (ran.code, ran.failure) == (1, f"{name}: is not a study of this log: it was changed")


def rows() -> list[bytes]:
    return made().content[LEDGER].splitlines(keepends=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda r: [r[0].replace(b'"3.0"', b'"5.0"'), *r[1:]],
            "(north-1): no privacy.spent",
        ),
        (
            lambda r: [*r[:2], r[2].replace(b'epsilon":"', b'epsilon":"0'), *r[3:]],
            "(north-3): no",
        ),
        (lambda r: [*r[:8], r[8].replace(b'"cap":"8.0"', b'"cap":"9.0"')], "(west-3): no"),
        (lambda r: r[1:], "line 1 (north-2): does not follow the site's row before it"),
        (lambda r: r[:-1], "privacy.spent): the row that it names is not in privacy/ledger.jsonl"),
        (lambda r: [r[1], r[0], *r[2:]], "line 1 (north-2): does not follow"),
        (lambda r: [r[0], *r], "line 2 (north-1): is there twice"),
        (lambda r: [*r, r[8].replace(b"west", b"east")], "line 10 (east-3): does not follow"),
        (lambda r: [r[0].replace(b'":', b'": ', 1), *r[1:]], "line 1: not in canonical form"),
        (lambda r: [], "the row that it names is not in privacy/ledger.jsonl"),
        (lambda r: [*r[:8], r[8][:-1]], "line 9: is cut off"),
    ],
    ids=[
        "noise",
        "epsilon",
        "cap",
        "first",
        "last",
        "order",
        "twice",
        "added",
        "form",
        "all",
        "cut",
    ],
)
def test_the_ledger_falsified_before_it_was_sealed(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], said: str
) -> None:
    ran = verified(tmp_path, resealed(LEDGER, b"".join(change(rows()))))
    assert (ran.code, said in ran.failure) == (1, True), ran.failure


def test_a_self_test_removed_or_said_to_have_passed(tmp_path: Path) -> None:
    lines = made().content[SELFTESTS].splitlines(keepends=True)
    ran = verified(tmp_path, resealed(SELFTESTS, b"".join(lines[1:])))
    assert (ran.code, "the self-test that it names is not in" in ran.failure) == (1, True)
    failed = canonical(bundles.selftest("north", "failed"))

    def fails(events: list[Values]) -> None:
        (event,) = [one for one in events if one["action"] == "privacy.selftest"]
        event["obj"][0].update(h=f"sha256:{verify.sha256(failed)}", bytes=len(failed))

    one = retold(made(), "north", fails)
    files = packed(one)
    ran = verified(tmp_path, files)
    assert (ran.code, "changed or added" in ran.failure) == (1, True)
    honest = b"".join([failed + b"\n", *(line for line in lines if b'"north"' not in line)])
    ran = verified(tmp_path, packed(one, content={**one.content, SELFTESTS: honest}))
    assert ran.code == 1
    assert "failed, and event" in ran.failure


MEANING = "disposition of this flag, having looked at the evidence"


@pytest.mark.parametrize("table", verify.TABLES)
@pytest.mark.parametrize(
    ("name", "meaning", "signed", "said"),
    [
        ("R. Meyer", MEANING, "a" * 64, ""),
        ("A. Weiss", MEANING, "a" * 64, "says another name or meaning"),
        ("R. Meyer", "approval", "a" * 64, "says another name or meaning"),
        ("R. Meyer", MEANING, "b" * 64, "no event records a signature by R. Meyer"),
    ],
)
def test_a_table_of_e_signatures_falsified_before_it_was_sealed(
    tmp_path: Path, table: str, name: str, meaning: str, signed: str, said: str
) -> None:
    disposed = bundles.event_line(
        COORDINATOR,
        16,
        "flag.dispositioned",
        obj=[{"t": "disposition", "h": f"sha256:{'a' * 64}"}],
        detail={"person": "R. Meyer", "meaning": MEANING},
    )
    text = "study,item,name,x,meaning,x,x,x,sha256,algorithm,key,signature\r\n" + ",".join(
        ["private", "flag", name, "", f'"{meaning}"', "", "", "", signed, "ed25519", "k", "00"]
    )
    content = {**made().content, table: f"{text}\r\n".encode()}
    ran = verified(tmp_path, packed(content=content, lines=[*made().lines, disposed]))
    assert (ran.code, said in ran.failure) == (int(bool(said)), True), ran.out
    assert said or "1 e-signatures in tables are recorded" in ran.out


# ------------------------------------------------------------------ narrowed, and still right


def test_an_export_of_a_part_verifies_with_the_rows_that_its_events_name(tmp_path: Path) -> None:
    one = made()
    hidden = {place(one.lines, "south", "privacy.spent", which) for which in (0, 1)}
    content = {**one.content, LEDGER: b"".join([*rows()[:3], rows()[5], *rows()[6:]])}
    ran = verified(tmp_path, packed(content=content, audience="consortium", withheld=hidden))
    assert ran.code == 0
    assert "it was not paid for, or that is withheld" in ran.out
    ran = verified(tmp_path, packed(audience="consortium", withheld=hidden))
    assert (ran.code, "no privacy.spent event names it" in ran.failure) == (1, True)


def test_a_revoked_sites_events_are_by_the_coordinators_word_and_that_is_said(
    tmp_path: Path,
) -> None:
    lines = [line for line in made().policy.splitlines(keepends=True) if "/south/" not in line]
    policy = "".join(lines).replace("hospitals 2 north south west", "hospitals 2 north west")
    revoked = bundles.event_line(COORDINATOR, 16, "node.revoked", detail={"site": "south"})
    files = packed(lines=[*made().lines, revoked], cosigners=["north", "west"])
    ran = verified(tmp_path, files, policy=policy)
    assert ran.code == 0
    assert "south was revoked, and your policy has no key of it: not checked" in ran.out


# ------------------------------------------------------------------ fairness


def rate(rates: Values, **about: str) -> Values:
    """The one row about something, to be changed in place."""
    wanted = {"study": "private", "outcome": "", "attribute": "sex", "group": "female", **about}
    found: Values
    (found,) = [row for row in rates["rates"] if wanted.items() <= row.items()]
    return found


SENSITIVITY = {"site": "north", "measure": "sensitivity", "threshold": "0.5"}


def consistent(row: Values, k: int) -> None:
    """Another count, with value and interval made to fit."""
    low, high = verify.wilson(k, row["n"])
    row.update(k=k, value=f"{k / row['n']:.6f}", ci95=[f"{low:.6f}", f"{high:.6f}"])


def shown(row: Values) -> None:
    row.update(suppressed=False, k=3, n=4, value="0.750000", ci95=[], ci_method="")


def first_gap(rates: Values, verdict: str = "") -> Values:
    found: Values = next(
        g for g in rates["gaps"] if not g["suppressed"] and verdict in ("", g["verdict"])
    )
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: rate(r, **SENSITIVITY).update(k=1), "sensitivity at 0.5 of sex female at north"),
        (lambda r: rate(r, **SENSITIVITY).update(value="0.990000"), "and not 0.990000"),
        (lambda r: rate(r, **SENSITIVITY)["ci95"].reverse(), "Wilson interval of"),
        (lambda r: rate(r, **SENSITIVITY).update(k=10**6), "is no count"),
        (lambda r: rate(r, **SENSITIVITY).update(ci95=[], ci_method=""), "none without a reason"),
        (
            lambda r: consistent(rate(r, **{**SENSITIVITY, "site": ""}), 1),
            "at all sites: 1 of",
        ),
        (
            lambda r: rate(r, **{**SENSITIVITY, "site": ""}).update(sites=["north", "west"]),
            "does not count the sites that show it",
        ),
        (lambda r: r["rates"].remove(rate(r, **SENSITIVITY)), "does not count the sites"),
        (lambda r: r["rates"].append(rate(r, **SENSITIVITY)), "is there twice"),
        (lambda r: first_gap(r).update(gap="0.000000"), "gap 0 ("),
        (lambda r: first_gap(r).update(n=10**6), "counts of"),
        (lambda r: first_gap(r).update(ci95=["-0.000001", "0.000001"]), "Newcombe interval"),
        (lambda r: first_gap(r, "GAP").update(verdict="within margin"), "the verdict is GAP"),
        (lambda r: first_gap(r, "GAP").update(margin="0.9"), "the verdict is within margin"),
        (lambda r: r.update(v=2), "another version"),
    ],
)
def test_a_rate_falsified_before_it_was_sealed(
    tmp_path: Path, change: Callable[[Values], object], said: str
) -> None:
    rates = json.loads(made().content[RATES])
    change(rates)
    ran = verified(tmp_path, resealed(RATES, as_json(rates)))
    assert ran.code == 1
    assert ran.failure.startswith("fairness/rates.json: ")
    assert said in ran.failure


def test_a_count_falsified_with_its_rate_interval_and_total_contradicts_the_others(
    tmp_path: Path,
) -> None:
    rates = json.loads(made().content[RATES])
    for site in ("north", ""):
        row = rate(rates, **{**SENSITIVITY, "site": site})
        consistent(row, row["k"] + 5)
    ran = verified(tmp_path, resealed(RATES, as_json(rates)))
    assert ran.code == 1
    assert "by sensitivity and specificity" in ran.failure


def test_a_suppressed_group_shown_all_the_same(tmp_path: Path) -> None:
    rates = json.loads(made().content[RATES])
    row = next(row for row in rates["rates"] if row["suppressed"] and row["site"] == "south")
    shown(row)
    ran = verified(tmp_path, resealed(RATES, as_json(rates)))
    assert ran.code == 1
    row.update(suppressed=True, reason="")
    assert "suppressed and shown" in verified(tmp_path, resealed(RATES, as_json(rates))).failure


# ------------------------------------------------------------------ a site that lies


def of(place: int, **values: Any) -> Callable[[list[Values]], None]:
    def change(found: list[Values]) -> None:
        lifetime = values.pop("lifetime", {})
        found[place].update(values)
        found[place]["lifetime"].update(lifetime)

    return change


def twice_as_many(found: list[Values]) -> None:
    for row in found:
        row["steps"] = row["dp"]["count"] = 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of(2, lifetime={"cap": "1.0"}), "(south-3): exceeds the lifetime cap of epsilon 1.0"),
        (of(2, lifetime={"spent": "99.0"}), "(south-3): exceeds the lifetime cap"),
        (of(1, lifetime={"after": "0.1"}), "(south-2): lifetime epsilon falls from"),
        (of(2, lifetime={"before": "0.1"}), "(south-3): begins at epsilon 0.1, below"),
        (of(2, epsilon="0.1"), "(south-3): the study's epsilon falls"),
        (of(2, epsilon="4.5"), "(south-3): epsilon 4.5 exceeds the study's 4.0"),
        (of(2, clip_norm="2.0"), "(south-3): clip_norm is 2.0, and the study was approved with 1"),
        (of(2, delta="0.01"), "(south-3): delta is 0.01"),
        (of(2, steps_planned=2), "(south-3): step 3 of 2 that were planned"),
        (of(2, noise_multiplier="9.0"), "(south-3): dp has noise 3, and the row 9.0"),
        (of(2, steps=0), "(south-3): dp counts 1 steps, and the row 0"),
        (of(2, sampler="poisson"), "sampler and sample_rate contradict each other"),
        (of(2, dp={"type": "Magic"}), "dp is of a type that this verifier does not know"),
        (of(2, max_records_per_unit=4), "the unit is not the patient"),
        (of(2, epsilon="low"), "is no decimal number"),
        (twice_as_many, "(south-2): step 4 of 3 that were planned"),
    ],
)
def test_a_site_that_records_what_it_may_not_do(
    tmp_path: Path, change: Callable[[list[Values]], None], said: str
) -> None:
    one, content = with_rows(made(), "south", change)
    ran = verified(tmp_path, packed(one, content=content))
    assert (ran.code, said in ran.failure) == (1, True), ran.failure


def test_a_site_whose_rows_say_less_epsilon_than_what_ran(tmp_path: Path) -> None:
    def less(found: list[Values]) -> None:
        for row in found:
            row["epsilon"] = f"{float(row['epsilon']) * 0.7:.6f}"

    one, content = with_rows(made(), "south", less)
    files = packed(one, content=content)
    assert verified(tmp_path, files).code == 0
    ran = verified(tmp_path, files, "--recompute-epsilon")
    assert ran.code == 1
    assert "(south-1): epsilon is said to be " in ran.failure


def drop(action: str, which: int = 0) -> Callable[[list[Values]], None]:
    def change(events: list[Values]) -> None:
        events.remove([event for event in events if event["action"] == action][which])

    return change


def later(action: str, than: str) -> Callable[[list[Values]], None]:
    """The first event with an action comes after the first with another, as if backdated."""

    def change(events: list[Values]) -> None:
        (first, *_) = [event for event in events if event["action"] == action]
        events.remove(first)
        place = next(i for i, event in enumerate(events) if event["action"] == than)
        events.insert(place + 1, first)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("study.approved"), "round.update.sent): the site had not approved the study before"),
        (later("study.approved", "round.update.sent"), "had not approved the study before"),
        (drop("privacy.spent", 1), "(south-2): no privacy.spent event names it"),
        (later("privacy.spent", "round.update.sent"), "was not paid for"),
    ],
    ids=["never-approved", "approval-backdated", "never-spent", "spent-afterwards"],
)
def test_a_site_that_sent_what_it_might_not(
    tmp_path: Path, change: Callable[[list[Values]], None], said: str
) -> None:
    ran = verified(tmp_path, packed(retold(made(), "south", change)))
    assert (ran.code, said in ran.out) == (1, True), ran.out


def test_an_update_of_a_private_study_without_its_row(tmp_path: Path) -> None:
    def fewer(found: list[Values]) -> None:
        del found[2]

    spent = drop("privacy.spent", 2)
    one, content = with_rows(retold(made(), "south", spent), "south", fewer)
    ran = verified(tmp_path, packed(one, content=content))
    assert (ran.code, "it was not paid for" in ran.failure) == (1, True)


def test_a_rejection_after_an_approval_is_the_last_word(tmp_path: Path) -> None:
    def reject(events: list[Values]) -> None:
        place = next(i for i, event in enumerate(events) if event["action"] == "study.approved")
        again = json.loads(json.dumps(events[place]))
        again.update(action="study.rejected")
        del again["detail"]
        events.insert(place + 1, again)

    ran = verified(tmp_path, packed(retold(made(), "south", reject)))
    assert (ran.code, "comes after study.rejected" in ran.failure) == (1, True)


# ------------------------------------------------------------------ a site's own export


def test_a_sites_own_bundle_verifies_and_is_unwitnessed_without_its_anchor(tmp_path: Path) -> None:
    files = bundles.packed_site()
    assert verified(tmp_path, files).code == 0
    del files["log/anchor.json"], files["log/consortium.checkpoint"]
    ran = verified(tmp_path, files)
    assert (ran.code, "is not anchored in the consortium's" in ran.out) == (2, True)


def test_a_sites_own_log_rewritten_after_it_was_anchored(tmp_path: Path) -> None:
    honest, one = bundles.packed_site(), made()
    own = []
    for seq, line in enumerate([*one.own["north"][:3], *one.own["north"][4:]]):
        event = json.loads(line)
        event["src"]["seq"] = seq
        own.append(as_json(event).decode())
    other = bundles.packed_site(one=replace(one, own={**one.own, "north": tuple(own)}))
    anchor = {name: honest[name] for name in ("log/anchor.json", "log/consortium.checkpoint")}
    ran = verified(tmp_path, {**other, **anchor})
    assert ran.code == 1
    assert "the site had 16 events when it was anchored: they were removed" in ran.failure
    assert leaf_hash(own[0]) in honest["log/leaf-hashes.bin"]


def test_an_approval_in_a_sites_table_that_nobody_gave(tmp_path: Path) -> None:
    for name, code in (("Dr. Weiss", 0), ("Dr. Schwarz", 1)):
        row = f"private,study,{name},,approval,,,,{'c' * 64},ed25519,k,00\r\n"
        table = {verify.TABLES[0]: b"header\r\n" + row.encode()}
        ran = verified(tmp_path, bundles.packed_site(more=table))
        assert ran.code == code
        assert ("says another name or meaning" in ran.failure) == bool(code)


def test_an_anchor_that_is_not_in_the_consortiums_log(tmp_path: Path) -> None:
    files = bundles.packed_site()
    anchor = json.loads(files["log/anchor.json"])
    for change, said in (
        ({"place": anchor["place"] - 1}, "its event is not in the consortium's log"),
        ({"size": anchor["size"] - 1}, "is about another checkpoint"),
        ({"path": anchor["path"][1:]}, "its event is not in the consortium's log"),
        ({"line": made().lines[0]}, "its event is not in the consortium's log"),
    ):
        ran = verified(tmp_path, {**files, "log/anchor.json": as_json({**anchor, **change})})
        assert (ran.code, said in ran.failure) == (1, True), ran.failure
