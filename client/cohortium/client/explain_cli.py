"""`cohortium site explain`: why a study's model says what it says of one patient of this site."""

from typing import TYPE_CHECKING, Annotated, Any, get_args

import click
import typer

from cohortium.common.console import JsonFlag, StateDir, emit, table
from cohortium.common.errors import UsageError
from cohortium.common.explanation import Method, unfit

if TYPE_CHECKING:
    from cohortium.client.explaining import Reasons
    from cohortium.common.study import Study

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name, or digits of the digest.")]
METHODS = click.Choice(list(get_args(Method)))
SHOWN = 15
WIDTH = 24  # of a bar
STAYS = "(this is about one patient and stays here: nothing of it is sent)"


def explain(
    study: StudyName,
    directory: StateDir,
    row: Annotated[int, typer.Option(min=1, help="The patient: 1 is the table's first.")],
    method: Annotated[
        str | None, typer.Option(click_type=METHODS, help="How; by default the study's first.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Explain the final model's answer for one patient of this site's table, to this site alone.

    Example: cohortium site explain heart-study --row 12 --dir DIR
    """
    from cohortium.client import final_model, halt
    from cohortium.client.explaining import reasons
    from cohortium.client.site import open_site

    opened = open_site(directory)
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
    chosen: Any = method or asked.methods[0]
    reason = unfit(known.study, chosen)
    if reason:
        raise UsageError(f"--method {chosen} {reason}")
    model, statistics = kept
    features = _features(opened, known.study, statistics)
    if row > len(features):
        raise UsageError(f"--row {row}: the table of {name} has {len(features)} rows")
    found = reasons(known.study, model, features[row - 1], chosen)
    document = {
        "study": known.study.name,
        "row": row,
        "method": chosen,
        "about": found.about,
        "answer": found.answer,
        "empty": found.empty,
        "columns": dict(found.columns),
    }
    emit(document, _text(found, chosen), as_json)


def _features(opened: Any, study: "Study", statistics: Any) -> Any:
    from cohortium.client.cohort import load_table
    from cohortium.common.preprocessing.encode import encode_inputs

    dataset = opened.directory.load_dataset(study.data.dataset)
    return encode_inputs(load_table(study, dataset, opened.name), study, opened.name, statistics)


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
