"""The Merkle tree against RFC 6962 as it is written, others' roots, and forgers."""

import functools
import hashlib
import random
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortium.common.audit import merkle, tables
from cohortium.common.audit.log import LOG_MIGRATION
from cohortium.common.audit.tree import Tree
from cohortium.common.database import Database, open_database
from cohortium.common.errors import CohortiumError

MOST = 130
LEAVES = [hashlib.sha256(b"\x00" + str(n).encode()).digest() for n in range(MOST)]
NODES = merkle.nodes_of(LEAVES)

# Leaves and roots of Certificate Transparency's reference tests, sizes 0 to 8.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657",
          "606162636465666768696a6b6c6d6e6f"]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


# ------------------------------------------------------------------ RFC 6962, section 2.1, naively


@functools.cache
def mth(first: int, end: int) -> bytes:
    """MTH(D[first:end]), by the definition."""
    if first == end:
        return hashlib.sha256(b"").digest()
    if end - first == 1:
        return LEAVES[first]
    k = split(end - first)
    both = mth(first, first + k) + mth(first + k, end)
    return hashlib.sha256(b"\x01" + both).digest()


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def path(m: int, first: int, end: int) -> list[bytes]:
    """PATH(m, D[first:end])."""
    if end - first == 1:
        return []
    k = split(end - first)
    if m < k:
        return [*path(m, first, first + k), mth(first + k, end)]
    return [*path(m - k, first + k, end), mth(first, first + k)]


