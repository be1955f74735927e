"""`cohortium study tune`: try settings on nobody's patients, before any site is asked."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tomli_w
import typer

from cohortium.common.console import JsonFlag, emit, note
from cohortium.common.document import read_toml
from cohortium.common.errors import UsageError
from cohortium.common.files import write_whole
from cohortium.common.study import Study, load_study
from cohortium.common.tuning import Found, Tuning, Value, cost_in_words

if TYPE_CHECKING:
    from cohortium.common.trials import Bench
    from cohortium.server.tuning import Trial, Tried

NOBODY = "no site was asked, and no patient's privacy was spent"


def tune(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The study.toml, with a [tuning] section.")
    ],
    trials: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Instead of the study's own number.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the tuned study (FILE with -tuned).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Try settings in a made-up federation on this machine; write the study with the best ones.

    Patients are mock ones or a public table, as [tuning] says: it costs no patient's privacy.

    Example: cohortium study tune study.toml --trials 20
    """
    from cohortium.common.trials import open_bench
    from cohortium.server.starting import begin_with
    from cohortium.server.tuning import tune as try_all

    study = load_study(file)
    tuning = _tuning(study, file, trials)
    tuned = out or file.with_name(f"{file.stem}-tuned.toml")
    record = tuned.with_suffix(".json")
    _check_places(file, (tuned, record), force)
    start = begin_with(study, file)
    note(f"{study.name} {cost_in_words(study, tuning)}")
    bench = open_bench(study, tuning, file.parent / tuning.table if tuning.table else None)
    tried = try_all(study, tuning, bench, start, lambda so_far: note(_line(so_far, tuning)))
    written = _record(study, tuning, bench, tried)
    write_whole(record, written)
    found = _found(tried, bench, written)
    write_whole(tuned, _tuned(file, tuning, found))
    document = {
        "study": study.name,
        "on": tuning.on,
        "data": bench.digest,
        "objective": tried.objective,
        "score": found.score,
        "values": {key: _plain(value) for key, value in found.values.items()},
        "trials": found.trials,
        "failed": found.failed,
        "tuned": str(tuned),
        "record": str(record),
        "digest": load_study(tuned).digest,
    }
    emit(document, _said(found, tried.objective, tuned, record), as_json)


def _tuning(study: Study, file: Path, trials: int | None) -> Tuning:
    """What is to be tried; of what was found before, nothing."""
    if study.tuning is None:
        raise UsageError(f"{file}: no [tuning] section says what to try")
    if study.continues is not None:
        raise UsageError(
            f"{file}: it goes on from another study's model, of which there are no trials"
        )
    if trials is not None and study.tuning.search == "grid":
        raise UsageError('--trials: search = "grid" tries every combination; leave it out')
    update: dict[str, Any] = {"found": None}
    return study.tuning.model_copy(
        update=update if trials is None else {**update, "trials": trials}
    )


def _check_places(file: Path, places: tuple[Path, ...], force: bool) -> None:
    for place in places:
        if place.resolve() == file.resolve():
            raise UsageError(f"{place}: is the study itself; give another --out")
        if place.exists() and not force:
            raise UsageError(
                f"{place} exists and is not overwritten: give --force or another --out"
            )
    if places[0].suffix != ".toml":
        raise UsageError(f"--out {places[0]}: a study is a .toml file")
    if places[0].resolve().parent != file.resolve().parent:
        raise UsageError("--out: beside the study.toml, whose paths are relative to it")


def _line(tried: "Tried", tuning: Tuning) -> str:
    from cohortium.server.tuning import seconds_left

    last, best = tried.trials[-1], tried.best
    if last.score is None:
        said = f"came to nothing: {last.reason}"
    else:
        said = f"{tried.objective} {last.score:.4f}"
    text = f"{last.number:>4}/{tuning.count}  {_words(last)}  {said}"
    if best is not None:
        text += f"   best {best.score:.4f} (trial {best.number})"
    left = seconds_left(tried.trials, tuning.count)
    return text + (f", about {left:.0f} s left" if last.number < tuning.count else "")


def _words(trial: "Trial") -> str:
    return "  ".join(f"{key} {_text(value)}" for key, value in trial.values.items())


def _text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(_plain(value))


def _plain(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _record(study: Study, tuning: Tuning, bench: "Bench", tried: "Tried") -> str:
    """Every trial, in JSON: without times, so that the same trials give the same bytes."""
    from cohortium.common.tuning import changed

    exclude = {"seconds"}
    document = {
        "study": study.name,
        "untuned": changed(study, {}).digest,
        "tuning": tuning.model_dump(mode="json", exclude={"found"}),
        "data": bench.digest,
        "objective": tried.objective,
        "trials": [trial.model_dump(mode="json", exclude=exclude) for trial in tried.trials],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _found(tried: "Tried", bench: "Bench", record: str) -> Found:
    best = tried.best
    assert best is not None
    assert best.score is not None
    return Found(
        values=best.values,
        trials=len(tried.trials),
        failed=sum(trial.score is None for trial in tried.trials),
        score=best.score,
        data=bench.digest,
        record=hashlib.sha256(record.encode()).hexdigest(),
    )


def _tuned(file: Path, tuning: Tuning, found: Found) -> str:
    """The study.toml with the values of the best trial, and where they come from."""
    values = read_toml(file)
    for key, value in found.values.items():
        section, name = key.split(".", 1)
        values.setdefault(section, {})[name] = _plain(value)
    if tuning.trials is not None:
        values["tuning"]["trials"] = tuning.trials
    values["tuning"]["found"] = found.model_dump(mode="json", exclude_none=True)
    keys = ", ".join(found.values)
    on = "mock patients" if tuning.on == "mock" else f"the public table {tuning.table}"
    header = (
        f"# {file.name}, with {keys} of the best of {found.trials} trials on {on}:\n"
        f"# {NOBODY}. Comments of the original are not here.\n\n"
    )
    return header + tomli_w.dumps(values)


def _said(found: Found, objective: str, tuned: Path, record: Path) -> str:
    chosen = ", ".join(f"{key} = {_text(value)}" for key, value in found.values.items())
    failed = f", {found.failed} of which came to nothing" if found.failed else ""
    return (
        f"best of {found.trials} trials{failed}: {chosen}   ({objective} {found.score:.4f})\n"
        f"{NOBODY}\n"
        f"every trial: {record}\n"
        f"next: cohortium study validate {tuned}"
    )
