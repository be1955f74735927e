"""`cohortium site results`, `model`, `crossvalidate`: what a study says to this hospital alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from cohortium.common.console import JsonFlag, StateDir, StudyName, emit, note, table
from cohortium.common.errors import UsageError

if TYPE_CHECKING:
    from cohortium.client.crossvalidation import CrossValidation
    from cohortium.client.results import Results
    from cohortium.common.metrics.performance import Estimate, Performance
    from cohortium.common.study import Study

KINDS = click.Choice(["stratified", "leave-one-out", "time-ordered"])
NOT_SENT = "(these numbers stay here: nothing of them is sent)"


def results(study: StudyName, directory: StateDir, as_json: JsonFlag = False) -> None:
    """How a study's models do on this site's held-out patients: all of it, for this site alone.

    Example: cohortium site results heart-study --dir DIR
    """
    from cohortium.client.results import KeptResults
    from cohortium.client.site import open_site

    opened = open_site(directory)
    known = opened.studies.by_name(study)
    found = KeptResults(opened.database).of(known.digest)
    if found is None:
        raise UsageError(
            f"{known.study.name} has no results here: they are made at its last evaluation, and "
            "go when the dataset is withdrawn"
        )
    document = {"study": known.study.name, "digest": known.digest, **found.model_dump(mode="json")}
    emit(document, _in_words(known.study, found), as_json)


def model(
    study: StudyName,
    out: Annotated[Path, typer.Option(help="A new directory for the model's files.")],
    directory: StateDir,
    as_json: JsonFlag = False,
) -> None:
    """Write this site's whole model, where the study lets a part of it be each site's own.

    Example: cohortium site model heart-study --out model --dir DIR
    """
    from cohortium.client.own_file import write_own
    from cohortium.client.site import open_site

    opened = open_site(directory)
    known = opened.studies.by_name(study)
    files = write_own(known.study, opened.directory.root, out)
    document = {"study": known.study.name, "files": [str(file) for file in files]}
    text = (
        f"{', '.join(file.name for file in files)} of {known.study.name} are in {out}; they were "
        "made with this site's own parameters and stay here\n"
        f"Next: cohortium predict {out} --table PATIENTS.csv --out predictions.csv"
    )
    emit(document, text, as_json)


def crossvalidate(
    study: StudyName,
    directory: StateDir,
    kind: Annotated[
        str, typer.Option(click_type=KINDS, help="How patients are put into folds.")
    ] = "stratified",
    folds: Annotated[int, typer.Option(help="How many; leave-one-out makes its own.")] = 5,
    time_column: Annotated[
        str, typer.Option(help="The number column that orders patients, for time-ordered.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Cross-validate a model of this site alone, of a study's kind, on the site's own table.

    Example: cohortium site crossvalidate heart-study --kind stratified --folds 5 --dir DIR
    """
    from cohortium.client import halt
    from cohortium.client.crossvalidation import crossvalidate as run
    from cohortium.client.site import open_site

    opened = open_site(directory)
    known = opened.studies.by_name(study)
    name = known.study.data.dataset
    if opened.directory.is_withdrawn(name):
        raise halt.withdrawn(name)
    dataset = opened.directory.load_dataset(name)
    if not as_json:
        note("training, fold by fold")
    found = run(known.study, dataset, opened.name, kind, folds, time_column)  # type: ignore[arg-type]
    document = {"study": known.study.name, **found.model_dump(mode="json")}
    emit(document, _folds_in_words(known.study, found), as_json)


def _in_words(study: "Study", found: "Results") -> str:
    """Measures as rows, models as columns; then accuracy by group."""
    from cohortium.common.metrics.performance import performance
    from cohortium.common.task import SurvivalTask

    names = list(found.models)
    tallies = {name: evaluation.overall for name, evaluation in found.models.items()}
    horizons = study.task.horizons if isinstance(study.task, SurvivalTask) else ()
    shown = performance(tallies, study.evaluation.thresholds, horizons)
    rows = [(_label(one), *(_value(one.sites[name]) for name in names)) for one in shown]
    lines = [table(("MEASURE", *(name.upper() for name in names)), rows, "no patients")]
    groups = _groups(study, found)
    if groups:
        lines.append(table(("GROUP", "N", *(name.upper() for name in names)), groups, ""))
    lines += _pairs(found)
    if (fit := found.recalibration) is not None:
        lines.append(
            f"recalibrated: logit(p) = {fit.intercept:.4f} + {fit.slope:.4f} logit(federated p)"
        )
    if (own := found.own) is not None:
        lines.append(f"own: {own.passes} passes at learning rate {own.learning_rate:g}")
    return "\n\n".join([*lines, NOT_SENT])


def _pairs(found: "Results") -> list[str]:
    """Who is right on the same patients."""
    rows = [
        (name, *map(str, (c.both, c.federated_only, c.other_only, c.neither)))
        for name, beside in found.models["federated"].beside.items()
        if (c := beside.overall)
    ]
    header = ("BESIDE", "BOTH RIGHT", "FEDERATED ONLY", "THIS ONLY", "NEITHER")
    return [table(header, rows, "")] if rows else []


def _groups(study: "Study", found: "Results") -> list[tuple[str, ...]]:
    """Accuracy by group."""
    first = next(iter(found.models.values()))
    rows = []
    for attribute, levels in first.groups.items():
        for level in levels:
            tallies: list[Any] = [e.groups[attribute][level] for e in found.models.values()]
            shares = [f"{100 * t.correct / t.n:.1f} %" if t.n else "-" for t in tallies]
            rows.append((f"{attribute}: {level}, accuracy", str(tallies[0].n), *shares))
    return rows if study.task.kind == "binary" else []


def _label(one: "Performance") -> str:
    at = f" at {one.threshold:g}" if one.threshold is not None else ""
    at += f" at {one.horizon:g}" if one.horizon is not None else ""
    return " ".join(filter(None, (one.measure.replace("_", " ") + at, one.part)))


def _value(estimate: "Estimate") -> str:
    if estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _folds_in_words(study: "Study", found: "CrossValidation") -> str:
    from cohortium.common.metrics.performance import performance

    tallies: Mapping[str, Any] = {
        **{str(number): tally for number, tally in enumerate(found.folds, start=1)},
        "all scored": found.together,
    }
    rows = []
    wanted = ("accuracy", "auroc", "log_loss", "brier")
    shown = {
        one.measure: one
        for one in performance(tallies, study.evaluation.thresholds[:1])
        if one.measure in wanted
    }
    for name, tally in tallies.items():
        cells = [_value(shown[m].sites[name]) if m in shown else "-" for m in wanted]
        rows.append((name, str(tally.n), str(tally.positives), *cells))
    header = ("FOLD", "N", "WITH OUTCOME", *(m.replace("_", " ").upper() for m in wanted))
    scored = f"{found.scored} of {found.patients} patients scored by models that had not seen them"
    return "\n\n".join([f"{found.kind}: {scored}", table(header, rows, ""), NOT_SENT])
