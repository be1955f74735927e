"""The promises that every command makes, kept by every command, also by those yet to come."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
from tests.federation import PLAIN, SCHEMA, make_site, write_study

from cohortium.client.site import Site
from cohortium.common.cli import build, main
from cohortium.common.errors import CohortiumError, IdentityError
from cohortium.common.identity import SigningKey
from cohortium.common.study import Study


def leaves(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from leaves(child, *path, name)
    else:
        yield path, command


ROOT = typer.main.get_command(build())
COMMANDS = dict(leaves(ROOT))
EXAMPLE = re.compile(r"Example:((?:.|\n)*?)(?:\n\s*\n|\Z)")


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line on stderr that says what is wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        return lines[0]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command line in this process; a traceback without --debug is a failure."""
    monkeypatch.delenv("COHORTIUM_HOME", raising=False)

    def call(*arguments: str | Path) -> Ran:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        if "--debug" not in arguments:
            assert "Traceback" not in captured.out + captured.err
        assert isinstance(caught.value.code, int)
        return Ran(caught.value.code, captured.out, captured.err)

    return call


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "site", "a", SigningKey.generate().public)


# ------------------------------------------------------------------ help


def test_the_commands_of_the_contract_are_there() -> None:
    promised = """demo
        coordinator init, coordinator invite, coordinator up, coordinator status,
        coordinator sites, coordinator revoke,
        site join, site doctor, site data add, site up, site status, site studies, site review,
        site approve, site reject, site budget,
        study validate, study submit, study list, study watch, study stop, study report,
        study flags, study disposition, study release, study export"""
    names = {" ".join(path) for path in COMMANDS}
    assert set(re.split(r",?\s*\n\s*|,\s*", promised)) <= names


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_example_of_a_command_is_a_call_of_that_command(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    found = EXAMPLE.search(command.help or "")
    assert found, f"{' '.join(path)} has no example"
    program, *words = shlex.split(found[1])
    assert program == "cohortium"
    assert tuple(words[: len(path)]) == path
    command.make_context(path[-1], words[len(path) :])


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_speaks_json_and_every_option_is_explained(path: tuple[str, ...]) -> None:
    options = {name for parameter in COMMANDS[path].params for name in parameter.opts}
    assert "--json" in options
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Argument):
            continue  # Typer 0.20 on click 8.5 loses the help of arguments
        assert getattr(parameter, "help", None), f"{' '.join(path)} {parameter.opts}"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_costs_nothing_and_succeeds(run: Any, path: tuple[str, ...]) -> None:
    ran = run(*path, "--help")
    assert ran.code == 0
    assert "Example: " in ran.out


# ------------------------------------------------------------------ wrong calls


