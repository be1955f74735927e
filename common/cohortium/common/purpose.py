"""Why patients' data may be used: GA4GH Data Use Ontology codes, and a study's purpose."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from cohortium.common.document import Document

DUO_CODES = ("GRU", "HMB", "DS", "POA", "NRES", "CC", "NPU", "NCU", "GSO", "PS", "IS", "US", "GS")


class Purpose(Document):
    """Why: in words, as a GA4GH Data Use Ontology code, and on which legal basis."""

    text: Annotated[str, Field(min_length=10, max_length=2000)]
    duo: str
    legal_basis: Annotated[str, Field(min_length=3, max_length=500)]

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.duo not in DUO_CODES:
            raise ValueError(
                f'duo "{self.duo}" is no Data Use Ontology code: {", ".join(DUO_CODES)}'
            )
        return self
