"""Which studies' rows can be turned into patients again (`decode.py` does it)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cohortium.common.study import Study


def check_decodable(study: "Study") -> None:
    """Raise ValueError where rows cannot be turned into patients again, with the key."""
    if study.preprocessing.scaling != "public-range":
        raise ValueError(
            f'preprocessing.scaling: rows scaled by "{study.preprocessing.scaling}" cannot be '
            'turned into patients again; use "public-range"'
        )
    for block in study.layout.blocks:
        if block.kind not in ("table", "numbers"):
            raise ValueError(
                f'data.features: synthetic patients have numbers and codes, and "{block.name}" is '
                f"a {block.kind}"
            )
    if study.preprocessing.reduce is not None or study.preprocessing.site_intercept:
        raise ValueError(
            "preprocessing: what reduce or site_intercept adds is no column of a patient; remove it"
        )