@pytest.mark.parametrize(
    "arguments",
    [
        ("sites",),
        ("site", "aprove"),
        ("site", "budget"),
        ("site", "budget", "--dri", "x"),
        ("site", "data", "add", "ward", "--dir", "x"),
        ("demo", "--sites", "99"),
        ("study", "validate"),
    ],
)
def test_a_wrong_call_is_usage_and_with_json_one_document(
    run: Any, arguments: tuple[str, ...]
) -> None:
    plain = run(*arguments)
    assert plain.code == 2
    assert plain.out == ""
    assert "Error: " in plain.err
    as_json = run(*arguments, "--json")
    assert as_json.code == 2
    if as_json.out or arguments != ("sites",):
        assert as_json.document["exit_code"] == 2
        assert as_json.document["error"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("site", "status"),
        ("site", "up"),
        ("site", "studies"),
        ("site", "review", "s"),
        ("site", "approve", "s", "--as", "A"),
        ("site", "reject", "s", "--as", "A"),
        ("site", "budget"),
        ("site", "witness"),
        ("coordinator", "witnesses"),
        ("coordinator", "recover-log", "--as", "A"),
        ("coordinator", "up"),
        ("coordinator", "status"),
        ("coordinator", "sites"),
        ("coordinator", "revoke", "north"),
        ("study", "list"),
        ("study", "watch", "s"),
        ("study", "stop", "s"),
        ("study", "report", "s", "--out", "o"),
        ("study", "flags", "s"),
        ("study", "disposition", "s", "f", "--as", "A", "--reason", "because"),
        ("study", "release", "s", "--as", "A"),
        ("study", "export", "s", "--out", "o"),
        ("audit", "log"),
    ],
    ids=" ".join,
)
def test_a_directory_that_is_nobodys_is_one_line_and_usage(
    run: Any, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    for directory in (tmp_path, tmp_path / "absent"):
        ran = run(*arguments, "--dir", directory, "--json")
        assert ran.code == 2
        assert ran.document == {"error": ran.error.removeprefix("error: "), "exit_code": 2}
        assert str(directory) in ran.error
    assert list(tmp_path.iterdir()) == []


def test_the_directory_can_come_from_the_environment(
    run: Any, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COHORTIUM_HOME", str(site.directory.root))
    ran = run("site", "status", "--json")
    assert (ran.code, ran.document["site"], ran.document["state"]) == (0, "a", "not running")


def test_the_version_is_said(run: Any) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", run("--version").out)


# ------------------------------------------------------------------ exit codes


def test_an_invalid_study_is_2_and_names_file_and_key(run: Any, tmp_path: Path) -> None:
    write_study(tmp_path, PLAIN)
    file = tmp_path / "study.toml"
    assert run("study", "validate", file).code == 0
    file.write_text(file.read_text().replace("min_sites", "min_site"))
    ran = run("study", "validate", file, "--json")
    assert ran.code == ran.document["exit_code"] == 2
    assert f'{file}: unknown key "sites.min_site"; did you mean "min_sites"?' in ran.error
    assert run("study", "validate", tmp_path / "absent.toml").code == 2


def test_a_damaged_database_is_1(run: Any, site: Site) -> None:
    site.database.close()
    site.directory.database.write_bytes(b"nothing that SQLite wrote" * 100)
    ran = run("site", "budget", "--dir", site.directory.root, "--json")
    assert ran.code == ran.document["exit_code"] == 1
    assert "site.db: is no database; move it away or restore it from a backup" in ran.error


def test_an_approval_against_the_policy_is_4_and_names_the_key(
    run: Any, site: Site, tmp_path: Path
) -> None:
    study = write_study(tmp_path, PLAIN)
    site.studies.receive(study, 0)
    directory = site.directory.root
    ran = run("site", "approve", study.name, "--as", "Dr. Weiss", "--dir", directory, "--json")
    assert ran.code == ran.document["exit_code"] == 4
    assert "[policy] allow_unprotected" in ran.error
    assert site.database.execute("SELECT * FROM approvals") == []


def coordinator(run: Any, folder: Path) -> Path:
    directory = folder / "coordinator"
    made = run("coordinator", "init", directory, "--name", "net", "--host", "127.0.0.1")
    assert made.code == 0
    return directory


def test_a_study_for_sites_that_are_not_enrolled_is_4_and_submits_nothing(
    run: Any, tmp_path: Path
) -> None:
    directory = coordinator(run, tmp_path)
    write_study(tmp_path, PLAIN)
    ran = run("study", "submit", tmp_path / "study.toml", "--dir", directory, "--json")
    assert ran.code == ran.document["exit_code"] == 4
    assert "a, b, c not enrolled here" in ran.error
    assert run("study", "list", "--dir", directory, "--json").document == {"studies": []}


def test_a_forged_invitation_is_3_and_joins_nothing(run: Any, tmp_path: Path) -> None:
    directory = coordinator(run, tmp_path)
    file, site = tmp_path / "north.invite", tmp_path / "north"
    assert run("coordinator", "invite", "north", "--out", file, "--dir", directory).code == 0
    text = file.read_text()
    line = next(line for line in text.splitlines() if line.startswith("ca_fingerprint"))
    file.write_text(text.replace(line, f'ca_fingerprint = "{":".join(["AB"] * 32)}"'))
    ran = run("site", "join", file, "--dir", site, "--json")
    assert ran.code == ran.document["exit_code"] == 3
    assert "ca_fingerprint" in ran.error
    assert not (site / "site.toml").exists()


def test_a_coordinator_that_is_down_is_5(run: Any, tmp_path: Path) -> None:
    directory = coordinator(run, tmp_path)
    file = tmp_path / "north.invite"
    run("coordinator", "invite", "north", "--out", file, "--dir", directory)
    file.write_text(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", file.read_text()))
    ran = run("site", "join", file, "--dir", tmp_path / "north", "--json")
    assert ran.code == ran.document["exit_code"] == 5
    assert not (tmp_path / "north" / "site.toml").exists()


def test_an_invitation_is_not_written_over_a_file(run: Any, tmp_path: Path) -> None:
    directory = coordinator(run, tmp_path)
    file = tmp_path / "important"
    file.write_text("important")
    ran = run("coordinator", "invite", "north", "--out", file, "--dir", directory)
    assert ran.code == 2
    assert file.read_text() == "important"
    sites = run("coordinator", "sites", "--dir", directory, "--json").document
    assert sites == {"sites": []}


# ------------------------------------------------------------------ unexpected errors


@pytest.fixture
def broken(site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site whose budget command runs into a mistake of ours, with a patient in its text."""

    def fails(*_: object) -> None:
        raise ValueError("Jane Doe, 1971")

    monkeypatch.setattr("cohortium.client.budget.Ledger.balance", fails)
    return site.directory.root


def test_an_unexpected_error_shows_its_class_and_no_text_without_debug(
    run: Any, broken: Path
) -> None:
    ran = run("site", "budget", "--dir", broken, "--json")
    assert ran.code == ran.document["exit_code"] == 1
    assert "unexpected ValueError" in ran.error
    assert "cohortium --debug" in ran.error
    assert "Jane" not in ran.out + ran.err


def test_debug_shows_the_traceback(run: Any, broken: Path) -> None:
    ran = run("--debug", "site", "budget", "--dir", broken)
    assert ran.code == 1
    assert "Traceback (most recent call last)" in ran.err
    assert ran.out == ""


def test_a_file_that_cannot_be_written_is_named_and_no_unexpected_error(
    run: Any, site: Site
) -> None:
    in_the_way = site.directory.root / "datasets" / ".clinic.toml.draft"
    in_the_way.mkdir()
    ran = run(
        "site", "data", "add", "clinic", "--path", site.directory.root / "ward.csv",
        "--schema", site.directory.root / "schema.toml", "--dir", site.directory.root,
    )  # fmt: skip
    assert ran.code == 1
    assert f"{site.directory.dataset('clinic')}: cannot be written" in ran.error
    assert "unexpected" not in ran.error


def test_an_error_is_one_line_whatever_its_text(
    run: Any, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise CohortiumError("first\nsecond\x1b[31m\tthird")

    monkeypatch.setattr("cohortium.client.budget.Ledger.balance", fails)
    ran = run("site", "budget", "--dir", site.directory.root, "--json")
    assert ran.error.startswith("error: first second")
    assert ran.document["error"].isprintable()
    assert IdentityError.exit_code == 3


BLOCKED = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {package!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Absent())
from cohortium.common.cli import main
main({arguments!r})
"""


@pytest.mark.parametrize("package", ["dp_accounting", "torch"])
def test_a_missing_package_is_one_line_that_says_what_to_install(
    tmp_path: Path, package: str
) -> None:
    (tmp_path / "schema.toml").write_text(SCHEMA)
    site = make_site(tmp_path / "site", "a", SigningKey.generate().public)
    site.database.close()
    arguments = {
        "dp_accounting": ["site", "budget", "--dir", str(site.directory.root), "--json"],
        "torch": ["coordinator", "up", "--dir", str(tmp_path), "--json"],
    }[package]
    ran = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(package=package, arguments=arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    document = json.loads(ran.stdout)
    assert document["exit_code"] == 2
    assert f"the Python package {package} is not installed here" in document["error"]
    assert "pip install 'cohortium[site]'" in document["error"]
    assert "Traceback" not in ran.stderr


def test_review_shows_what_a_person_signs(run: Any, site: Site, tmp_path: Path) -> None:
    study: Study = write_study(tmp_path, PLAIN)
    site.studies.receive(study, 0)
    ran = run("site", "review", study.name, "--dir", site.directory.root)
    assert ran.code == 0
    assert "NONE: updates may reveal single patients" in ran.out
    assert study.digest[:16] in ran.out


def test_no_command_waits_for_what_only_another_needs() -> None:
    """Every command is its own process: what is slow to import would be paid for each time."""
    slow = {"torch", "scipy", "opacus", "dp_accounting", "flwr", "grpc", "pandas", "sklearn"}
    code = "import sys; from cohortium.common.cli import build; build(); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert slow & set(ran.stdout.split()) == set()
