"""The page about outcomes: what it shows is what a study may say."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from pydantic import TypeAdapter

from cohortium.common.metrics.evaluation import KINDS
from cohortium.common.task import Task
from cohortium.common.training import Strategy

PAGE = (Path(__file__).parents[2] / "docs/outcomes.md").read_text()
BLOCKS = [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)]
TASKS = {block["task"]["kind"]: block["task"] for block in BLOCKS if "task" in block}


def as_tuples(task: dict[str, object]) -> dict[str, object]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in task.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_outcome_has_an_example_that_a_study_may_hold(kind: str) -> None:
    TypeAdapter[Task](Task).validate_python(as_tuples(TASKS[kind]))
    (document,) = (one for one in get_args(get_args(Task)[0]) if kind in str(one.model_fields))
    section = PAGE.split(f"\n## `{kind}`")[1].split("\n## ")[0]
    for key in document.model_fields:
        assert f"`{key}`" in section, key


def test_the_strategy_on_the_page_is_one() -> None:
    (strategy,) = (block["strategy"] for block in BLOCKS if "strategy" in block)
    assert Strategy.model_validate(strategy).name == "newton"
