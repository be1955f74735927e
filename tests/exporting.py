"""A consortium with its directories, a completed study and a witnessed log, to export from."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.federation import (
    COORDINATOR,
    FULL,
    Federation,
    approve,
    coordinate,
    make_site,
    write_study,
)

from cohortium.client.site import Site
from cohortium.common.audit import names
from cohortium.common.audit.events import os_user
from cohortium.common.audit.notes import Checkpoint, cosign, sign_checkpoint
from cohortium.common.audit.tree import Tree
from cohortium.common.cli import main
from cohortium.common.identity import SigningKey
from cohortium.common.study import Study
from cohortium.server.config import CoordinatorDir
from cohortium.server.consortium import Consortium
from cohortium.server.coordinator import run_study
from cohortium.server.setup import initialise

OFFICER = "Dr. E. Haddad"
APPROVER = "Dr. Weiss"
SECOND = 1_790_000_000


def begin(root: Path, sites_of: tuple[str, ...] = ("a", "b", "c")) -> tuple[Path, Federation]:
    """A coordinator's directory with enrolled sites, as `init` and joining leave it."""
    home = root / "home"
    initialise(home, COORDINATOR, "127.0.0.1", 9092, 9093, os_user())
    key = SigningKey.load(CoordinatorDir(home).signing_key)
    sites = {name: make_site(root / name, name, key.public) for name in sites_of}
    federation = coordinate(home, key, sites)
    for name, site in sites.items():
        federation.store.database.execute(
            "INSERT INTO sites VALUES (?, ?, ?, 0, NULL)",
            (name, name.encode(), site.key.public.text),
        )
    return home, federation


def run(federation: Federation, root: Path, *parts: str, name: str = "ward-study") -> Study:
    """A whole study, approved at every site by a person who is logged."""
    study = write_study(root, *(parts or (FULL,)), name=name)
    for site in federation.sites.values():
        approve(site, study, APPROVER)
        detail = {"person": APPROVER, "meaning": "approval of this study on this site's data"}
        site.log.append("study.approved", actor=os_user(), study=study.digest, detail=detail)
    run_study(study, federation.desk(study))
    return study


def consortium(federation: Federation) -> Consortium:
    return Consortium(federation.store.database, federation.key, COORDINATOR)


def hand_over(federation: Federation) -> None:
    """What the sites' daemons do when they are asked: their shared events, and a signed head."""
    log = consortium(federation)
    for name, site in federation.sites.items():
        have = log.have(name)
        rows = site.database.execute("SELECT line FROM shared WHERE seq >= ? ORDER BY seq", (have,))
        size = have + len(rows)
        head = Checkpoint(names.site_log(COORDINATOR, name), size, _root(site, size))
        with log.database.transaction():
            log.take(name, [row["line"] for row in rows])
            log.database.execute(
                "INSERT OR REPLACE INTO site_heads VALUES (?, ?, 0)",
                (name, sign_checkpoint(head, site.key).text),
            )


def cosigned(federation: Federation, *sites: str) -> int:
    """Let sites cosign a checkpoint over all that is logged; its size."""
    log = consortium(federation)
    note = log.checkpoint(0)
    for name in sites:
        witness = names.witness(COORDINATOR, name)
        line = cosign(note.body, witness, federation.sites[name].key, SECOND).line
        log.database.execute(
            "INSERT OR REPLACE INTO cosignatures VALUES (?, ?, ?, 0)",
            (note.checkpoint.size, name, line),
        )
    return note.checkpoint.size


def _root(site: Site, size: int) -> bytes:
    return Tree(site.database, "shared").root(size)


@dataclass
class Desk:
    """Runs `cohortium audit export` on a directory, into files beside it."""

    root: Path
    out: Path
    capsys: pytest.CaptureFixture[str]

    def run(self, *words: str, out: str = "e.zip", person: str = OFFICER) -> tuple[int, Any]:
        where = ("--dir", str(self.root), "--out", str(self.out / out), "--as", person)
        with pytest.raises(SystemExit) as ended:
            main(["audit", "export", *where, "--wait", "0", *words, "--json"])
        said = self.capsys.readouterr()
        assert "Traceback" not in said.err
        assert isinstance(ended.value.code, int)
        return ended.value.code, json.loads(said.out)

    def ok(self, *words: str, out: str = "e.zip", person: str = OFFICER) -> dict[str, Any]:
        code, document = self.run(*words, out=out, person=person)
        assert code == 0, document
        found: dict[str, Any] = document
        return found

    def files(self, out: str = "e.zip") -> Mapping[str, bytes]:
        with zipfile.ZipFile(self.out / out) as packed:
            return {name: packed.read(name) for name in packed.namelist()}


def lines(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """The events that are shown."""
    text = files["log/events.jsonl"].decode()
    return [json.loads(line.split("\t", 1)[1]) for line in text.splitlines()]
