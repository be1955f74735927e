"""`cohortium site explain`: why a study's model says what it says of this site's patients."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import click
import typer

from cohortium.common.console import JsonFlag, StateDir, StudyName, emit, table
from cohortium.common.errors import UsageError
from cohortium.common.explanation import Method, unfit
from cohortium.common.files import write_whole

if TYPE_CHECKING:
    from cohortium.client.explaining import Reasons
    from cohortium.common.study import Study
    from cohortium.common.table import Table

METHODS = click.Choice(list(get_args(Method)))
SHOWN = 15
WIDTH = 24  # of a bar
STAYS = "(this is about patients of this site and stays here: nothing of it is sent)"


def explain(
    study: StudyName,
    directory: StateDir,
    row: Annotated[
        int | None, typer.Option(min=1, help="One patient: 1 is the table's first.")
    ] = None,
    rules: Annotated[
        bool, typer.Option("--rules", help="All of them: a few rules that imitate the model.")
    ] = False,
    method: Annotated[
        str | None, typer.Option(click_type=METHODS, help="How; by default the study's first.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="With --row: also as a page, which only you may read.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the page.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Explain a study's final model to this site alone: for one patient, or as a few rules.

    Example: cohortium site explain heart-study --row 12 --html patient.html --dir DIR
    """
    from cohortium.client import final_model, halt
    from cohortium.client.site import open_site

    opened = open_site(directory)
    if (row is None) != rules:
        raise UsageError("say --row NUMBER, for one patient, or --rules, for all; not both")
    if html is not None and rules:
        raise UsageError("--html shows one patient: give --row NUMBER with it")
    if html is not None and html.exists() and not force:
        raise UsageError(f"{html} exists and is not overwritten: give --force or another --html")
    known = opened.studies.by_name(study)
    asked, name = known.study.explanation, known.study.data.dataset
    if opened.directory.is_withdrawn(name):
        raise halt.withdrawn(name)
    kept = final_model.of(opened.directory.root, known.digest)
    if asked is None or kept is None:
        raise UsageError(
            f"{known.study.name} has no final model here: a site keeps one after the last round "
            "of a study with [explanation]; another model is asked by `cohortium predict`"
        )
    table = _table(opened, known.study)
    if row is None:
        _emit_rules(opened.name, known.study, table, *kept, as_json)
    else:
        chosen: Any = method or asked.methods[0]
        _emit_row(opened.name, known.study, table, *kept, row, chosen, html, as_json)


def _emit_row(
    site: str,
    study: "Study",
    known: "Table",
    model: Any,
    statistics: Any,
    row: int,
    method: Any,
    html: Path | None,
    as_json: bool,
) -> None:
    from cohortium.client.explaining import reasons
    from cohortium.common.preprocessing.encode import encode_inputs

    reason = unfit(study, method)
    if reason:
        raise UsageError(f"--method {method} {reason}")
    if row > known.rows:
        raise UsageError(f"--row {row}: the table of {study.data.dataset} has {known.rows} rows")
    features = encode_inputs(known, study, site, statistics)
    found = reasons(study, model, features[row - 1], method)
    document = {
        "study": study.name,
        "row": row,
        "method": method,
        "about": found.about,
        "answer": found.answer,
        "empty": found.empty,
        "columns": dict(found.columns),
        "page": None if html is None else str(html),
    }
    text = _text(found, method)
    if html is not None:
        from cohortium.client.patient_page import page

        drawn = page(study, row, method, found, features[row - 1])
        write_whole(html, drawn, private=True)
        text += f"\npage: {html}"
    emit(document, text, as_json)


def _emit_rules(
    site: str, study: "Study", known: "Table", model: Any, statistics: Any, as_json: bool
) -> None:
    from cohortium.client.surrogate import surrogate

    found = surrogate(study, known, model, statistics, site)
    rows = [
        (
            " and ".join(rule.conditions) or "always",
            rule.says,
            str(rule.patients),
            "" if rule.share is None else f"{100 * rule.share:.0f} %",
        )
        for rule in found.rules
    ]
    words = [table(("WHERE", "THE MODEL SAYS", "OF PATIENTS", "AND OF THEM"), rows, "no rule")]
    if found.fidelity is None:
        words.append("nobody is held out here, so that nobody can say how well they imitate it")
    else:
        beside = f"; always the commonest answer: {found.simplest:.3f}" if found.simplest else ""
        kind = "share of the same answers" if found.rules[0].share is not None else "R^2"
        words.append(
            f"fidelity on {found.held_out} held-out patients ({kind}): {found.fidelity:.3f}{beside}"
        )
    document = {"study": study.name, **asdict(found)}
    emit(document, "\n\n".join([*words, STAYS]), as_json)


def _table(opened: Any, study: "Study") -> "Table":
    from cohortium.client.cohort import load_table

    dataset = opened.directory.load_dataset(study.data.dataset)
    return load_table(study, dataset, opened.name)


def _text(found: "Reasons", method: str) -> str:
    """The answer, and what the columns add, the largest as the longest bar."""
    shown = [one for one in found.columns if one[1]][:SHOWN]
    longest = max((abs(added) for _, added in shown), default=1.0)
    rows = [(name, f"{added:+.4g}", _bar(added / longest)) for name, added in shown]
    about = f" for “{found.about}”" if found.about else ""
    left_out = len([one for one in found.columns if one[1]]) - len(shown)
    nobody = f"of a patient of whom nothing is known: {found.empty:.4g}"
    lines = [
        f"answer{about}: {found.answer:.4g}, {nobody}",
        table(("COLUMN", "ADDS", method.replace("_", " ").upper()), rows, "nothing adds anything"),
    ]
    if left_out > 0:
        lines.append(f"and {left_out} columns that add less")
    return "\n\n".join([*lines, STAYS])


def _bar(share: float) -> str:
    """To the right what adds, with a minus in front what takes away."""
    bar = "█" * max(1, round(WIDTH * abs(share)))
    return bar if share > 0 else f"- {bar}"
