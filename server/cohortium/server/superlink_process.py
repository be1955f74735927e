"""The child process that is Flower's SuperLink: `python -m cohortium.server.superlink_process`.

Two things differ from `flower-superlink`: SQLite waits 60 s for a lock instead of 5 s (three
nodes that upload 100 MB models at once need it), and the process ends when its parent does,
even by `kill -9`: the parent holds the write end of our standard input and never writes.
"""

import os
import threading

from flwr.supercore import sql_mixin
from flwr.superlink.cli import flower_superlink

BUSY_TIMEOUT_MS = 60_000
STANDARD_INPUT = 0


def main() -> None:
    """Run the SuperLink with the arguments of the command line until stopped."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _wait_longer_for_locks()
    flower_superlink()


def _end_with_the_parent() -> None:
    os.read(STANDARD_INPUT, 1)  # returns at end of file only: nobody holds the other end
    os._exit(1)


def _wait_longer_for_locks() -> None:
    pragmas = dict(sql_mixin.__dict__["SQLITE_PRAGMAS"])
    pragmas["busy_timeout"] = str(BUSY_TIMEOUT_MS)
    sql_mixin.__dict__["SQLITE_PRAGMAS"] = tuple(pragmas.items())


if __name__ == "__main__":
    main()
