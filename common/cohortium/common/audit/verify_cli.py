"""`cohortium audit verify` and `verifier`: check a bundle, and hand out the file that checks it."""

import hashlib
from pathlib import Path
from typing import Annotated, Any

import click
import typer
import typer.core

from cohortium.common.audit import verify as verifier_file
from cohortium.common.console import JsonFlag, emit
from cohortium.common.errors import CohortiumError, UsageError


class _Verify(typer.core.TyperCommand):
    """A wrong call ends with 64, as in the file itself: 2 says that witnesses are lacking."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.exit_code = verifier_file.UNUSABLE
            raise


def verify(
    bundle: Annotated[Path, typer.Argument(help="The zip file, or the folder it was unpacked to.")],
    policy: Annotated[Path, typer.Option(help="Whom you trust; not from the bundle.")],
    known_checkpoint: Annotated[
        Path | None, typer.Option(help="A log/checkpoint that you kept from before.")
    ] = None,
    recompute_epsilon: Annotated[
        bool, typer.Option("--recompute-epsilon", help="Compute every epsilon again.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Check a bundle of evidence: 0 verified, 1 not, 2 too few witnesses, 64 nothing was checked.

    Example: cohortium audit verify bundle.zip --policy policy.txt
    """
    known = None if known_checkpoint is None else str(known_checkpoint)
    raise typer.Exit(verifier_file.run(str(bundle), str(policy), known, recompute_epsilon, as_json))


def verifier(
    out: Annotated[Path, typer.Option(help="Where to write it; nothing is overwritten.")],
    as_json: JsonFlag = False,
) -> None:
    """Write the verifier as one file that needs nothing but Python, for those who verify.

    Example: cohortium audit verifier --out verify.py
    """
    content = Path(verifier_file.__file__).read_bytes()
    try:
        with out.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise UsageError(f"{out}: exists already and is not overwritten") from None
    except OSError as error:
        raise CohortiumError(f"{out}: cannot be written ({error.strerror})") from None
    digest = hashlib.sha256(content).hexdigest()
    emit({"file": str(out), "sha256": digest}, f"{out}  sha256 {digest}", as_json)


def add_to(audit: Any) -> None:
    """Make both commands of a group."""
    audit.command(cls=_Verify)(verify)
    audit.command()(verifier)
