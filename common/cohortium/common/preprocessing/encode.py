"""Model inputs, labels and attribute levels of a site's rows, as a study asks for them.

Every column first becomes plain numbers: a number itself, a flag or a one-hot dummy 0 or 1. What is
missing gets the neutral value: the schema's centre for a number, 0.5 for a flag or each dummy.
Scaling follows, so that with `public-range` a missing value is exactly 0.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cohortium.common import bands
from cohortium.common.errors import DataError, ProtocolError
from cohortium.common.preprocessing import labels
from cohortium.common.preprocessing.reducing import Projection, project, reduce, sums, width
from cohortium.common.preprocessing.split import train_mask, validation_mask
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.preprocessing.wide.encoding import encode_block
from cohortium.common.schema import CategoryColumn, NarrowColumn, NumberColumn
from cohortium.common.study import Study
from cohortium.common.table import Mask, Table
from cohortium.common.task import BinaryTask, MulticlassTask
from cohortium.common.wide_columns import NumbersColumn

LIMIT = 2.5  # inputs are clipped to +-2.5 spreads around the public centre
HALF = 0.5  # the middle of a 0/1 column
TINY = 1e-9  # keeps a constant column from dividing by zero, as the papers do

Floats = NDArray[np.float32]
Wide = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Encoded:
    """The n usable rows of a site.

    Attributes:
        features: float32 (n, f), columns as `feature_names` says.
        labels: float32 (n,) or (n, columns), the outcome as a model learns it.
        outcomes: float64, the outcome as it was observed (both: see `labels.py`).
        train: bool (n,), false for held-out rows.
        validation: bool (n,), true for rows that decide when to stop: neither train nor test.
        attributes: int16 (n,) per fairness attribute: level, -1 unknown.
        patients: int64 (n,), equal where two rows are one patient's.
    """

    features: Floats
    labels: Floats
    outcomes: Wide
    train: Mask
    attributes: Mapping[str, NDArray[np.int16]]
    patients: NDArray[np.int64]
    validation: Mask


def feature_names(study: Study) -> tuple[str, ...]:
    """Names of the model's inputs, in order.

    Those of the table, then of each wide column in their order (`layout.py`) `<name>` for whether
    it is there and `<name>[i]` for its values.
    """
    return (*table_names(study), *_wide_names(study))


def table_names(study: Study) -> tuple[str, ...]:
    """Names of the inputs from columns that hold one number.

    `data.features` in their order (a category is one input per code but the first), then
    `<name>_missing` for exactly the columns in `preprocessing.missing_indicators`, then
    `site_<name>` for every site with `site_intercept`.
    """
    return (*_column_names(study), *_intercept_names(study))


def _wide_names(study: Study) -> Iterator[str]:
    for block in study.layout.blocks:
        if block.kind != "table":
            yield block.name
            yield from (f"{block.name}[{place}]" for place in range(block.stop - block.first))


def encode(table: Table, study: Study, site: str, statistics: Statistics | None = None) -> Encoded:
    """Encode the rows that the study can use: those with an outcome and, with `exclude`, no gap.

    Args:
        statistics: of all sites together; given exactly with `federated-standard` scaling.

    Raises:
        DataError: too few rows, or nothing to train on at a site that trains.
        ProtocolError: statistics of another number of inputs, or none where they are needed.
    """
    table = _usable(table, study, site)
    train, validation = _sides(table, study, site)
    if train.sum() < 2 and site not in study.sites.evaluate_only:
        raise DataError(f"{site}: fewer than 2 rows to train on; add rows or leave the study")
    features = _rows(table, study, site, train, statistics)
    outcomes = labels.observed(table, study, features)
    return Encoded(
        features=features,
        labels=labels.learnt(outcomes, study),
        outcomes=outcomes,
        train=train,
        attributes={name: _levels(table, study, name) for name in study.fairness.attributes},
        patients=table.patients,
        validation=validation,
    )


def encode_inputs(
    table: Table, study: Study, site: str = "", statistics: Statistics | None = None
) -> Floats:
    """The features (n, inputs) of patients whose outcome nobody knows yet, every row of them.

    Raises:
        ProtocolError: as `encode`, or the study scales by each site's own statistics.
    """
    if study.preprocessing.scaling == "site-standard":
        raise ProtocolError(
            'preprocessing.scaling = "site-standard" takes each site\'s own mean and deviation, '
            "which new patients do not have"
        )
    return _rows(table, study, site, np.ones(table.rows, np.bool_), statistics)


def scaled_inputs(study: Study) -> int:
    """How many inputs are scaled, and so measured by `federated-standard`: numbers and dummies."""
    return sum(1 for _ in _column_names(study)) + sum(
        len(_numbers(study, name).names) for name in _blocks_of_numbers(study)
    )


def site_statistics(table: Table, study: Study, site: str) -> Statistics:
    """Sums over this site's training rows, before scaling: what `federated-standard` merges.

    Raises:
        DataError: as `encode`.
    """
    table = _usable(table, study, site)
    train, _ = _sides(table, study, site)
    return Statistics.from_encoded(_plain(table, study)[train])


def require_classes(encoded: Encoded, study: Study, site: str) -> None:
    """Refuse a site that has seen one answer only: alone it can learn nothing but that answer.

    Not part of `encode`, since such a site can still add to a federation: in the published split
    of heart disease, every training patient of one hospital is ill.

    Raises:
        DataError: the study minds, and all labels of patients that the site trains on are equal.
    """
    task, seen = study.task, encoded.labels[encoded.train]
    if not isinstance(task, BinaryTask | MulticlassTask) or task.one_class_sites == "allow":
        return
    if len(seen) and seen.min() == seen.max():
        raise DataError(
            f"{site}: label has one class only at this site ({bands.text(len(seen))} training "
            f"rows): it cannot train a {task.kind} model; check the label, leave the study, or "
            'agree on task.one_class_sites = "allow"'
        )


def _sides(table: Table, study: Study, site: str) -> tuple[Mask, Mask]:
    """Who trains, and who decides when to stop; the others are the test patients."""
    train = train_mask(table, study, site)
    validation = validation_mask(table, study, site, train)
    return train & ~validation, validation


def _usable(table: Table, study: Study, site: str) -> Table:
    inputs = study.data.features if study.preprocessing.missing == "exclude" else ()
    usable = labels.known(table, study)
    for name in inputs:
        usable &= ~table.missing(name)
    if not usable.any():
        gap = "a label and every input" if inputs else "a label"
        raise DataError(
            f"{site}: no row has {gap} (label: {', '.join(study.task.columns)}); check the "
            "registered file"
        )
    return table.select(usable)


def _levels(table: Table, study: Study, name: str) -> NDArray[np.int16]:
    """Which band or code each row falls into; a band holds its lower edge."""
    if name in table.codes:
        return table.codes[name]
    levels = np.digitize(table.numbers[name], study.fairness.bands[name])
    return np.where(table.missing(name), -1, levels).astype(np.int16)


def _narrow(study: Study) -> Iterator[str]:
    """The features that hold one number."""
    columns = study.data_model.columns
    yield from (n for n in study.data.features if isinstance(columns[n], NarrowColumn))


def _column_names(study: Study) -> Iterator[str]:
    for name in _narrow(study):
        column = study.data_model.columns[name]
        if isinstance(column, CategoryColumn):
            yield from (f"{name}_{code}" for code in column.codes[1:])
        else:
            yield name
    yield from (f"{name}_missing" for name in _indicators(study))


def _intercept_names(study: Study) -> Iterator[str]:
    yield from (f"site_{name}" for name in _intercept_sites(study))


def _indicators(study: Study) -> tuple[str, ...]:
    """Which gaps get an input cannot be known from a schema, so the study lists them."""
    preprocessing = study.preprocessing
    return preprocessing.missing_indicators if preprocessing.missing == "indicator" else ()


def _intercept_sites(study: Study) -> tuple[str, ...]:
    return study.sites.names if study.preprocessing.site_intercept else ()


def _rows(
    table: Table, study: Study, site: str, train: Mask, statistics: Statistics | None
) -> Floats:
    """float32 (n, inputs): blocks as `layout.py` says, one behind the other."""
    made = np.zeros((table.rows, study.layout.inputs), np.float32)
    scaled = _scale(_plain(table, study), train, study, statistics)
    place = sum(1 for _ in _column_names(study))
    made[:, :place] = scaled[:, :place]
    for input, name in enumerate(_intercept_sites(study), start=place):
        made[:, input] = name == site
    for block in study.layout.blocks:
        if block.kind == "table":
            continue
        missing = table.missing(block.name)
        if block.name in _blocks_of_numbers(study):
            wide = len(_numbers(study, block.name).names)
            given = np.where(missing[:, None], 0.0, scaled[:, place : place + wide])
            values = _reduced(given, block.name, study, statistics)
            place += wide
        else:
            values = encode_block(table.wide[block.name], study, block)
        made[:, block.start] = 1.0
        made[:, block.first : block.stop] = values
        made[missing, block.start : block.stop] = 0.0
    return made


def _reduced(
    values: Wide | Floats, name: str, study: Study, statistics: Statistics | None
) -> Wide | Floats:
    how = study.preprocessing.reduce
    if how is None or how.block != name:
        return values
    found = statistics.projection if statistics is not None else None
    return reduce(values, how, found, study.training.seed)


def reduction_sums(table: Table, study: Study, site: str) -> Wide:
    """What this site adds to `preprocessing.reduce`, before noise: over its training rows.

    Raises:
        DataError: as `encode`.
    """
    how = study.preprocessing.reduce
    assert how is not None
    table = _usable(table, study, site)
    train = train_mask(table, study, site)
    scaled = _scale(_plain(table, study), train, study, None)
    place = sum(1 for _ in _column_names(study))
    for name in _blocks_of_numbers(study):
        wide = len(_numbers(study, name).names)
        if name == how.block:
            break
        place += wide
    values = np.where(table.missing(how.block)[:, None], 0.0, scaled[:, place : place + wide])
    places = classes_of(table, study)
    bound = study.privacy.mechanism != "none"
    return sums(values[train], places[train], class_count(study), how, bound=bound)


def reduced_width(study: Study) -> int:
    """How many numbers `reduction_sums` gives."""
    how = study.preprocessing.reduce
    assert how is not None
    return width(len(_numbers(study, how.block).names), class_count(study), how)


def projection(total: Wide, study: Study) -> Projection:
    """From the sum over sites to what all of them do with the block."""
    how = study.preprocessing.reduce
    assert how is not None
    return project(total, len(_numbers(study, how.block).names), class_count(study), how)


def class_count(study: Study) -> int:
    return study.outputs if isinstance(study.task, MulticlassTask) else 2


def classes_of(table: Table, study: Study) -> NDArray[np.int64]:
    """(n,) class of each patient, 0 where the outcome has no classes."""
    if isinstance(study.task, BinaryTask | MulticlassTask):
        return labels.observed(table, study).astype(np.int64)
    return np.zeros(table.rows, np.int64)


def _plain(table: Table, study: Study) -> Wide:
    """Unscaled inputs (n, scaled_inputs), gaps filled with the neutral value."""
    columns = [column for name in _narrow(study) for column in _inputs(table, study, name)]
    columns += [table.missing(name).astype(np.float64) for name in _indicators(study)]
    blocks = [_filled(table, study, name) for name in _blocks_of_numbers(study)]
    nothing = np.empty((table.rows, 0))
    return np.concatenate([nothing, *(column[:, None] for column in columns), *blocks], axis=1)


def _filled(table: Table, study: Study, name: str) -> Wide:
    values = table.wide[name]
    return np.where(np.isnan(values), _numbers(study, name).scale[0], values)


def _blocks_of_numbers(study: Study) -> tuple[str, ...]:
    columns = study.data_model.columns
    return tuple(n for n in study.data.features if isinstance(columns[n], NumbersColumn))


def _numbers(study: Study, name: str) -> NumbersColumn:
    column = study.data_model.columns[name]
    assert isinstance(column, NumbersColumn)
    return column


def _inputs(table: Table, study: Study, name: str) -> Iterator[Wide]:
    column = study.data_model.narrow(name)
    gaps = table.missing(name)
    if isinstance(column, NumberColumn):
        yield np.where(gaps, column.scale[0], table.numbers[name])
        return
    for place in range(1, len(column.codes)):
        yield np.where(gaps, HALF, table.codes[name] == place)


def _public_scale(study: Study) -> tuple[Wide, Wide]:
    """Public centre and spread of every scaled input; (0.5, 1) for 0/1 inputs."""
    scales = []
    for name in _narrow(study):
        column = study.data_model.narrow(name)
        if isinstance(column, NumberColumn):
            scales.append(column.scale)
        else:
            scales += [(HALF, 1.0)] * (len(column.codes) - 1)
    scales += [(HALF, 1.0)] * len(_indicators(study))
    for name in _blocks_of_numbers(study):
        block = _numbers(study, name)
        scales += [block.scale] * len(block.names)
    centres, spreads = np.array(scales).reshape(-1, 2).T
    return centres, spreads


def _scale(plain: Wide, train: Mask, study: Study, statistics: Statistics | None) -> Wide | Floats:
    scaling = study.preprocessing.scaling
    if scaling == "public-range":
        centres, spreads = _public_scale(study)
        return np.asarray(np.clip((plain - centres) / spreads, -LIMIT, LIMIT))
    if scaling == "federated-standard":
        return _standardise(plain, statistics)
    return _site_standardise(plain, train) if scaling == "site-standard" else plain


def _standardise(plain: Wide, statistics: Statistics | None) -> Wide:
    if statistics is None or len(statistics.total) != plain.shape[1]:
        raise ProtocolError(
            f"federated-standard scaling needs statistics of {plain.shape[1]} inputs from all sites"
        )
    if statistics.count < 2:
        raise ProtocolError("federated-standard scaling needs statistics of at least 2 rows")
    return np.asarray((plain - statistics.mean) / (statistics.deviation + TINY))


def _site_standardise(plain: Wide, train: Mask) -> Floats:
    """Z-scores by the site's own training rows, by torch: papers that use it are bit-sensitive."""
    import torch

    inputs = torch.from_numpy(plain.astype(np.float32))
    fit = inputs[torch.from_numpy(train)]
    scaled: Floats = ((inputs - fit.mean(0)) / (fit.std(0) + TINY)).numpy()
    return scaled
