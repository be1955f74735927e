"""Starting from what was learnt before, and which parameters travel."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from cohortium.common.continuation import Sha256
from cohortium.common.document import Document


class Lora(Document):
    """Low-rank adapters (Hu et al. 2022, LoRA): only they are trained, and travel.

    targets: patterns (as of a shell) of the names of linear layers; all of them by default.
    """

    rank: Annotated[int, Field(ge=1, le=256)] = 4
    alpha: PositiveFloat = 8.0
    targets: tuple[str, ...] = ("*",)


class Transfer(Document):
    """Which parameters a study begins with, trains, and keeps at each site.

    start: SHA-256 of the safetensors file that the parameters come from; the coordinator has the
    file (`study submit --start FILE`), and every site approves exactly this one. missing: what
    becomes of parameters that the file lacks or has in another shape.
    freeze: patterns of names of parameters that stay as they are, and so do not travel.
    site_heads: patterns of names of parameters that each site trains for itself and never sends.
    """

    start: Sha256 | None = None
    missing: Literal["refuse", "initialise"] = "refuse"
    freeze: tuple[str, ...] = ()
    site_heads: tuple[str, ...] = ()
    lora: Lora | None = None
    head_steps: PositiveInt | None = None
