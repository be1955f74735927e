"""Which programs computed what an export shows."""

import platform
import sqlite3
from importlib.metadata import PackageNotFoundError, version

MATTER = (
    "cohortium",
    "cryptography",
    "dp-accounting",
    "flwr",
    "grpcio",
    "jinja2",
    "numpy",
    "opacus",
    "pydantic",
    "reportlab",
    "safetensors",
    "scipy",
    "torch",
)


def installed() -> dict[str, str]:
    """Version of Python, SQLite and of each package that matters and is here, by name."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in MATTER:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return dict(sorted(found.items()))
