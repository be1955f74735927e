"""What a study says about evaluation, fairness, mitigation and release."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from cohortium.common.document import Document, GrownDocument
from cohortium.common.schema import Name

Fraction = Annotated[float, Field(gt=0, lt=1)]

Criterion = Literal[
    "demographic_parity",  # selection rate
    "equal_opportunity",  # sensitivity
    "false_positive_rate",  # with equal_opportunity: equalised odds
    "predictive_parity",  # positive predictive value
    "accuracy",
    "auroc",
    "calibration",  # observed / expected
]
Gate = Literal["fairness", "measured", "epsilon", "privacy_audit", "quarantine"]


class Evaluation(GrownDocument):
    """How the model is measured on held-out patients: overall every so often, by group at the end.

    thresholds: a score above one is called positive. The first is that of accuracy and of the
    results by group; sites show the further ones in this order, as far as no cell is small.
    curves: reliability in up to eight bins of the score, as fine as small cells allow; and the
    calibration slope over all sites' rows, for which they are asked up to eight times at the end.
    own_model: each site also trains a model of its own, without noise, that never leaves it; what
    leaves is on how many held-out patients the two agree. It answers whether joining was worth it,
    and whom privacy harmed.
    leave_one_site_out: for each site one more model, trained without it and measured at it.
    blinded: reports name sites by pseudonyms, and by site only where three or more show a value.
    noise_epsilon: counts at the first threshold leave with discrete Gaussian noise that costs this
    much of the dataset's budget, at the study's delta, instead of with small cells hidden; once, of
    the final model, and nothing else leaves of held-out patients.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {"curves", "own_model", "leave_one_site_out", "blinded", "noise_epsilon"}
    )

    every: PositiveInt = 1
    thresholds: Annotated[tuple[Fraction, ...], Field(min_length=1, max_length=5)] = (0.5,)
    curves: bool = True
    own_model: bool = False
    leave_one_site_out: bool = False
    blinded: bool = False
    noise_epsilon: Annotated[float, Field(gt=0, le=10)] | None = None

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.thresholds)) < len(self.thresholds):
            raise ValueError("thresholds names one twice")
        return self


class Fairness(GrownDocument):
    """By which attributes results are broken down, and how large a gap is one.

    bands: where numbers are cut. intersections: pairs of attributes that are also looked at
    together. reference: the level that the others of an attribute are compared with; by default
    its first. primary: the criterion that is tested for each attribute by Holm's procedure;
    everything else is exploratory. margins: the largest gap without consequence, by criterion
    (differences; for `calibration` the factor by which observed / expected may differ, above 1).
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {"intersections", "reference", "primary", "margins"}
    )

    attributes: tuple[Name, ...] = ()
    bands: Mapping[Name, Annotated[tuple[float, ...], Field(min_length=1)]] = {}
    intersections: tuple[tuple[Name, Name], ...] = ()
    reference: Mapping[Name, str] = {}
    primary: Criterion = "equal_opportunity"
    margins: Mapping[Criterion, PositiveFloat] = {}


class Mitigation(Document):
    """What a site does against unequal results; the audit shows before and after.

    recalibrate: each site fits intercept and slope of the final model's scores on its own training
    patients; the fit stays there. ditto: strength of the pull of a site's personal model towards
    the federated one (Li et al. 2021, Ditto); the personal model stays there.
    """

    recalibrate: bool = False
    ditto: PositiveFloat | None = None


class Release(Document):
    """Which gates keep `study release` from signing while they are open."""

    gates: tuple[Gate, ...] = ("fairness", "measured", "epsilon", "quarantine")


def other_models(evaluation: Evaluation, mitigation: Mitigation) -> tuple[str, ...]:
    """The models without noise that each site makes beside the federated one, by name.

    `own` knows the site's training patients alone, `recalibrated` is the federated one with an
    intercept and a slope of the site's, `personal` is Ditto's. None of them leaves the site.
    """
    asked = {
        "own": evaluation.own_model,
        "recalibrated": mitigation.recalibrate,
        "personal": mitigation.ditto is not None,
    }
    return tuple(name for name, wanted in asked.items() if wanted)
