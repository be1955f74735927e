"""Fewer inputs than columns, agreed by all sites before the first round."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cohortium.common.document import Document
from cohortium.common.wide_columns import NumbersColumn

if TYPE_CHECKING:
    from cohortium.common.study import Study

MOST_FOR_PCA = 3000  # columns: a site sends a number for each pair of them


class Reduction(Document):
    """What is made of a block of many numbers where patients are few.

    block: name of a `numbers` column among the features. method: `random` projects on random
    directions, which costs nothing; `pca` on the first `components` principal directions over all
    sites; `select` keeps the `components` columns that tell the classes apart best over all sites.
    epsilon: of the sums that sites send for `pca` and `select`, at the study's delta, beside what
    training costs; needed with privacy, and only then.
    """

    block: str
    method: Literal["random", "pca", "select"]
    components: Annotated[int, Field(ge=1, le=2000)]
    epsilon: Annotated[float, Field(gt=0, le=100)] | None = None

    @property
    def measured(self) -> bool:
        """Whether sites send sums for it."""
        return self.method != "random"


def check_reduction(study: "Study") -> None:
    """Raise ValueError for a reduction that cannot be made, with the key and the reason."""
    reduce = study.preprocessing.reduce
    if reduce is None:
        return
    column = study.data_model.columns.get(reduce.block)
    if reduce.block not in study.data.features or not isinstance(column, NumbersColumn):
        raise ValueError(
            f'preprocessing.reduce.block: "{reduce.block}" is no block of numbers in data.features'
        )
    if reduce.components > len(column.names):
        raise ValueError(
            f"preprocessing.reduce.components: {reduce.block} has only {len(column.names)} columns"
        )
    if reduce.method == "pca" and len(column.names) > MOST_FOR_PCA:
        raise ValueError(
            f"preprocessing.reduce.method: pca of more than {MOST_FOR_PCA} columns would send a "
            'number for each pair of them; use "select" or "random"'
        )
    if study.preprocessing.scaling not in ("public-range", "none"):
        raise ValueError(
            "preprocessing.reduce: its sums are made in the same step as the statistics of "
            f'preprocessing.scaling = "{study.preprocessing.scaling}"; use "public-range"'
        )
    _check_labels(study, reduce)
    _check_price(study, reduce)


def _check_labels(study: "Study", reduce: Reduction) -> None:
    if reduce.method == "select" and study.task.kind not in ("binary", "multiclass"):
        raise ValueError(
            'preprocessing.reduce.method: "select" looks for columns that tell classes apart, and '
            f'a {study.task.kind} outcome has none; use "pca" or "random"'
        )


def _check_price(study: "Study", reduce: Reduction) -> None:
    private = study.privacy.mechanism != "none"
    if reduce.epsilon is not None and not (private and reduce.measured):
        raise ValueError(
            "preprocessing.reduce.epsilon: "
            + ("a random projection costs nothing" if private else 'mechanism = "none" has none')
            + "; remove it"
        )
    if reduce.epsilon is None and private and reduce.measured:
        raise ValueError(
            f'preprocessing.reduce.epsilon: with privacy "{reduce.method}" needs sums of patients, '
            'with noise that costs something: say how much, or use method = "random"'
        )
