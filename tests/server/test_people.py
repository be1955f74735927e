"""Where coordinator.toml names people, each of them may do what the role allows, and no more."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.federation import PRIVATE, write_study

from cohortium.common.audit.events import os_user
from cohortium.common.cli import main
from cohortium.server.opened import open_coordinator
from cohortium.server.setup import initialise


@pytest.fixture
def home(tmp_path: Path) -> Path:
    initialise(tmp_path / "home", "net", "127.0.0.1", 9092, 9093, os_user())
    return tmp_path / "home"


def name_people(home: Path, **people: str) -> None:
    lines = [f'"{name}" = "{role}"' for name, role in people.items()]
    path = home / "coordinator.toml"
    path.write_text(path.read_text() + "\n[people]\n" + "\n".join(lines) + "\n")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    assert isinstance(ended.value.code, int)
    return ended.value.code, json.loads(capsys.readouterr().out)


def attempts(home: Path) -> dict[str, tuple[str, ...]]:
    where = ("--dir", str(home))
    return {
        "invite": ("coordinator", "invite", "a", "--out", str(home.parent / "a"), *where),
        "renew": ("coordinator", "renew", *where),
        "revoke": ("coordinator", "revoke", "a", *where),
    }


@pytest.mark.parametrize("word", ["invite", "renew", "revoke"])
def test_an_auditor_reads_and_changes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    name_people(home, **{os_user().id: "auditor", "Weiss": "lead"})
    code, document = said(capsys, *attempts(home)[word])
    assert code == 4
    assert document["error"].startswith("people.auditor: ")
    assert "and change nothing; others there: Weiss" in document["error"]
    assert said(capsys, "study", "list", "--dir", str(home))[0] == 0


def test_an_operator_invites_and_stops_no_study(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_coordinator(home)
    study = write_study(home.parent, PRIVATE)
    opened.store.submit(study, 0)
    name_people(home, **{os_user().id: "operator"})
    assert said(capsys, *attempts(home)["invite"])[0] == 0
    for word in ("stop", "resume"):
        code, document = said(capsys, "study", word, study.name, "--dir", str(home))
        assert (code, "is not lead in" in document["error"]) == (4, True)
        opened.store.end(study.digest, "failed", "", "", 1)
    assert opened.store.study(study.name).state == "failed"


def test_where_nobody_is_named_everybody_may(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, *attempts(home)["invite"])[0] == 0
    assert said(capsys, *attempts(home)["renew"])[0] == 0