def subproof(m: int, first: int, end: int, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[first:end], b)."""
    if m == end - first:
        return [] if whole else [mth(first, end)]
    k = split(end - first)
    if m <= k:
        return [*subproof(m, first, first + k, whole), mth(first + k, end)]
    return [*subproof(m - k, first + k, end, False), mth(first, first + k)]


def test_every_root_to_130_is_that_of_the_definition() -> None:
    for size in range(MOST + 1):
        expected = mth(0, size)
        assert merkle.root(size, NODES) == merkle.root_of(LEAVES[:size]) == expected


def test_roots_are_those_of_certificate_transparency() -> None:
    leaves = [hashlib.sha256(b"\x00" + bytes.fromhex(text)).digest() for text in INPUTS]
    found = [merkle.root_of(leaves[:size]).hex() for size in range(len(ROOTS))]
    assert found == ROOTS


def test_every_inclusion_proof_to_130_is_that_of_the_definition_and_holds() -> None:
    for size in range(1, MOST + 1):
        root = mth(0, size)
        for index in range(size):
            proof = merkle.inclusion(index, size, NODES)
            assert list(proof) == path(index, 0, size)
            assert merkle.includes(LEAVES[index], index, size, proof, root)


def test_every_consistency_proof_to_130_is_that_of_the_definition_and_holds() -> None:
    for size in range(MOST + 1):
        for old in range(size + 1):
            proof = merkle.consistency(old, size, NODES)
            if 0 < old < size:
                assert list(proof) == subproof(old, 0, size, True)
            assert merkle.grew(old, size, mth(0, old), mth(0, size), proof)


# ------------------------------------------------------------------ forgers


def forgeries(proof: merkle.Proof, luck: random.Random) -> list[merkle.Proof]:
    """The same proof with something wrong."""
    rubbish = luck.randbytes(32)
    found: list[merkle.Proof] = [(*proof, rubbish), (rubbish, *proof)]
    if proof:
        at = luck.randrange(len(proof))
        bit = bytearray(proof[at])
        bit[luck.randrange(32)] ^= 1 << luck.randrange(8)
        found += [
            (*proof[:at], bytes(bit), *proof[at + 1 :]),
            (*proof[:at], *proof[at + 1 :]),
            (*proof[: at + 1], *proof[at:]),
            (*proof[:at], proof[at][:31], *proof[at + 1 :]),
            (),
        ]
    if len(proof) > 1:
        found.append(proof[::-1])
    return [one for one in found if one != proof]


def test_no_forged_inclusion_proof_is_accepted() -> None:
    luck, tried = random.Random(6962), 0
    for size in range(1, MOST + 1):
        root = mth(0, size)
        for index in luck.sample(range(size), min(size, 12)):
            proof, leaf = merkle.inclusion(index, size, NODES), LEAVES[index]
            for forged in forgeries(proof, luck):
                assert not merkle.includes(leaf, index, size, forged, root), (index, size)
            assert not merkle.includes(luck.randbytes(32), index, size, proof, root)
            assert not merkle.includes(leaf, index, size, proof, luck.randbytes(32))
            for other in {index - 1, index + 1, size, -1} - {index}:
                assert not merkle.includes(leaf, other, size, proof, root)
            tried += 1
    assert tried > 1000


def test_no_forged_consistency_proof_is_accepted() -> None:
    luck, tried = random.Random(9162), 0
    for size in range(2, MOST + 1):
        new = mth(0, size)
        for old in luck.sample(range(1, size), min(size - 1, 12)):
            proof, before = merkle.consistency(old, size, NODES), mth(0, old)
            for forged in forgeries(proof, luck):
                assert not merkle.grew(old, size, before, new, forged), (old, size)
            assert not merkle.grew(old, size, luck.randbytes(32), new, proof)
            assert not merkle.grew(old, size, before, luck.randbytes(32), proof)
            assert not merkle.grew(old - 1, size, mth(0, old - 1), new, proof)
            assert not merkle.grew(size, old, new, before, proof)
            tried += 1
    assert tried > 1000


def test_of_equal_sizes_only_equal_roots_and_an_empty_proof_hold() -> None:
    assert merkle.grew(5, 5, mth(0, 5), mth(0, 5), ())
    assert not merkle.grew(5, 5, mth(0, 5), mth(1, 6), ())
    assert not merkle.grew(5, 5, mth(0, 5), mth(0, 5), (LEAVES[0],))
    assert not merkle.grew(0, 5, LEAVES[0], mth(0, 5), ())
    assert not merkle.grew(-1, 5, LEAVES[0], mth(0, 5), ())


def test_a_node_does_not_pass_for_a_leaf() -> None:
    """The second preimage that leaf and node prefixes are there against."""
    inner, root = mth(0, 2), mth(0, 4)
    assert not merkle.includes(inner, 0, 4, (mth(2, 4),), root)
    assert merkle.root_of([inner, mth(2, 4)]) == root  # so sizes are signed with the root


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_of_a_leaf_that_is_not_there_is_no_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        merkle.inclusion(index, size, NODES)


def test_of_a_larger_beginning_is_no_proof() -> None:
    with pytest.raises(ValueError, match="no beginning"):
        merkle.consistency(4, 3, NODES)


# ------------------------------------------------------------------ the same in SQLite


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return open_database(tmp_path / "log.db", [LOG_MIGRATION, tables.TREE])


def add(database: Database, count: int) -> None:
    (size,) = database.execute("SELECT count(*) FROM events")[0]
    rows = [(seq, "", LEAVES[seq % MOST]) for seq in range(size, size + count)]
    database.execute_many("INSERT INTO events VALUES (?, ?, ?)", rows)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.data())
def test_a_kept_tree_says_what_one_in_memory_says_however_it_grew(
    steps: list[int], data: st.DataObject
) -> None:
    with in_memory() as database:
        tree, size = Tree(database, "events"), 0
        for step in steps:
            step = min(step, MOST - size)
            add(database, step)
            size += step
            assert tree.size() == size
            assert tree.root(size) == mth(0, size)
            old = data.draw(st.integers(0, size))
            assert tree.root(old) == mth(0, old)
            assert list(tree.consistency(old, size)) == list(merkle.consistency(old, size, NODES))
            if size:
                index = data.draw(st.integers(0, size - 1))
                assert list(tree.inclusion(index, size)) == path(index, 0, size)
        tree.check()


def in_memory() -> Database:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.executescript(LOG_MIGRATION + tables.TREE)
    return Database(Path(":memory:"), connection)


def test_a_kept_tree_is_made_once_and_over_several_pages(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cohortium.common.audit.tree._ROWS", 8)
    add(database, 77)
    tree = Tree(database, "events")
    assert tree.root(77) == mth(0, 77)
    kept = database.execute("SELECT count(*) FROM tree")[0][0]
    assert kept == sum(77 >> level for level in range(1, 7))
    assert tree.root(77) == mth(0, 77)
    assert database.execute("SELECT count(*) FROM tree")[0][0] == kept


def test_a_tree_of_more_leaves_than_there_are_is_one_line(database: Database) -> None:
    add(database, 3)
    with pytest.raises(CohortiumError, match="fewer events than its tree"):
        Tree(database, "events").root(4)


def test_two_tables_have_two_trees(tmp_path: Path) -> None:
    shared = LOG_MIGRATION.replace("events", "shared")
    with open_database(tmp_path / "log.db", [LOG_MIGRATION, shared, tables.TREE]) as database:
        add(database, 20)
        database.execute("INSERT INTO shared VALUES (0, '', ?)", (LEAVES[7],))
        assert Tree(database, "events").root(20) == mth(0, 20)
        assert Tree(database, "shared").root(1) == LEAVES[7]
