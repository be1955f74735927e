"""The training process: one study's patients live here, and nowhere else.

Started by `Processes`, never by people. It confines itself before it loads any library, as threads
that a library starts would keep what they were born with. It reads frames on standard input and
answers on what was standard output; whatever a library prints goes to standard error.
"""

import os
import sys
from pathlib import Path

from cohortium.client.isolation import confine
from cohortium.client.nvidia import make_device_files


def main() -> None:
    """Answer jobs until the pipe closes.

    Called with the memory limit of a process in bytes, the number of threads, the directory to
    hide and the number of processes; the working directory is the only one that it may write.
    """
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    memory_bytes, threads, hidden, processes = sys.argv[1:]
    make_device_files()
    isolation = confine(
        int(memory_bytes), int(threads), Path.cwd(), Path(hidden), loopback=int(processes) > 1
    )

    from cohortium.client.workbench import work  # only now: numpy and torch start threads

    work(jobs, answers, isolation)


if __name__ == "__main__":
    main()
