"""Models of measurements at irregular times."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from cohortium.common.layout import BlockKind
from cohortium.common.models.options_base import ModelDocument, Widths


class OdeModel(ModelDocument):
    """Neural ODE with jumps at the observations (Chen et al. 2018; De Brouwer et al. 2019).

    width: of the state; hidden: of the network that gives its derivative; steps: of the fixed-step
    Runge-Kutta solver between two observations, as many for every patient.
    """

    blocks: ClassVar[tuple[BlockKind, ...]] = ("series",)

    name: Literal["neural_ode"]
    width: PositiveInt = 16
    hidden: Widths = (16,)
    steps: Annotated[int, Field(ge=1, le=64)] = 2
