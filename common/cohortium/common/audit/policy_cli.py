"""`cohortium audit policy`: whom a stranger has to trust to verify a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from cohortium.common.console import JsonFlag, StateDir, emit


def policy(
    directory: StateDir,
    out: Annotated[Path | None, typer.Option(help="Write it there; else it is printed.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """The keys of the log and of its witnesses, and how many must have cosigned.

    Hand it to whoever will verify bundles, by another way than the bundles: a bundle is only worth
    what its policy is. At a coordinator it is the consortium's; a site knows itself and the log.

    Example: cohortium audit policy --out policy.txt --dir DIR
    """
    from cohortium.common.audit.party import open_party
    from cohortium.common.files import write_whole

    party = open_party(directory)
    text = party.policy()
    if out is not None:
        write_whole(out, text)
    emit(
        {"policy": text, "file": str(out) if out else None},
        f"written to {out}" if out else text.rstrip(),
        as_json,
    )
