"""The shape of the house: who may import whom, and what may not appear where."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOTS = ("server", "client", "common")
FLOWER_ADAPTERS = {
    "server/cohortium/server/superlink.py",
    "server/cohortium/server/superlink_process.py",
    "server/cohortium/server/flower_sites.py",
    "server/cohortium/server/flower_objects.py",
    "server/cohortium/server/flower_run.py",
    "client/cohortium/client/fleet.py",
    "client/cohortium/client/fleet_objects.py",
    "client/cohortium/client/line.py",
    "client/cohortium/client/node.py",
}
ALONE = {"common/cohortium/common/audit/verify.py"}  # strangers get it as one file
NETWORK_MODULES = {"socket", "ssl", "http", "urllib", "grpc", "httpx", "requests", "asyncio"}


def modules(root: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each module's path and the names that it imports anywhere."""
    for path in sorted((ROOT / root).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                assert node.module is not None
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        yield path.relative_to(ROOT).as_posix(), names


def imports(names: set[str], package: str) -> bool:
    return any(name == package or name.startswith(package + ".") for name in names)


@pytest.mark.parametrize("root", ROOTS)
def test_no_init_file_hides_the_other_roots(root: str) -> None:
    assert not (ROOT / root / "cohortium" / "__init__.py").exists()
    assert [p.name for p in (ROOT / root / "cohortium").iterdir() if p.is_file()] == []


@pytest.mark.parametrize(
    ("root", "forbidden"),
    [
        ("server", ("cohortium.client",)),
        ("client", ("cohortium.server",)),
        ("common", ("cohortium.client", "cohortium.server", "flwr")),
    ],
)
def test_a_root_imports_only_what_it_may(root: str, forbidden: tuple[str, ...]) -> None:
    wrong = [(p, f) for p, names in modules(root) for f in forbidden if imports(names, f)]
    assert wrong == []


def test_only_the_flower_adapters_import_flower() -> None:
    found = {p for root in ROOTS for p, names in modules(root) if imports(names, "flwr")}
    assert found <= FLOWER_ADAPTERS


def test_common_does_no_network_io() -> None:
    wrong = [(p, m) for p, names in modules("common") for m in NETWORK_MODULES if imports(names, m)]
    assert wrong == []


def test_every_module_says_what_it_is_and_stays_small() -> None:
    for root in ROOTS:
        for path in (ROOT / root).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert ast.get_docstring(ast.parse(text)) or not text.strip(), f"{path}: no docstring"
            if path.relative_to(ROOT).as_posix() not in ALONE:
                assert text.count("\n") <= 400, (
                    f"{path}: more than 400 lines: is it still one noun?"
                )
