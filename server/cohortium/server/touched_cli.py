"""`cohortium study touched`: which models know a dataset of a site."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cohortium.common.console import JsonFlag, StateDir, emit, table

if TYPE_CHECKING:
    from cohortium.server.touched import Touched


def touched(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The dataset's name.")],
    site: Annotated[str, typer.Option(help="The site whose dataset it is.")],
    directory: StateDir,
    as_json: JsonFlag = False,
) -> None:
    """Which studies, rounds and models a site's dataset went into, and who downloaded them.

    Example: cohortium study touched heart --site northgate --dir DIR
    """
    from cohortium.server.opened import open_coordinator
    from cohortium.server.touched import trace

    opened = open_coordinator(directory)
    found = trace(opened, dataset, site)
    rows = [_row(one) for one in found.touched]
    header = ("STUDY", "STATE", "ROUNDS", "MODEL'S FILE", "RELEASED BY", "DOWNLOADED BY")
    said = f"withdrawn {found.withdrawn}" if found.withdrawn else "not withdrawn, as far as we know"
    lines = [f"{dataset} of {site}: {said}", table(header, rows, "in no model")]
    if found.evaluated_only:
        lines.append(f"models were measured on it, and none trained: {_list(found.evaluated_only)}")
    emit(asdict(found), "\n".join(lines), as_json)


def _row(one: "Touched") -> tuple[str, ...]:
    from cohortium.server.gates import ranges

    rounds = ranges(one.rounds) if one.rounds else f"from {one.from_round} on"
    return (
        one.study,
        one.state,
        f"through {one.through}" if one.through else rounds,
        one.final[:16] or "-",
        one.released_by or "-",
        _list(tuple(dict.fromkeys(download.recipient for download in one.downloads))) or "-",
    )


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)
