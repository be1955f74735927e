"""`cohortium site data`: the datasets that a hospital registers and withdraws."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cohortium.client.config import DatasetConfig, SiteDir
from cohortium.common.audit.events import os_user
from cohortium.common.console import JsonFlag, StateDir, emit
from cohortium.common.errors import DataError, UsageError
from cohortium.common.schema import NAME

data = typer.Typer(
    help="The datasets that studies may ask for.", no_args_is_help=True, rich_markup_mode=None
)

DatasetName = Annotated[str, typer.Argument(metavar="NAME", help="What studies call the dataset.")]


@data.command()
def add(
    name: DatasetName,
    path: Annotated[Path, typer.Option(help="The table: delimited text, Parquet or NPZ.")],
    schema: Annotated[Path, typer.Option(help="The schema.toml that it follows.")],
    directory: StateDir,
    epsilon_cap: Annotated[
        float, typer.Option(min=0.001, help="Privacy that all studies together may ever spend.")
    ] = 10.0,
    delta_cap: Annotated[float, typer.Option(help="The delta that the cap holds at.")] = 1e-5,
    as_json: JsonFlag = False,
) -> None:
    """Register a table for studies, after checking it against its schema.

    Example: cohortium site data add heart --path heart.csv --schema heart.schema.toml --dir DIR
    """
    from cohortium.client.data.table import check_table
    from cohortium.client.site import open_site
    from cohortium.common import bands
    from cohortium.common.document import digest, parse
    from cohortium.common.schema import load_schema

    here = SiteDir(directory)
    here.load_config()
    if re.fullmatch(NAME, name) is None:
        raise UsageError(f'"{name}" is no dataset name: letters, digits, "_", "-", "."')
    data_model = load_schema(schema)
    summary = check_table(path, data_model)
    if summary.problems:
        raise DataError(_problems(path, summary.problems))
    values = {
        "path": str(path.resolve()),
        "schema_file": str(schema.resolve()),
        "epsilon_cap": epsilon_cap,
        "delta_cap": delta_cap,
    }
    config = parse(values, DatasetConfig, f"dataset {name}")
    if here.dataset(name).exists() and here.load_dataset_config(name).path != config.path:
        raise UsageError(
            f'"{name}" is registered with another table, and its privacy ledger belongs to those '
            f"patients: edit {here.dataset(name)} if it is the same population"
        )
    opened = open_site(directory)
    here.write_dataset(name, config)
    event = opened.log.append(
        "dataset.registered",
        actor=os_user(),
        detail={
            "dataset": name,
            "schema": digest(data_model),
            "band": bands.text(max(summary.patients, 1)),
            "epsilon_cap": f"{epsilon_cap:g}",
            "delta": f"{delta_cap:g}",
        },
    )
    missing = {column: count for column, count in summary.missing.items() if count}
    document = {
        "dataset": name,
        "rows": summary.rows,
        "patients": summary.patients,
        "missing": missing,
        "epsilon_cap": epsilon_cap,
        "delta_cap": delta_cap,
        "event": event.id,
    }
    gaps = ", ".join(f"{column} {count}" for column, count in missing.items()) or "none"
    text = (
        f"{name}: {summary.size} fit {schema.name}; missing values: {gaps}\n"
        f"lifetime privacy cap: epsilon {epsilon_cap:g} at delta {delta_cap:g}   (event {event.id})"
    )
    emit(document, text, as_json)


@data.command()
def withdraw(
    name: DatasetName,
    person: Annotated[str, typer.Option("--as", help="Who decides, by name: it is kept.")],
    directory: StateDir,
    as_json: JsonFlag = False,
) -> None:
    """Let no study use a dataset any more, stop those that do, and say which models it is in.

    Example: cohortium site data withdraw heart --as "Dr. A. Weiss" --dir DIR
    """
    from cohortium.client import withdrawal
    from cohortium.client.site import open_site

    opened = open_site(directory)
    withdrawn = withdrawal.withdraw(opened, name, person)
    lines = [f"withdrew {name}: no study uses it from now on   (event {withdrawn.event})"]
    lines += [f"stopped {study} here" for study in withdrawn.stopped]
    lines += [_used(usage, opened.name) for usage in withdrawn.used_by] or [
        "no model was trained on it"
    ]
    emit(asdict(withdrawn), "\n".join(lines), as_json)


def _used(usage: Any, site: str) -> str:
    what = f"{usage.study} ({usage.digest[:12]})"
    if usage.from_round is None:
        return f"{what}: evaluated models on it, none was trained on it"
    rounds = f"trained in {len(usage.trained)} rounds, {', '.join(map(str, usage.trained[:10]))}"
    more = " ..." if len(usage.trained) > 10 else ""
    return (
        f"{what}: in its models from round {usage.from_round} on ({rounds}{more}); to train anew, "
        f"the coordinator runs\n    cohortium study resume {usage.study} --without {site} "
        f"--from-round {usage.from_round}"
        + "".join(f"\n    model sha256 {model}" for model in usage.models[-1:])
    )


def _problems(path: Path, problems: Any) -> str:
    parts = [
        f"column {item.column}: {item.rule} ({item.count} cells, first in line {item.first_line})"
        for item in problems[:3]
    ]
    more = f" and {len(problems) - 3} more rules" if len(problems) > 3 else ""
    return f"{path}: {'; '.join(parts)}{more}; correct the table, or the schema if it is wrong"
