"""What a site sends of its held-out patients: one tally for each kind of outcome.

None is unknown: not measurable, or not shown; `reason` says why. Counts add up over sites and
groups. Means add up times n. What compares patients with each other (AUROC, concordance) is of
this site and group only, with its variance.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from cohortium.common.document import Document
from cohortium.common.explaining.document import Told

Natural = Annotated[int, Field(ge=0)]
Count = Natural | None
Share = Annotated[float, Field(ge=0, le=1)] | None
NotNegative = Annotated[float, Field(ge=0)] | None


def crossed(one: str, other: str) -> str:
    """What an intersection is called: of two attributes, or of a level of each."""
    return f"{one} x {other}"


UNKNOWN = "unknown"  # the level of patients whose attribute is missing


class Called(Document):
    """How many with and without the outcome score above a threshold."""

    tp: Natural
    fp: Natural


class Bins(Document):
    """Reliability: patients, those with the outcome, and the mean score in equal bins of [0, 1].

    2, 4 or 8 of them, from the lowest score; a bin without patients has mean None.
    """

    n: tuple[Natural, ...]
    positives: tuple[Natural, ...]
    mean_score: tuple[Share, ...]


class Calibration(Document):
    """The logistic fit of the outcome on logit(score) at this site, with its covariance."""

    intercept: float
    slope: float
    intercept_variance: Annotated[float, Field(ge=0)]
    slope_variance: Annotated[float, Field(ge=0)]
    covariance: float


class BinaryTally(Document):
    """One group of patients with a yes or no outcome.

    `correct` to `fn` are at the study's first threshold, `further` at its other ones, cut short
    where a cell would be small. `log_loss` is binary cross-entropy in nats, `brier` the squared
    error, `brier_squares` its square, `mean_score` the predicted probability p, `undecided`
    p (1 - p), `auprc` average precision.
    """

    kind: Literal["binary"] = "binary"
    n: Count
    positives: Count
    correct: Count
    tp: Count
    fp: Count
    tn: Count
    fn: Count
    log_loss: NotNegative
    auroc: Share
    auroc_variance: Annotated[float, Field(ge=0, le=0.5)] | None = None
    auprc: Share = None
    brier: Share = None
    brier_squares: Share = None
    mean_score: Share = None
    undecided: Share = None
    further: tuple[Called, ...] = ()
    bins: Bins | None = None
    calibration: Calibration | None = None
    reason: str = ""


class MulticlassTally(Document):
    """One group of patients with one of several classes.

    `confusion[true][called]` in the order of the study's classes, called being the likeliest.
    `classes` holds each class against the rest, counted by what was called and ranked by its
    probability. `brier` is the squared error summed over classes, 0 to 2.
    """

    kind: Literal["multiclass"] = "multiclass"
    n: Count
    correct: Count
    confusion: tuple[tuple[Natural, ...], ...] | None
    classes: Mapping[str, BinaryTally]
    log_loss: NotNegative
    brier: NotNegative = None
    brier_squares: NotNegative = None
    reason: str = ""


class MultilabelTally(Document):
    """One group of patients with several yes or no outcomes; `all_right`: every label rightly."""

    kind: Literal["multilabel"] = "multilabel"
    n: Count
    all_right: Count
    labels: Mapping[str, BinaryTally]
    log_loss: NotNegative
    reason: str = ""


class RegressionTally(Document):
    """One group of patients with a measured outcome y and a prediction p, e = p - y.

    Means of |e|, e squared, its square, y, y squared, p, p squared, and p y, in the units of the
    outcome and their powers.
    """

    kind: Literal["regression"] = "regression"
    n: Count
    absolute: NotNegative
    squared: NotNegative
    fourth: NotNegative
    outcome: float | None
    outcome2: NotNegative
    predicted: float | None
    predicted2: NotNegative
    product: float | None
    reason: str = ""


class AtHorizon(Document):
    """At one of the study's horizons; None what is not shown, and `reason` why.

    `brier`: inverse-probability-of-censoring weighted squared error (Graf et al. 1999), weights
    from this site and group; `predicted` mean risk; `observed` risk by Kaplan and Meier with
    Greenwood's variance.
    """

    brier: NotNegative
    brier_variance: NotNegative
    predicted: Share
    observed: Share
    observed_variance: NotNegative
    reason: Literal[
        "",
        "few patients in a cell at this horizon",
        "nobody is watched that long",
        "scores near 0 and 1, or few different ones, would give counts away",
        "a hazard ratio alone gives no risk by a time",
    ] = ""


class SurvivalTally(Document):
    """One group of patients followed to an event or the end of watching.

    `pairs` of patients that can be compared, and of them `concordant` (ties of the score count
    half): Harrell's C = concordant / pairs, within this site and group. `c_variance` is C's.
    """

    kind: Literal["survival"] = "survival"
    n: Count
    events: Count
    pairs: NotNegative
    concordant: NotNegative
    c_variance: NotNegative
    horizons: tuple[AtHorizon, ...]
    reason: str = ""


class StateTally(Document):
    """One state of sequences' places: means over patients of the shares of their places.

    `true` in the state, `called` so, `right` both; `true2`, `right2` and `product` of the squares
    of the first and the third, and of the two multiplied.
    """

    true: Share = None
    called: Share = None
    right: Share = None
    true2: Share = None
    right2: Share = None
    product: Share = None


class LabellingTally(Document):
    """One group of patients with a state at each place of a sequence.

    `measured` of them have a place whose state is known. Means over these of the share of places
    rightly called, of its square, and of the mean log loss of their places, in nats.
    """

    kind: Literal["labelling"] = "labelling"
    n: Count
    measured: Count
    right: Share
    right2: Share
    log_loss: NotNegative
    states: Mapping[str, StateTally]
    reason: str = ""


class ContactsTally(Document):
    """One group of patients with a sequence, some pairs of whose places touch.

    `measured` of them have a pair that does and one that does not. Means over these: of the share
    of the likeliest L / 5 (`fifth`) and L (`top`) pairs that touch, of the AUROC within each, with
    the means of their squares; of the share of all pairs that touch; of the pairs' mean log loss.
    """

    kind: Literal["contacts"] = "contacts"
    n: Count
    measured: Count
    fifth: Share
    fifth2: Share
    top: Share
    top2: Share
    auroc: Share
    auroc2: Share
    contacts: Share
    log_loss: NotNegative
    reason: str = ""


class ReconstructionTally(Document):
    """One group of patients whose inputs a model gives back.

    Means over patients of the error e and the spread s, each a mean over the inputs: squared
    difference from what the model gives, and from the site's mean; then of e^2, s^2 and e s.
    """

    kind: Literal["reconstruction", "generation"]
    n: Count
    squared: NotNegative
    spread: NotNegative
    squared2: NotNegative
    spread2: NotNegative
    product: NotNegative
    reason: str = ""


def _kind(tally: Any) -> Any:
    """A tally from before there were others says no kind: it is of a yes or no outcome."""
    if isinstance(tally, Document):
        found = getattr(tally, "kind", None)
    else:
        found = tally.get("kind", "binary") if isinstance(tally, Mapping) else None
    return "reconstruction" if found == "generation" else found


Tally = Annotated[
    Annotated[BinaryTally, Tag("binary")]
    | Annotated[MulticlassTally, Tag("multiclass")]
    | Annotated[MultilabelTally, Tag("multilabel")]
    | Annotated[RegressionTally, Tag("regression")]
    | Annotated[SurvivalTally, Tag("survival")]
    | Annotated[LabellingTally, Tag("labelling")]
    | Annotated[ContactsTally, Tag("contacts")]
    | Annotated[ReconstructionTally, Tag("reconstruction")],
    Discriminator(_kind),
]


class Comparison(Document):
    """The same patients called by the federated model and by another, at the first threshold.

    How many are right by both, by only one, by neither. AUROC, log loss and Brier score of the
    other model, and the variance of the difference of the two AUROC (DeLong), overall only.
    """

    both: Count
    federated_only: Count
    other_only: Count
    neither: Count
    auroc: Share = None
    auroc_difference_variance: NotNegative = None
    log_loss: NotNegative = None
    brier: Share = None
    mean_score: Share = None
    reason: str = ""


class Beside(Document):
    """Another model beside the federated one, overall and by group."""

    overall: Comparison
    groups: Mapping[str, Mapping[str, Comparison]]


class SiteEvaluation(Document):
    """The body of an evaluation message: all patients, and `groups[attribute][level]`.

    Every declared level is there, even without patients; `unknown` only where some are. A declared
    intersection is one more attribute, such as `sex x age` with levels such as `female x <50`.
    Groups are there only in the last evaluation of a model. `beside`: `own`, `recalibrated`,
    `personal`, those that the study asks for; empty before the last evaluation. `noise_std`: of
    the discrete Gaussian noise in each of tp, fp, tn and fn, before those below zero became zero;
    0 without. The other counts are sums of these, and no two groups' agree.
    """

    overall: Tally
    groups: Mapping[str, Mapping[str, Tally]]
    beside: Mapping[str, Beside] = {}
    noise_std: Annotated[float, Field(ge=0)] = 0.0
    explained: tuple[Told, ...] = ()
