"""The one executable: commands of the installed roles in, one-line errors and exit codes out."""

import os
import sys
from importlib.metadata import entry_points, version
from typing import Annotated

import click
import typer
import typer.core
import typer.main

from cohortium.common import console, people

GROUP = "cohortium.commands"
INTERRUPTED = 130

HELP = """Federated learning for hospitals that may not pool their patients.

Try it on this machine:  cohortium demo
"""


typer.core.HAS_RICH = False  # else plain help shows brackets escaped for rich: \[required]


def build() -> typer.Typer:
    """The root command with a group for each role that is installed."""
    app = typer.Typer(name="cohortium", help=HELP, no_args_is_help=True, rich_markup_mode=None)
    app.callback()(_root)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        command = entry.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run a command line and exit with its code; an error is one line, never a traceback."""
    # gRPC's C core prints a line for every failed handshake; our own errors say what it means.
    if os.environ.get("GRPC_VERBOSITY", "error").lower() == "error":  # Flower's default
        os.environ["GRPC_VERBOSITY"] = "NONE"
    given = sys.argv[1:] if arguments is None else arguments
    debug, as_json = "--debug" in given, "--json" in given
    try:
        command = people.guard(typer.main.get_command(build()))
        code = command(args=given, standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    except click.ClickException as error:
        code = console.misused(error, as_json=as_json)
    except BrokenPipeError:
        code = 1
    except Exception as error:  # the boundary to people
        code = console.fail(error, debug=debug, as_json=as_json)
    if code == INTERRUPTED:  # Typer turns most interrupts into this code without a word
        console.note("interrupted")
    sys.exit(code if isinstance(code, int) else 0)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(version("cohortium"))
        raise typer.Exit


def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    show: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """The options before a command; each acts by itself."""


if __name__ == "__main__":
    main()
