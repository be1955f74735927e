"""The Merkle tree over a log: its root, and proofs that a leaf is in it or that it only grew.

Leaf and node hashes are RFC 6962's (section 2.1), checking proofs is RFC 9162's (2.1.3.2, 2.1.4.2).
Nothing here knows where hashes are kept: a tree is read through `Nodes`, so that roots and proofs
of a log of n events read O(log n) hashes.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

Proof = tuple[bytes, ...]


class Nodes(Protocol):
    """The roots of complete subtrees."""

    def __call__(self, level: int, index: int) -> bytes:
        """The root over leaves [index * 2^level, (index + 1) * 2^level): 32 bytes."""


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256 of 0x01 and both children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class Peaks:
    """A tree that only grows, as the roots of its complete subtrees: O(log n) memory."""

    size: int = 0
    hashes: Proof = ()

    def plus(self, leaves: Iterable[bytes]) -> "Peaks":
        """The same tree with further leaf hashes, in order."""
        stack, size = list(self.hashes), self.size
        for leaf in leaves:
            index, size = size, size + 1
            while index & 1:
                leaf, index = node_hash(stack.pop(), leaf), index >> 1
            stack.append(leaf)
        return Peaks(size, tuple(stack))

    @property
    def root(self) -> bytes:
        return _folded(list(self.hashes))


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes in order, in O(log n) memory."""
    return Peaks().plus(leaves).root


def nodes_of(leaves: Sequence[bytes]) -> Nodes:
    """A tree held in memory, for small logs, tests and verifiers."""
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])
    return lambda level, index: levels[level][index]


def root(size: int, nodes: Nodes) -> bytes:
    """The root of the tree's first `size` leaves."""
    return _range(0, size, nodes)


def inclusion(index: int, size: int, nodes: Nodes) -> Proof:
    """What proves that leaf `index` is among the first `size` leaves.

    Raises:
        ValueError: it is not.
    """
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    first, end, path = 0, size, []
    while end - first > 1:
        middle = first + _split(end - first)
        if index < middle:
            path.append(_range(middle, end, nodes))
            end = middle
        else:
            path.append(_range(first, middle, nodes))
            first = middle
    return tuple(reversed(path))


def consistency(old: int, size: int, nodes: Nodes) -> Proof:
    """What proves that the tree of `old` leaves is the beginning of the tree of `size`.

    Raises:
        ValueError: `old` is larger.
    """
    if not 0 <= old <= size:
        raise ValueError(f"a tree of {size} has no beginning of {old}")
    if old in (0, size):
        return ()
    first, end, whole, path = 0, size, True, []
    while old != end:
        middle = first + _split(end - first)
        if old <= middle:
            path.append(_range(middle, end, nodes))
            end = middle
        else:
            path.append(_range(first, middle, nodes))
            first, whole = middle, False
    if not whole:
        path.append(_range(first, end, nodes))
    return tuple(reversed(path))


def includes(leaf: bytes, index: int, size: int, proof: Proof, tree_root: bytes) -> bool:
    """Whether a proof shows that a leaf is at `index` of the tree (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == tree_root


def grew(old: int, size: int, old_root: bytes, new_root: bytes, proof: Proof) -> bool:
    """Whether a proof shows that nothing of the old tree was changed (RFC 9162, 2.1.4.2)."""
    if old == size:
        return old_root == new_root and not proof
    if old == 0:
        return old_root == EMPTY_ROOT and not proof
    if not 0 < old < size or not proof:
        return False
    hashes = list(proof)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and before == old_root and after == new_root


def _split(width: int) -> int:
    """The largest power of two below `width`, which is at least 2."""
    return 1 << ((width - 1).bit_length() - 1)


def _range(first: int, end: int, nodes: Nodes) -> bytes:
    """The root over leaves [first, end), which begins where a subtree of its size may begin."""
    peaks = []
    while first < end:
        level = (end - first).bit_length() - 1
        peaks.append(nodes(level, first >> level))
        first += 1 << level
    return _folded(peaks)


def _folded(peaks: list[bytes]) -> bytes:
    """The root over complete subtrees of falling size."""
    if not peaks:
        return EMPTY_ROOT
    found = peaks[-1]
    for left in reversed(peaks[:-1]):
        found = node_hash(left, found)
    return found
