"""Which packages are installed here, and under which licence: what a bill of materials lists."""

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from cohortium.common.audit.evidence import Licence

OURS = "cohortium"
CLASSIFIER = "License :: OSI Approved :: "
MAX_LICENCE = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def normal(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Version of every installed package that Cohortium needs, directly or not; itself too."""
    found: dict[str, str] = {}
    wanted = [OURS]
    while wanted:
        name = normal(wanted.pop())
        package = _package(name)
        if name in found or package is None:
            continue
        found[name] = package.version
        wanted.extend(_needed(package))
    return dict(sorted(found.items()))


def licences(names: Iterable[str]) -> dict[str, Licence]:
    """What each package's own metadata says of its licence; left out where it says nothing."""
    known = {name: _licence(package) for name in names if (package := _package(name)) is not None}
    return {name: found for name, found in sorted(known.items()) if found is not None}


def _package(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _needed(package: Distribution) -> list[str]:
    """Names of requirements; what only tests or builds of another package need is no part of it."""
    wanted = []
    for text in package.requires or ():
        requirement, _, marker = text.partition(";")
        extra = re.search(r"extra\s*==\s*[\"']([\w.-]+)", marker)
        named = _NAME.match(requirement.strip())
        if named and (extra is None or _ours(package, extra[1])):
            wanted.append(named[0])
    return wanted


def _ours(package: Distribution, extra: str) -> bool:
    return normal(package.metadata["Name"]) == OURS and extra not in ("dev", "all")


def _licence(package: Distribution) -> Licence | None:
    said = package.metadata
    if "License-Expression" in said:
        return Licence(said["License-Expression"], spdx=True)
    classified = [c.removeprefix(CLASSIFIER) for c in said.get_all("Classifier") or ()
                  if c.startswith(CLASSIFIER)]  # fmt: skip
    if classified:
        return Licence(", ".join(sorted(classified)), spdx=False)
    text = said["License"] if "License" in said else ""  # noqa: SIM401 (it has no get)
    return Licence(text, spdx=False) if 0 < len(text) <= MAX_LICENCE and "\n" not in text else None
