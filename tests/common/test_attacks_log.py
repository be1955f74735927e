"""Attacks on the log of a bundle: each is caught, and named. `bundles.packed` is the attacker.

Who has only the file changes it; who has the coordinator's key signs what they like, but not in
the name of a site.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import bundles
from tests.bundles import COORDINATOR, SITES, as_json, changed, made, packed, place, verified

from cohortium.common.audit import bundle, names
from cohortium.common.audit.events import leaf_hash
from cohortium.common.audit.notes import cosign, read_note
from cohortium.common.identity import SigningKey

CHECKPOINT, EVENTS, LEAVES = "log/checkpoint", "log/events.jsonl", "log/leaf-hashes.bin"


def edited(name: str, old: bytes, new: bytes) -> dict[str, bytes]:
    """An honest bundle with one thing replaced in one file."""
    files = packed()
    assert old in files[name]
    return {**files, name: files[name].replace(old, new, 1)}


def checkpoint(size: int | None = None, cosigners: tuple[str, ...] = SITES) -> str:
    """What a careful reader kept: a note over the log's beginning."""
    one = made()
    note = bundles.signed(one.evidence.origin, one.lines[:size], one.keys[COORDINATOR])
    lines = [cosign(note.body, names.witness(COORDINATOR, s), one.keys[s], 1) for s in cosigners]
    return note.with_(lines).text


def known(folder: Path, text: str) -> tuple[str, str]:
    (folder / "known").write_text(text)
    return "--known-checkpoint", str(folder / "known")


# ------------------------------------------------------------------ by whoever holds the file


def test_an_event_edited(tmp_path: Path) -> None:
    ran = verified(tmp_path, edited(EVENTS, b'"round":2', b'"round":3'))
    index = next(i for i, line in enumerate(made().lines) if '"round":2' in line)
    assert ran.code == 1
    assert ran.failure == f"event {index} is not what was logged: it was changed"


def test_an_event_edited_and_its_leaf_made_to_fit(tmp_path: Path) -> None:
    files = packed()
    lines = files[EVENTS].replace(b'"round":2', b'"round":3', 1)
    leaves = [leaf_hash(line.split(b"\t", 1)[1].decode()) for line in lines.splitlines()]
    ran = verified(tmp_path, {**files, EVENTS: lines, LEAVES: b"".join(leaves)})
    assert (ran.code, "do not give the signed root" in ran.failure) == (1, True)


def test_an_event_withheld_from_a_regulator(tmp_path: Path) -> None:
    ran = verified(tmp_path, packed(withheld=[7]))
    assert ran.code == 1
    assert ran.failure.startswith("event 7 is withheld: a regulator's bundle shows every event")


def test_an_event_erased_is_withheld_only_if_that_is_recorded(tmp_path: Path) -> None:
    gone = place(made().lines, "south", "evaluation.completed")
    leaf = leaf_hash(made().lines[gone]).hex()
    redacted = bundles.event_line(
        COORDINATOR, 16, "retention.redacted", obj=[{"t": "event", "h": f"sha256:{leaf}"}]
    )
    ran = verified(tmp_path, packed(lines=[*made().lines, redacted], withheld=[gone]))
    assert ran.code == 0
    assert "1 events were erased, as retention.redacted records" in ran.out
    ran = verified(tmp_path, packed(lines=[*made().lines, redacted], withheld=[gone, 7]))
    assert (ran.code, ran.failure.startswith("event 7 is withheld")) == (1, True)


def test_events_withheld_from_a_consortium_are_counted(tmp_path: Path) -> None:
    ran = verified(tmp_path, packed(audience="consortium", withheld=[3, 4]))
    assert ran.code == 0
    assert "60 of 62 events shown, each equal to its logged leaf (2 withheld)" in ran.out


def test_the_end_of_the_leaves_cut_off(tmp_path: Path) -> None:
    files = packed()
    ran = verified(tmp_path, {**files, LEAVES: files[LEAVES][:-32]})
    assert (ran.code, ran.failure) == (
        1,
        "log/leaf-hashes.bin: has 61 leaves, and the checkpoint 62",
    )
    assert verified(tmp_path, {**files, LEAVES: files[LEAVES][:-1]}).failure.endswith("cut off")


