"""What the machine has: disk, memory, device, and the packages that a site runs on."""

import base64
import hashlib
import operator
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from cohortium.client.config import SiteConfig
from cohortium.client.finding import Finding
from cohortium.common.code import code_version
from cohortium.common.errors import UsageError

GIB = 2**30
FREE_BYTES = 2 * GIB
PACKAGES = ("torch", "opacus", "flwr", "dp-accounting")
HASHED = ("opacus", "dp-accounting", "flwr")  # privacy and transport; torch would take minutes
CONFINE_S = 30.0
OPEN = re.compile(r"\b[A-Z]{4,} [A-Z]{4,}\b")  # what `confine` could not close
INSTALL = "pip install 'cohortium[site]'"
MOUNTS = Path("/proc/mounts")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "ceph", "glusterfs",
                        "fuse.glusterfs", "lustre", "afs"}  # fmt: skip
_RULE = re.compile(r"(<=|>=|==|!=|<|>)\s*([\d.]+)")
_COMPARE = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
            "<": operator.lt, ">": operator.gt}  # fmt: skip


def examine_disk(root: Path, mounts: Path = MOUNTS) -> Iterator[Finding]:
    """Free space, the right to write, and whether locks hold on this file system.

    Args:
        mounts: what the system has mounted, as in proc(5).
    """
    free = shutil.disk_usage(root).free
    said = f"{free / GIB:.1f} GiB free"
    if not os.access(root, os.W_OK | os.X_OK):
        advice = f"let the user who runs the daemon own {root}"
        yield Finding("disk", "fail", "the state directory cannot be written", advice)
    elif free < FREE_BYTES:
        advice = "free some space: models and logs are kept here"
        yield Finding("disk", "warning", said, advice)
    else:
        yield Finding("disk", "ok", said)
    kind = _file_system(root.resolve(), mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        yield Finding(
            "file system",
            "fail",
            f"the state directory lies on {kind}, where the ledger's locks do not hold",
            "move the state directory to a local disk",
        )
    else:
        yield Finding("file system", "ok", kind or "not measured: only Linux tells")


def _file_system(path: Path, mounts: Path) -> str:
    """Kind of the file system that holds `path`; empty where the system does not tell."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    found = [(line.split()[1].replace(r"\040", " "), line.split()[2]) for line in lines]
    holding = [
        (len(where), at) for at, (where, _) in enumerate(found) if path.is_relative_to(where)
    ]
    return found[max(holding)[1]][1] if holding else ""


def examine_memory(config: SiteConfig) -> Finding:
    """Whether the machine, or the container, has what site.toml lets training take."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if CGROUP_LIMIT.exists() and (limit := CGROUP_LIMIT.read_text().strip()).isdecimal():
        total = min(total, int(limit))
    said = f"{total / GIB:.1f} GiB, of which training may take {config.memory_gib:g}"
    if config.memory_gib * GIB > total:
        advice = f"set memory_gib in site.toml below {total / GIB:.1f}"
        return Finding("memory", "warning", said, advice)
    return Finding("memory", "ok", said)


def examine_isolation() -> Finding:
    """What a training process could be confined to here: a child confines itself and tells."""
    with tempfile.TemporaryDirectory() as folder:
        scratch, keys = Path(folder).resolve() / "scratch", Path(folder).resolve() / "keys"
        scratch.mkdir()
        keys.mkdir()
        child = subprocess.run(
            [sys.executable, "-m", "cohortium.client.isolation", str(scratch), str(keys)],
            capture_output=True,
            text=True,
            check=False,
            timeout=CONFINE_S,
        )
    said, advice = child.stdout.strip(), "see docs/site-policy.md, What training may touch"
    if child.returncode or not said:
        unsaid = "a process that confines itself did not live to tell"
        return Finding("isolation", "warning", unsaid, advice)
    if OPEN.search(said):
        return Finding("isolation", "warning", said, advice)
    return Finding("isolation", "ok", said)


def examine_device(config: SiteConfig) -> Finding:
    """The device that training would use; importing torch takes a second or two."""
    import torch

    from cohortium.client.training.device import choose

    try:
        chosen = choose(config.device)
    except UsageError as error:
        advice = "install the driver and a torch built for it, or change device in site.toml"
        return Finding("device", "fail", str(error), advice)
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    said = f"{chosen.description}; torch {torch.__version__} with {built}; {_driver()}"
    if config.device == "auto" and chosen.torch.type == "cpu" and NVIDIA_DRIVER.exists():
        advice = 'install a torch built for this driver, or set device = "cpu" in site.toml'
        return Finding("device", "warning", f"a GPU is here that torch cannot use: {said}", advice)
    return Finding("device", "ok", said)


def _driver() -> str:
    if not NVIDIA_DRIVER.exists():
        return "no NVIDIA driver"
    version = re.search(r"\d+\.\d+(\.\d+)?", NVIDIA_DRIVER.read_text())
    return f"NVIDIA driver {version.group() if version else 'of unknown version'}"


def examine_packages() -> Finding:
    """Whether the packages a site needs have versions that it was tested with; imports none."""
    ranges = wanted_versions()
    found = {name: _version(name) for name in PACKAGES}
    missing = [name for name, version in found.items() if not version]
    unfit = [
        f"{name} {version} is not {ranges.get(name, '')}"
        for name, version in found.items()
        if version and not fits(version, ranges.get(name, ""))
    ]
    said = ", ".join([f"cohortium {code_version()}"] + [f"{k} {v}" for k, v in found.items()])
    if missing:
        return Finding("packages", "fail", f"{', '.join(missing)} missing", INSTALL)
    if unfit:
        return Finding("packages", "fail", "; ".join(unfit), INSTALL)
    return Finding("packages", "ok", said)


def fits(version: str, wanted: str) -> bool:
    """Whether a release such as "1.6.0+cpu" lies in a range such as "<1.7,>=1.6"."""
    return all(
        _COMPARE[sign](_release(version), _release(bound)) for sign, bound in _RULE.findall(wanted)
    )


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a release without trailing zeros, so that 1.6 is 1.6.0."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match.group().split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def wanted_versions() -> dict[str, str]:
    """What our own metadata asks of a site's packages."""
    lines = [line for line in metadata.requires("cohortium") or [] if "'site'" in _single(line)]
    matches = [re.match(r"([\w-]+)([^;]*)", line) for line in lines]
    return {match.group(1): match.group(2).strip() for match in matches if match}


def _single(text: str) -> str:
    return text.replace('"', "'")


def examine_hashes() -> Finding:
    """Compare installed files with the SHA-256 that their packages recorded when installed."""
    changed = [name for name in HASHED if is_changed(metadata.distribution(name))]
    if changed:
        said = f"files of {', '.join(changed)} are not as they were installed"
        return Finding("package files", "fail", said, f"{INSTALL} into a new environment")
    unrecorded = [name for name in HASHED if not metadata.distribution(name).files]
    if unrecorded:
        said = f"not measured: {', '.join(unrecorded)} came without a record of files"
        return Finding("package files", "warning", said, f"use {INSTALL} to have one")
    return Finding("package files", "ok", f"{', '.join(HASHED)} are as they were installed")


def is_changed(package: metadata.Distribution) -> bool:
    """Whether a Python file of a package is gone or other than its RECORD says (PEP 376)."""
    for file in package.files or ():
        if file.hash is None or file.hash.mode != "sha256" or file.suffix != ".py":
            continue
        path = Path(str(file.locate()))
        content = path.read_bytes() if path.is_file() else b""
        found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        if found != file.hash.value:
            return True
    return False
