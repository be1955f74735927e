"""What CUDA needs from the system before a confined process can use a GPU."""

import shutil
import subprocess
from pathlib import Path

GPUS = Path("/proc/driver/nvidia/gpus")
PATIENCE_S = 30.0


def make_device_files(gpus: Path = GPUS) -> None:
    """Load the driver and make `/dev/nvidia*`, as CUDA does at its first use after a boot.

    CUDA asks nvidia-modprobe(1) for it, which is setuid: a process without new privileges asks in
    vain, and would train on the CPU. Nothing where there is no such program.

    Args:
        gpus: has one entry for each GPU once the driver is loaded.
    """
    program = shutil.which("nvidia-modprobe")
    if program is None:
        return
    _run(program, "-u", "-c", "0")
    for minor in range(1, len(list(gpus.glob("*")))):
        _run(program, "-c", str(minor))


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired):
        pass  # torch will find no GPU, and the record says what was trained on