def test_two_leaves_exchanged(tmp_path: Path) -> None:
    leaves = packed()[LEAVES]
    swapped = leaves[32:64] + leaves[:32] + leaves[64:]
    ran = verified(tmp_path, {**packed(), LEAVES: swapped})
    assert (ran.code, "do not give the signed root" in ran.failure) == (1, True)


@pytest.mark.parametrize("order", [[1, 0], [0, 0]], ids=["exchanged", "twice"])
def test_two_events_exchanged_or_one_shown_twice(tmp_path: Path, order: list[int]) -> None:
    lines = packed()[EVENTS].splitlines(keepends=True)
    text = b"".join([*(lines[place] for place in order), *lines[2:]])
    ran = verified(tmp_path, {**packed(), EVENTS: text})
    assert (ran.code, "out of order, twice" in ran.failure) == (1, True)


def test_the_last_event_cut_in_the_middle(tmp_path: Path) -> None:
    files = packed()
    ran = verified(tmp_path, {**files, EVENTS: files[EVENTS][:-20]})
    assert (ran.code, "line 62: not a number, a tab and an event" in ran.failure) == (1, True)


def test_cosignatures_dropped(tmp_path: Path) -> None:
    lines = packed()[CHECKPOINT].splitlines(keepends=True)
    left = [line for line in lines if b"south" not in line and b"west" not in line]
    ran = verified(tmp_path, {**packed(), CHECKPOINT: b"".join(left)})
    assert ran.code == 2
    assert "RESULT: VERIFIED, BUT UNWITNESSED: witness quorum 'hospitals' is not met" in ran.out
    assert "cosigned by north" in ran.out


def signature_changed(name: str, change: Callable[[bytes], bytes]) -> dict[str, bytes]:
    """The checkpoint with the signature line of a name changed."""
    lines = packed()[CHECKPOINT].decode().splitlines()
    for number, line in enumerate(lines):
        if line.startswith(f"\u2014 {name} "):
            raw = base64.b64decode(line.rpartition(" ")[2])
            lines[number] = f"\u2014 {name} {base64.b64encode(change(raw)).decode()}"
    return {**packed(), CHECKPOINT: "\n".join([*lines, ""]).encode()}


SOUTH = names.witness(COORDINATOR, "south")


def test_a_cosignature_forged(tmp_path: Path) -> None:
    files = signature_changed(SOUTH, lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:])
    ran = verified(tmp_path, files)
    assert ran.code == 1
    assert ran.failure.startswith(f"log/checkpoint: the cosignature by {SOUTH} is forged")


def test_the_time_of_a_cosignature_changed(tmp_path: Path) -> None:
    files = signature_changed(SOUTH, lambda raw: raw[:11] + bytes([raw[11] ^ 1]) + raw[12:])
    assert "is forged" in verified(tmp_path, files).failure


def test_a_cosignature_of_another_checkpoint(tmp_path: Path) -> None:
    other = read_note(checkpoint(40), "other")
    (theirs,) = [one for one in other.signatures if one.name == SOUTH]
    files = signature_changed(SOUTH, lambda _: theirs.key_id + theirs.raw)
    ran = verified(tmp_path, files)
    assert ran.code == 1
    assert ran.failure.endswith("is forged, or of another text")


def test_a_witness_counted_twice_under_two_names(tmp_path: Path) -> None:
    one = made()
    key = one.keys["north"]
    note = read_note(packed(cosigners=["north"])[CHECKPOINT].decode(), "note")
    more = note.with_([cosign(note.body, SOUTH, key, 1)])
    ran = verified(tmp_path, {**packed(), CHECKPOINT: more.text.encode()})
    assert ran.code == 2
    assert "cosigned by north" in ran.out
    assert "has 1 signatures by keys that your policy lacks" in ran.out


