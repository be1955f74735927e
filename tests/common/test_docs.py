"""Documentation that drifts is wrong: keys, commands and settings must be the real ones."""

import re
from pathlib import Path
from typing import get_args

import click
import pytest
import typer.main
from pydantic import BaseModel

from cohortium.client.config import POLICY_TEXT, Policy
from cohortium.common import cli
from cohortium.common.explanation import Explanation
from cohortium.common.models.options import FAMILIES
from cohortium.common.reduction import Reduction
from cohortium.common.schema import (
    CategoryColumn,
    FlagColumn,
    NumberColumn,
    Schema,
    TableFormat,
)
from cohortium.common.study import Study
from cohortium.common.task import Task
from cohortium.common.transfer import Transfer
from cohortium.common.wide_columns import WideColumn

ROOT = Path(__file__).parent.parent.parent
PAGES = ("README.md", "CHANGELOG.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md")))


def words(text: str) -> set[str]:
    """Every word that stands in code marks or a block, keys of `[a] b, c` cells one by one."""
    blocks = re.findall(r"```(.*?)```", text, re.DOTALL)
    marked = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return {word for code in (*blocks, *marked) for word in re.findall(r"\w+", code)}


def test_every_key_of_a_study_is_explained() -> None:
    pages = [path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))]
    page = set[str]().union(*map(words, pages))
    sections = [
        field.annotation
        for name, field in Study.model_fields.items()
        if isinstance(field.annotation, type)
        and issubclass(field.annotation, BaseModel)
        and name != "data_model"
    ]
    parts: list[type[BaseModel]] = [
        *sections,
        Schema,
        TableFormat,
        NumberColumn,
        FlagColumn,
        CategoryColumn,
        *get_args(get_args(Task)[0]),
        *get_args(WideColumn),
        *FAMILIES,
        Explanation,
        Reduction,
        Transfer,
    ]
    for section in parts:
        for key in section.model_fields:
            assert key in page or key == "table" or key == "columns", f"{section.__name__}.{key}"


def test_every_key_of_the_policy_is_explained_with_its_default() -> None:
    page = (ROOT / "docs/site-policy.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", page, re.MULTILINE))
    assert rows.keys() == Policy.model_fields.keys()
    for key, default in rows.items():
        assert re.search(rf"^{key} = {re.escape(default)}\s", POLICY_TEXT + "\n", re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    pattern = r"cohortium [a-z][^`\n]*"
    return [
        (page, line) for page in PAGES for line in re.findall(pattern, (ROOT / page).read_text())
    ]


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_on_a_page_exists_with_its_options(page: str, line: str) -> None:
    command: click.Command = typer.main.get_command(cli.build())
    words_left = line.split("#")[0].split()[1:]
    if "|" in words_left:  # a list such as `init | invite | up`
        words_left = words_left[:1]
    while words_left and isinstance(command, click.Group):
        child = command.get_command(click.Context(command), words_left[0])
        if child is None and words_left[0] not in ("cohortium",):
            assert not words_left[0].islower() or words_left[0].startswith("-"), f"{page}: {line}"
            break
        assert child is not None, f"{page}: {line}"
        command, words_left = child, words_left[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    for word in words_left:
        if word.startswith("--"):
            assert word.rstrip(":,.)") in known, f"{page}: {line}: {word}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / target).exists(), f"{page} -> {target}"


def test_a_test_that_a_page_names_exists() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")]
    named = {
        (page.name, *name)
        for page in pages
        for name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text())
    }
    assert len(named) > 40
    for page, file, name in sorted(named):
        path = ROOT / file
        assert path.is_file(), f"{page}: {file}"
        assert f"\ndef {name}(" in path.read_text(), f"{page}: {file}::{name}"
