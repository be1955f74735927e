"""An auditor reads and exports; every other command, also one yet to come, refuses the role."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from tests.common.test_cli_contract import COMMANDS
from tests.federation import PRIVATE, make_site, write_study

from cohortium.common.audit.events import os_user
from cohortium.common.cli import main
from cohortium.common.errors import DocumentError
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.common.people import READING, guard
from cohortium.server.opened import open_coordinator
from cohortium.server.setup import initialise

GROUPS = ("audit", "coordinator", "site", "study")
ME = os_user().id
AUDITOR = "E. Haddad"
# What stands for an argument, by its name in the command; a file that is there, or a word.
ARGUMENTS = {"flag": "1f0c2d3e", "site": "north", "study": "ward-study", "name": "ward"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A coordinator, a site and a study's file, with an auditor's key registered at both."""
    initialise(tmp_path / "coordinator", "net", "127.0.0.1", 9092, 9093, os_user())
    site = make_site(tmp_path / "site", "a", SigningKey.generate().public)
    study = write_study(tmp_path, PRIVATE)
    site.studies.receive(study, 0)
    site.database.close()
    opened = open_coordinator(tmp_path / "coordinator")
    opened.store.submit(study, 0)
    opened.store.end(study.digest, "failed", "", "", 1)
    opened.database.close()
    return tmp_path


def appoint(home: Path, section: str, name: str, value: str) -> None:
    for file in (home / "coordinator" / "coordinator.toml", home / "site" / "site.toml"):
        file.write_text(f'{file.read_text()}\n[{section}]\n"{name}" = "{value}"\n')


def call(path: tuple[str, ...], home: Path, person: str) -> list[str]:
    """A call of a command that would do something, in the name of a person where it takes one."""
    words = list(path)
    for parameter in COMMANDS[path].params:
        if parameter.param_type_name == "argument":
            words.append(_value(parameter.name or "", home, path))
        elif parameter.name in ("directory", "person") or parameter.required:
            value = (
                person if parameter.name == "person" else _value(parameter.name or "", home, path)
            )
            words += [parameter.opts[0], value]
    return words


def _value(name: str, home: Path, path: tuple[str, ...]) -> str:
    root = home / ("site" if path[0] == "site" else "coordinator")
    files = {
        "directory": root,
        "out": home / "out",
        "file": home / "study.toml",
        "path": home / "site" / "ward.csv",
        "schema": home / "site" / "schema.toml",
        "invitation": home / "a.invite",
        "bundle": home / "bundle.zip",
        "policy": home / "policy.txt",
    }
    others = {"host": "127.0.0.1", "reason": "because", **ARGUMENTS}
    return str(files.get(name) or others.get(name) or "x")