def test_the_logs_own_signature_dropped(tmp_path: Path) -> None:
    lines = packed()[CHECKPOINT].splitlines(keepends=True)
    own = [line for line in lines if not line.startswith("\u2014 centre.cohortium/log ".encode())]
    ran = verified(tmp_path, {**packed(), CHECKPOINT: b"".join(own)})
    assert (ran.code, "not signed by the key that your policy has" in ran.failure) == (1, True)


def test_the_size_in_the_checkpoint_raised(tmp_path: Path) -> None:
    ran = verified(tmp_path, edited(CHECKPOINT, b"\n62\n", b"\n63\n"))
    assert (ran.code, "is forged, or of another text" in ran.failure) == (1, True)


def test_a_stranger_signs_the_log_in_its_name(tmp_path: Path) -> None:
    ran = verified(tmp_path, packed(strangers={COORDINATOR: SigningKey.generate()}))
    assert (ran.code, "not signed by the key that your policy has" in ran.failure) == (1, True)


# ------------------------------------------------------------------ by the coordinator


def without(index: int, node: str = COORDINATOR) -> list[str]:
    """The log without an event; later ones of the node are numbered anew."""
    lines = list(made().lines)
    del lines[index]

    def renumber(event: dict[str, Any]) -> None:
        event["src"]["seq"] -= 1

    later = [i for i in range(index, len(lines)) if f'"node":"{node}"' in lines[i]]
    for i in later:
        lines[i] = changed(lines[i], renumber)
    return lines


def test_history_rewritten_and_signed_again_alone(tmp_path: Path) -> None:
    gone = place(made().lines, COORDINATOR, "round.aggregated", 1)
    files = packed(lines=without(gone), cosigners=())
    ran = verified(tmp_path, files)
    assert (ran.code, "cosigned by nobody" in ran.out) == (2, True)
    ran = verified(tmp_path, files, *known(tmp_path, checkpoint()))
    assert ran.code == 1
    assert "the first 61 events are not those that you saw: history was rewritten" in ran.failure


def test_two_views_for_two_sites(tmp_path: Path) -> None:
    gone = place(made().lines, COORDINATOR, "round.aggregated", 1)
    view = packed(lines=without(gone), cosigners=["north"])
    assert verified(tmp_path, view).code == 2
    ran = verified(tmp_path, view, *known(tmp_path, checkpoint(50, ("south",))))
    assert ran.code == 1
    assert "you were shown another log" in ran.failure


def test_an_old_database_restored(tmp_path: Path) -> None:
    one = made()
    last = max(place(one.lines, site, "privacy.selftest") for site in SITES)
    gone = set(range(last, len(one.lines)))
    shared = {s: [x for x in lines if x in one.lines[:last]] for s, lines in one.shared.items()}
    ran = verified(
        tmp_path,
        packed(lines=[x for i, x in enumerate(one.lines) if i not in gone], shared=shared),
        *known(tmp_path, packed()[CHECKPOINT].decode()),
    )
    assert ran.code == 1
    assert "the log had 62 events when you saw it" in ran.failure


def test_a_bundle_of_last_year(tmp_path: Path) -> None:
    one = made()
    later = bundles.event_line(COORDINATOR, 16, "log.review", detail={"person": "R. Meyer"})
    now = bundles.signed(one.evidence.origin, [*one.lines, "x", later], one.keys[COORDINATOR])
    ran = verified(tmp_path, packed(), *known(tmp_path, now.text))
    assert (ran.code, "this bundle is older than your checkpoint" in ran.failure) == (1, True)


def test_the_earlier_checkpoint_is_of_another_log_or_forged(tmp_path: Path) -> None:
    other = bundles.signed("other.cohortium/log", ["x"], made().keys[COORDINATOR])
    ran = verified(tmp_path, packed(), *known(tmp_path, other.text))
    assert (ran.code, "is of another log (other.cohortium/log)" in ran.failure) == (1, True)
    text = checkpoint(40).replace("\n40\n", "\n39\n")
    assert "is forged" in verified(tmp_path, packed(), *known(tmp_path, text)).failure


def test_an_event_of_its_own_dropped_without_a_new_numbering(tmp_path: Path) -> None:
    index = place(made().lines, COORDINATOR, "round.aggregated")
    lines = [line for i, line in enumerate(made().lines) if i != index]
    ran = verified(tmp_path, packed(lines=lines))
    assert ran.code == 1
    assert " of centre is missing before " in ran.failure


