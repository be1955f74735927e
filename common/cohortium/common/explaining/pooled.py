"""Explanations of several sites as one: means in which each site counts the same."""

from collections.abc import Iterable, Mapping, Sequence

from cohortium.common.explaining.document import Mean, Rows, Told


def pooled(by_site: Mapping[str, Sequence[Told]]) -> tuple[Told, ...]:
    """One for each method; a column, letter or pixel is the mean over the sites that tell it."""
    methods = dict.fromkeys(one.method for found in by_site.values() for one in found)
    return tuple(
        _one([one for found in by_site.values() for one in found if one.method == method])
        for method in methods
    )


def _one(found: Sequence[Told]) -> Told:
    names = dict.fromkeys(name for one in found for name in one.columns)
    means = {}
    for name in names:
        those = [one.columns[name] for one in found if name in one.columns]
        means[name] = Mean(
            size=_mean(mean.size for mean in those), signed=_mean(mean.signed for mean in those)
        )
    largest = sorted(means, key=lambda name: (-means[name].size, name))
    return Told(
        method=found[0].method,
        columns={name: means[name] for name in largest},
        motifs=_by_class([one.motifs for one in found]),
        saliency=_by_class([one.saliency for one in found]),
    )


def _by_class(found: Sequence[Mapping[str, Rows]]) -> dict[str, Rows]:
    names = dict.fromkeys(name for one in found for name in one)
    return {name: _rows([one[name] for one in found if name in one]) for name in names}


def _rows(found: Sequence[Rows]) -> Rows:
    return tuple(
        tuple(_mean_known(cells) for cells in zip(*rows, strict=True))
        for rows in zip(*found, strict=True)
    )


def _mean_known(cells: Iterable[float | None]) -> float | None:
    known = [cell for cell in cells if cell is not None]
    return _mean(known) if known else None


def _mean(numbers: Iterable[float]) -> float:
    those = list(numbers)
    return sum(those) / len(those)
