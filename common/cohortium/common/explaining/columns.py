"""Which inputs of a row belong to which column of the table."""

from collections.abc import Iterator
from dataclasses import dataclass

from cohortium.common.layout import Block
from cohortium.common.preprocessing.encode import table_names
from cohortium.common.study import Study


@dataclass(frozen=True)
class Column:
    """A column as people know it, such as `age` or `mrna:ESR1`, and its places in a row."""

    block: str
    name: str
    places: tuple[int, ...]


def columns(study: Study) -> tuple[Column, ...]:
    """Every input that may vary, once: what a category's codes and its gaps add is one column's.

    A place of a sequence, and a time of a series, are columns of their own: `sequence 31`. An image
    and a molecule are one each.
    """
    return tuple(found for block in study.layout.blocks for found in _of_block(study, block))


def _of_block(study: Study, block: Block) -> Iterator[Column]:
    values = range(block.first, block.stop)
    match block.kind:
        case "table":
            yield from _of_table(study, block)
        case "numbers":
            names = block.names or tuple(f"component {k}" for k in range(1, len(values) + 1))
            for name, place in zip(names, values, strict=True):
                yield Column(block.name, f"{block.name}:{name}", (place,))
        case "sequence":
            for number, place in enumerate(values, start=1):
                yield Column(block.name, f"{block.name} {number}", (place,))
        case "series":
            times, width = block.shape
            for number in range(times):
                first = block.first + number * width
                time = tuple(range(first, first + width))
                yield Column(block.name, f"{block.name} {number + 1}", time)
        case _:
            yield Column(block.name, block.name, tuple(values))


def _of_table(study: Study, block: Block) -> Iterator[Column]:
    found: dict[str, list[int]] = {}
    dummies = {place: name for name, begin, end in block.groups for place in range(begin, end)}
    features = set(study.data.features)
    for place, name in enumerate(table_names(study)):
        owner = dummies.get(place, name)
        if owner not in features and owner.removesuffix("_missing") in features:
            owner = owner.removesuffix("_missing")
        if owner not in features:
            owner = "site"
        found.setdefault(owner, []).append(block.first + place)
    for name, places in found.items():
        yield Column(block.name, name, tuple(places))