def test_an_event_of_its_own_logged_twice(tmp_path: Path) -> None:
    lines = [*made().lines, made().lines[0]]
    ran = verified(tmp_path, packed(lines=lines))
    assert (ran.code, "number 0 of centre comes twice" in ran.failure) == (1, True)


def test_an_event_of_a_site_dropped(tmp_path: Path) -> None:
    gone = place(made().lines, "south", "privacy.spent", 1)
    lines = [line for i, line in enumerate(made().lines) if i != gone]
    ran = verified(tmp_path, packed(lines=lines))
    assert (ran.code, "of south is missing" in ran.failure) == (1, True)
    ran = verified(tmp_path, packed(lines=without(gone, "south")))
    assert ran.code == 1
    assert ran.failure.endswith("and is not among those that south signed: it is forged")


def test_an_event_of_a_site_replaced_by_one_that_is_withheld(tmp_path: Path) -> None:
    lines = list(made().lines)
    gone = place(lines, "south", "privacy.spent", 1)
    seq = json.loads(lines[gone])["src"]["seq"]
    lines[gone] = "nothing"
    ran = verified(tmp_path, packed(audience="consortium", lines=lines, withheld=[gone]))
    assert ran.code == 1
    assert ran.failure == f"number {seq} of south is not in the log: it was dropped"


def test_the_newest_events_of_a_site_left_out_are_said(tmp_path: Path) -> None:
    last = place(made().lines, "south", "log.checkpoint")
    lines = [line for i, line in enumerate(made().lines) if i != last]
    ran = verified(tmp_path, packed(lines=lines))
    assert ran.code == 0
    assert "1 events that south signed, from number 14 on, are not in the log" in ran.out


def test_an_event_of_a_site_invented(tmp_path: Path) -> None:
    forged = bundles.event_line("south", len(made().shared["south"]), "run.completed")
    ran = verified(tmp_path, packed(lines=[*made().lines, forged]))
    assert ran.code == 1
    assert ran.failure.startswith("event 61 is said to be number 15 of south")
    assert ran.failure.endswith("it is forged")


def test_an_event_of_a_site_invented_with_its_checkpoint(tmp_path: Path) -> None:
    forged = bundles.event_line("south", len(made().shared["south"]), "run.completed")
    shared = {**made().shared, "south": [*made().shared["south"], forged]}
    one = replace(made(), keys={**made().keys, "south": made().keys[COORDINATOR]})
    files = packed(one, lines=[*made().lines, forged], shared=shared, cosigners=["north", "west"])
    ran = verified(tmp_path, files)
    assert ran.code == 1
    assert ran.failure == (
        "log/sites/south.checkpoint: not signed by the key that your policy has for south"
    )


def test_two_events_of_a_site_exchanged(tmp_path: Path) -> None:
    lines = list(made().lines)
    one, other = (place(lines, "south", "privacy.spent", which) for which in (0, 1))
    lines[one], lines[other] = lines[other], lines[one]
    ran = verified(tmp_path, packed(audience="consortium", lines=lines, withheld=[one, other]))
    assert ran.code == 1
    assert "of south stands at" in ran.failure


def test_an_event_of_one_site_said_to_be_anothers(tmp_path: Path) -> None:
    lines = list(made().lines)
    index = place(lines, "south", "privacy.selftest")

    def to_west(event: dict[str, Any]) -> None:
        event["src"] = {"node": "west", "org": "west", "seq": len(made().shared["west"])}

    stolen, lines[index] = changed(lines[index], to_west), "nothing"
    files = packed(audience="consortium", lines=[*lines, stolen], withheld=[index])
    ran = verified(tmp_path, files)
    assert ran.code == 1
    assert ran.failure.endswith("of south is not in the log: it was dropped")
    lines[index] = made().lines[index]
    ran = verified(tmp_path, packed(lines=[*lines, stolen]))
    assert ran.code == 1
    assert ran.failure.endswith("is not among those that west signed: it is forged")


