"""What of a site's attributions may leave: means over enough patients, and no single one's."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from cohortium.common.explaining.atoms import KINDS, added_by_kind, kind_names, kinds_of
from cohortium.common.explaining.columns import Column, columns
from cohortium.common.explaining.document import Mean, Rows, Told
from cohortium.common.explanation import MOST_TOLD, Method
from cohortium.common.layout import ATOM, Block
from cohortium.common.study import Study
from cohortium.common.task import MulticlassTask, MultilabelTask
from cohortium.common.wide_columns import SequenceColumn

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
LEAST = 10  # patients behind any number that leaves, whatever a site allows beyond that
DIGITS = 4


def told(
    study: Study,
    method: Method,
    rows: Floats,
    attributions: Floats,
    chosen: NDArray[np.int64],
    least: int,
) -> Told | None:
    """None where too few patients were explained.

    Args:
        rows, attributions: (n, inputs). chosen: (n,) the class that each row's is about.
        least: patients behind every number, at least `LEAST`.
    """
    least = max(least, LEAST)
    if len(rows) < least or study.explanation is None:
        return None
    groups = {name: chosen == number for number, name in enumerate(classes(study))}
    groups = {name: group for name, group in groups.items() if group.sum() >= least}
    motifs, saliency = dict[str, Rows](), dict[str, Rows]()
    for block in study.layout.blocks:
        for name, group in groups.items():
            if block.kind == "sequence" and study.explanation.motifs:
                motifs[name] = _motif(study, block, rows[group], attributions[group], least)
            if block.kind == "image" and study.explanation.saliency:
                saliency[name] = _map(block, attributions[group])
    alone = _alone(study, rows, attributions, list(groups.values()), least)
    means = _means(_merged(columns(study)), attributions, alone, least)
    means |= _of_atoms(study, rows, attributions, least)
    return Told(method=method, columns=means, motifs=motifs, saliency=saliency)


def classes(study: Study) -> tuple[str, ...]:
    """Names of what an attribution can be about; one name where a model has one answer."""
    task = study.task
    match task:
        case MulticlassTask():
            return task.classes(study.data_model)
        case MultilabelTask():
            return task.labels
        case _:
            return ("everybody",)


def _merged(found: tuple[Column, ...]) -> tuple[Column, ...]:
    """One column for each block where there are too many to tell one by one."""
    if len(found) <= MOST_TOLD:
        return found
    blocks: dict[str, list[int]] = {}
    for column in found:
        blocks.setdefault(column.block, []).extend(column.places)
    return tuple(Column(name, name, tuple(places)) for name, places in blocks.items())


def _means(
    found: Iterable[Column], attributions: Floats, alone: Bools, least: int
) -> dict[str, Mean]:
    """By column; without those whose told parts, taken from them, would leave a few patients."""
    means = {}
    for column in found:
        places = list(column.places)
        each = attributions[:, places].astype(np.float64).sum(axis=1)
        left = alone[:, places].any(axis=1).sum()
        if (each != 0).sum() >= least and not 0 < left < least:
            means[column.name] = _mean(each)
    return means


def _alone(
    study: Study, rows: Floats, attributions: Floats, groups: list[Bools], least: int
) -> Bools:
    """(n, inputs) what is behind a column, and behind none of the parts of it that are told too."""
    assert study.explanation is not None
    alone = np.zeros(rows.shape, np.bool_)
    for block in study.layout.blocks:
        here = alone[:, block.first : block.stop]
        if block.kind == "sequence" and study.explanation.motifs:
            letters = rows[:, block.first : block.stop]
            here[:] = attributions[:, block.first : block.stop] != 0
            for group in groups:
                for number in range(1, block.levels - 1):
                    those = group[:, None] & (letters == number)
                    here &= ~(those & (those.sum(axis=0) >= least))
        if block.kind == "image" and study.explanation.saliency:
            here[:] = ~np.any([np.zeros(len(rows), np.bool_), *groups], axis=0)[:, None]
        if block.kind == "molecule":
            atoms = kinds_of(block, rows)
            for number in range(len(KINDS)):
                those = atoms == number
                if those.any(axis=1).sum() < least:
                    here[:, : ATOM * atoms.shape[1] : ATOM] |= those
    return alone


def _of_atoms(
    study: Study, rows: Floats, attributions: Floats, least: int
) -> Iterator[tuple[str, Mean]]:
    """By kind of atom, where enough patients have one."""
    for block in study.layout.blocks:
        if block.kind == "molecule":
            for name, have, each in added_by_kind(block, rows, attributions):
                if have.sum() >= least:
                    yield name, _mean(each)


def _mean(each: NDArray[np.float64]) -> Mean:
    return Mean(size=_rounded(np.abs(each).mean()), signed=_rounded(each.mean()))


def _motif(study: Study, block: Block, rows: Floats, attributions: Floats, least: int) -> Rows:
    column = study.data_model.columns[block.name]
    assert isinstance(column, SequenceColumn)
    places = slice(block.first, block.stop)
    letters, values = rows[:, places], attributions[:, places].astype(np.float64)
    found = []
    for place in range(letters.shape[1]):
        cells: list[float | None] = []
        for number in range(1, len(column.letters) + 1):
            here = letters[:, place] == number
            enough = here.sum() >= least
            cells.append(_rounded(values[here, place].sum() / len(rows)) if enough else None)
        found.append(tuple(cells))
    return tuple(found)


def _map(block: Block, attributions: Floats) -> Rows:
    values = attributions[:, block.first : block.stop].astype(np.float64).mean(axis=0)
    whole = values.reshape(block.shape).sum(axis=0)
    return tuple(tuple(_rounded(value) for value in row) for row in whole)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def check_told(study: Study, found: Iterable[Told]) -> None:
    """Raise ValueError for what no site with this study's table can say."""
    asked = study.explanation
    methods = [one.method for one in found]
    if len(set(methods)) < len(methods) or not set(methods) <= set(asked.methods if asked else ()):
        raise ValueError("explanations by other methods than the study names")
    known = set(_told_names(study)) if methods else set()
    shapes = dict(_shapes(study)) if methods else {}
    for one in found:
        if not set(one.columns) <= known:
            raise ValueError("an explanation of columns that the study does not read")
        for kind, by_class in (("motifs", one.motifs), ("saliency", one.saliency)):
            if not set(by_class) <= set(classes(study)):
                raise ValueError("an explanation of classes that the study does not have")
            for rows in by_class.values():
                if (len(rows), {len(row) for row in rows}) != shapes.get(kind):
                    raise ValueError(f"{kind} of another shape than the study's column")


def _told_names(study: Study) -> Iterator[str]:
    """Every name that a site's means may have."""
    yield from (column.name for column in _merged(columns(study)))
    for block in study.layout.blocks:
        if block.kind == "molecule":
            yield from kind_names(block)


def _shapes(study: Study) -> Iterable[tuple[str, tuple[int, set[int]]]]:
    asked = study.explanation
    for block in study.layout.blocks:
        column = study.data_model.columns.get(block.name)
        if isinstance(column, SequenceColumn) and asked and asked.motifs:
            yield "motifs", (column.length, {len(column.letters)})
        if block.kind == "image" and asked and asked.saliency:
            yield "saliency", (block.shape[1], {block.shape[2]})
