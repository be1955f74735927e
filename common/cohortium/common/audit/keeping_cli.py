"""`cohortium audit keygen`, `review`, `retention` and `redact`: those who keep the record."""

from pathlib import Path
from typing import Annotated

import typer

from cohortium.common.audit.events import Text
from cohortium.common.console import JsonFlag, emit
from cohortium.common.document import Document, parse
from cohortium.common.identity import SigningKey


class _Named(Document):
    name: Text


def keygen(
    name: Annotated[str, typer.Argument(help="The auditor, as exports and reviews print it.")],
    out: Annotated[Path, typer.Option(help="The file for the private key; it stays with you.")],
    as_json: JsonFlag = False,
) -> None:
    """Make an auditor's key: the private half for the auditor, a line for the party's config.

    Example: cohortium audit keygen "E. Haddad" --out haddad.key
    """
    parse({"name": name}, _Named, "NAME")
    key = SigningKey.generate()
    key.save(out)
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    line = f'"{quoted}" = "{key.public.text}"'
    document = {
        "name": name,
        "file": str(out),
        "public": key.public.text,
        "fingerprint": key.public.fingerprint,
        "line": line,
    }
    text = (
        f"private key in {out}: keep it; nobody else needs it ({key.public.fingerprint})\n"
        f"who runs the party to be audited adds to coordinator.toml or site.toml:\n"
        f"[auditors]\n{line}"
    )
    emit(document, text, as_json)
