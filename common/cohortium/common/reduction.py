"""Fewer inputs than columns, agreed by all sites before the first round."""

from typing import Annotated, Literal

from pydantic import Field

from cohortium.common.document import Document


class Reduction(Document):
    """What is made of a block of many numbers where patients are few.

    block: name of a `numbers` column. method: `pca` projects on its first `components` principal
    directions over all sites; `select` keeps the `components` columns that tell the classes apart
    best over all sites. epsilon: of the sums that sites send for it, at the study's delta; needed
    with privacy.
    """

    block: str
    method: Literal["pca", "select"]
    components: Annotated[int, Field(ge=1, le=1000)]
    epsilon: Annotated[float, Field(gt=0, le=100)] | None = None
