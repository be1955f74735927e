"""The child process that is Flower's SuperLink: `python -m cohortium.server.superlink_process`.

What differs from `flower-superlink`:

- SQLite waits 60 s for a lock instead of 5 s (three nodes that upload 100 MB models at once need
  it), and each of its connections caches 8 MB instead of 64;
- an upload that was cut off may go on after hours instead of 3 minutes, with what had arrived;
- a message of more objects than any of ours has is refused: each costs several SQL statements,
  during which nobody else is served;
- the process ends when its parent does, even by `kill -9`: the parent holds the write end of our
  standard input and never writes.
"""

import os
import threading
from itertools import islice

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore import sql_mixin
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.superlink.cli import flower_superlink

from cohortium.common import timeouts
from cohortium.common.parcel import MAX_CHUNKS

BUSY_TIMEOUT_MS = 60_000
CACHE_KIB = 8_000
MAX_OBJECTS = MAX_CHUNKS + 3  # a message, its record dictionary and its record besides
STANDARD_INPUT = 0


def main() -> None:
    """Run the SuperLink with the arguments of the command line until stopped."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _set_pragmas()
    _let_uploads_pause()
    _bound_messages()
    flower_superlink()


def _end_with_the_parent() -> None:
    os.read(STANDARD_INPUT, 1)  # returns at end of file only: nobody holds the other end
    os._exit(1)


def _set_pragmas() -> None:
    pragmas = dict(sql_mixin.__dict__["SQLITE_PRAGMAS"])
    pragmas["busy_timeout"] = str(BUSY_TIMEOUT_MS)
    pragmas["cache_size"] = str(-CACHE_KIB)
    sql_mixin.__dict__["SQLITE_PRAGMAS"] = tuple(pragmas.items())


def _let_uploads_pause() -> None:
    sql_corestate.__dict__["OBJECT_PUSH_SESSION_TTL_SECONDS"] = timeouts.UPLOAD_PAUSE_S


def _bound_messages() -> None:
    register = SqlObjectStore.preregister

    def bounded(store: SqlObjectStore, run_id: int, object_tree: ObjectTree) -> list[str]:
        if sum(1 for _ in islice(iterate_object_tree(object_tree), MAX_OBJECTS + 1)) > MAX_OBJECTS:
            raise ValueError("a message of too many objects")
        return register(store, run_id, object_tree)

    SqlObjectStore.preregister = bounded  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main()