def ran(capsys: pytest.CaptureFixture[str], words: list[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().out


def paths(reading: bool) -> list[tuple[str, ...]]:
    return [p for p in COMMANDS if p[0] in GROUPS and (" ".join(p) in READING) == reading]


Appointed = Callable[[Path], str]


def by_user(home: Path) -> str:
    appoint(home, "people", ME, "auditor")
    return "Dr. Weiss"


def by_key(home: Path) -> str:
    appoint(home, "auditors", AUDITOR, SigningKey.generate().public.text)
    return AUDITOR


@pytest.mark.parametrize("path", paths(reading=False), ids=" ".join)
def test_an_auditor_calls_nothing_that_changes_something(
    home: Path, capsys: pytest.CaptureFixture[str], path: tuple[str, ...]
) -> None:
    person = by_user(home)
    code, out = ran(capsys, call(path, home, person))
    assert code == 4, out
    assert json.loads(out)["error"].startswith(f'people.auditor: "{ME}" is an auditor in ')


@pytest.mark.parametrize(
    "path",
    [p for p in paths(reading=False) if "person" in {o.name for o in COMMANDS[p].params}],
    ids=" ".join,
)
def test_nobody_acts_in_the_name_of_a_registered_auditor(
    home: Path, capsys: pytest.CaptureFixture[str], path: tuple[str, ...]
) -> None:
    person = by_key(home)
    code, out = ran(capsys, call(path, home, person))
    assert code == 4, out
    assert json.loads(out)["error"].startswith(f'people.auditor: "{AUDITOR}" is an auditor in ')


@pytest.mark.parametrize("path", paths(reading=True), ids=" ".join)
def test_an_auditor_calls_everything_that_reads(
    home: Path, capsys: pytest.CaptureFixture[str], path: tuple[str, ...]
) -> None:
    by_user(home)
    code, out = ran(capsys, call(path, home, AUDITOR))
    assert "people." not in out
    assert code != 4 or "release.completed" in out  # the rule for everybody


def test_a_command_that_nobody_listed_is_refused_to_auditors(home: Path) -> None:
    by_user(home)
    new = typer.Typer()

    @new.command()
    def invented(directory: Path) -> None:
        raise AssertionError("it was called")

    @new.command()
    def other() -> None: ...

    command = guard(typer.main.get_command(new))
    with pytest.raises(Exception, match=r"people\.auditor"):
        command.main(["invented", str(home / "site")], standalone_mode=False)


def test_who_tried_is_in_the_log_of_the_party(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_user(home)
    ran(capsys, ["site", "pause", "--as", "Dr. Weiss", "--dir", str(home / "site")])
    ran(capsys, ["coordinator", "revoke", "north", "--dir", str(home / "coordinator")])
    for party in ("site", "coordinator"):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["audit", "log", "--dir", str(home / party), "--json"])
        last: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (last["action"], last["outcome"]) == ("auth.fail", "denied")
        assert (last["reason"], last["detail"]) == ("people.auditor", {"user": ME})
    assert not (home / "site" / "paused.json").exists()


def test_the_user_is_not_whom_the_environment_names(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_user(home)
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "lead")
    words = ["site", "pause", "--as", "Dr. Weiss", "--dir", str(home / "site")]
    assert ran(capsys, words)[0] == 4


def test_where_nobody_is_an_auditor_everybody_acts_as_before(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    appoint(home, "people", "Somebody Else", "auditor")
    words = ["site", "pause", "--as", "Dr. Weiss", "--dir", str(home / "site")]
    assert ran(capsys, words)[0] == 0


def test_an_auditors_key_is_made_for_the_auditor_and_the_line_is_what_the_config_takes(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = home / "haddad.key"
    code, said = ran(capsys, ["audit", "keygen", 'E. "Eva" Haddad', "--out", str(out)])
    made = json.loads(said)
    assert code == 0
    assert out.stat().st_mode & 0o777 == 0o600
    key = SigningKey.load(out)
    assert VerifyKey.from_text(made["public"]) == key.public
    assert "PRIVATE" not in said
    file = home / "coordinator" / "coordinator.toml"
    file.write_text(f"{file.read_text()}\n[auditors]\n{made['line']}\n")
    config = open_coordinator(home / "coordinator").config
    assert config.auditors == {'E. "Eva" Haddad': made["public"]}
    assert ran(capsys, ["audit", "keygen", "again", "--out", str(out)])[0] == 3
    assert ran(capsys, ["audit", "keygen", "two\nlines", "--out", str(home / "n")])[0] == 2


def test_what_is_no_key_is_no_auditor(home: Path) -> None:
    appoint(home, "auditors", AUDITOR, "AAAA")
    with pytest.raises(DocumentError, match=r"auditors\.E\. Haddad: a verify key is the base64"):
        open_coordinator(home / "coordinator")


def test_every_reading_command_is_one_or_is_promised() -> None:
    """`audit export` and so on are another's to build; a name that is nobody's is a mistake."""
    names = {" ".join(path) for path in COMMANDS}
    promised = {"audit export", "audit policy", "audit verify"}
    promised |= {"audit retention", "audit review", "study touched"}
    assert READING - names <= promised