def test_all_events_of_a_site_left_out(tmp_path: Path) -> None:
    one = made()
    lines = [line for line in one.lines if '"node":"south"' not in line]
    shared = {site: own for site, own in one.shared.items() if site != "south"}
    ran = verified(tmp_path, packed(lines=lines, shared=shared))
    assert ran.code == 1
    assert ran.failure.startswith("log/sites/south.checkpoint: is missing, though south cosigned")


def test_the_leaves_of_a_site_changed(tmp_path: Path) -> None:
    name = "log/sites/south.leaves"
    leaves = packed()[name]
    ran = verified(tmp_path, {**packed(), name: leaves[32:] + leaves[:32]})
    assert (ran.code, ran.failure) == (1, f"{name}: not the events that south signed")


def test_a_sites_log_shown_as_the_consortiums(tmp_path: Path) -> None:
    one = made()
    own = replace(one.evidence, origin=names.site_log(COORDINATOR, "south"), node="south")
    manifest = bundle.manifest(own, one.content)
    ran = verified(tmp_path, {**packed(), "manifest.json": manifest})
    assert ran.code == 1
    assert "is no log for the audience regulator" in ran.failure


def test_the_audience_changed_to_hide_what_is_withheld(tmp_path: Path) -> None:
    files = packed(withheld=[5])
    manifest = json.loads(files["manifest.json"])
    files["manifest.json"] = as_json({**manifest, "audience": "consortium"})
    ran = verified(tmp_path, files)
    assert (ran.code, "changed after it was sealed" in ran.failure) == (1, True)


def test_a_clock_set_back_is_said(tmp_path: Path) -> None:
    later = bundles.event_line(COORDINATOR, 16, "log.review")
    earlier = changed(
        bundles.event_line(COORDINATOR, 17, "log.review"),
        lambda event: event.update(ts=json.loads(made().lines[0])["ts"]),
    )
    ran = verified(tmp_path, packed(lines=[*made().lines, later, earlier]))
    assert (ran.code, "its id was made at another time" in ran.failure) == (1, True)
    back = changed(earlier, lambda event: event.update(id=json.loads(made().lines[0])["id"]))
    ran = verified(tmp_path, packed(lines=[*made().lines, later, back]))
    assert ran.code == 0
    assert "a clock was set back: event 62 (centre number 17, log.review)" in ran.out


# ------------------------------------------------------------------ in the form of events


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('{"action"', '{"action":"x.y","action"', "not in canonical form"),
        ('"v":1}', '"v":1.0}', "a number that is not whole"),
        ('"v":1}', '"v":true}', "field is not as events have it"),
        ('"v":1}', '"v":2}', "field is not as events have it"),
        ('"v":1}', '"v":1,"x":1}', "has one that no event has"),
        ('"v":1}', '"v":1} ', "not in canonical form"),
        ('"v":1}', '"v":1', "not JSON"),
        ('"log.review"', '"log.revie\\u0077"', "not in canonical form"),
        ('"log.review"', '"log.rеview"', "action is not as events have it"),  # a Cyrillic е
        ('"outcome":"success"', '"outcome":"denied"', "no reason for it"),
        ('"detail":{}', '"detail":{"a":"\\ud800"}', "not in canonical form"),
        ('"seq":16', '"seq":-1', "field is not as events have it"),
    ],
)
def test_an_event_logged_in_an_ambiguous_or_improper_form(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    line = bundles.event_line(COORDINATOR, 16, "log.review")
    if "detail" in old:
        line, old = line.replace('"id"', '"detail":{},"id"'), '"detail":{}'
    assert old in line
    ran = verified(tmp_path, packed(lines=[*made().lines, line.replace(old, new)]))
    assert ran.code == 1
    assert said in ran.failure
    assert ran.failure.startswith("event 61")


def test_a_site_whose_name_only_looks_like_anothers(tmp_path: Path) -> None:
    forged = bundles.event_line("nоrth", 0, "run.completed")  # a Cyrillic о
    ran = verified(tmp_path, packed(lines=[*made().lines, forged]))
    assert (ran.code, ran.failure.endswith("it is forged")) == (1, True)
