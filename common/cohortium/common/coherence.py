"""What the parts of a study cannot be together, of outcome, evaluation, fairness and mitigation.

Each function raises ValueError with the key and the reason, for `Study` to refuse the document.
"""

from typing import TYPE_CHECKING, get_args

from cohortium.common.document import nearest
from cohortium.common.evaluating import Criterion, Evaluation
from cohortium.common.models.options import FAMILIES, ModelDocument
from cohortium.common.models.options_base import TableModel
from cohortium.common.task import ContactsTask, LabellingTask, SurvivalTask
from cohortium.common.wide_columns import PairsColumn

if TYPE_CHECKING:
    from cohortium.common.study import Study

RATIO: Criterion = "calibration"  # the one criterion whose margin is a factor, not a difference
CALLED = ("binary", "multiclass", "multilabel")  # outcomes that a patient is called to have

# `linear` gives values, `logistic` probabilities or, for survival, the hazard in each interval. A
# binary outcome may have either, as studies had before there were other outcomes.
TABLE_MODELS: dict[str, tuple[str, ...]] = {
    "binary": ("logistic", "linear", "mlp"),
    "multiclass": ("logistic", "mlp"),
    "multilabel": ("logistic", "mlp"),
    "regression": ("linear", "mlp"),
    "survival": ("logistic", "mlp"),
    "cox": ("cox", "mlp"),
}


def check_model(study: "Study") -> None:
    """The model gives such an outcome, and can read the inputs."""
    model, kind = study.model, str(study.task.kind)
    if isinstance(study.task, SurvivalTask) and study.task.likelihood == "cox":
        kind = "cox"
    fitting = TABLE_MODELS.get(kind, ())
    others = tuple(n for one in FAMILIES if kind in one.outcomes for n in _names(one))
    fits = model.name in fitting if isinstance(model, TableModel) else model.name in others
    if kind == "cox" and not isinstance(model, TableModel):
        fits = "survival" in model.outcomes
    if not fits:
        use = fitting[0] if fitting else others[0]
        raise ValueError(f'model.name: a {model.name} model gives no {kind} outcome; use "{use}"')
    _check_blocks(study)


def check_along(study: "Study") -> None:
    """Pairs are an outcome alone, and the sequence that an outcome of places runs along is read."""
    for name in study.data.features:
        if isinstance(study.data_model.columns[name], PairsColumn):
            raise ValueError(
                f'data.features: "{name}" holds pairs of places, which no model reads; they are '
                'what task.kind = "contacts" predicts'
            )
    task = study.task
    if isinstance(task, LabellingTask | ContactsTask) and task.of not in study.data.features:
        raise ValueError(
            f'task.of: "{task.of}" is not in data.features, and the outcome runs along it; add it'
        )


def _names(family: type[ModelDocument]) -> tuple[str, ...]:
    return get_args(family.model_fields["name"].annotation)


def _check_blocks(study: "Study") -> None:
    model, blocks = study.model, study.layout.blocks
    for block in blocks:
        if block.kind not in model.blocks:
            able = ", ".join(
                name for one in FAMILIES if block.kind in one.blocks for name in _names(one)
            )
            raise ValueError(
                f'data.features: a {model.name} model reads no {block.kind} ("{block.name}"); '
                f"models that do: {able}"
            )
    if len(blocks) > 1 and not model.several:
        raise ValueError(
            f"data.features: a {model.name} model reads one block of inputs, and there are "
            f'{", ".join(block.name for block in blocks)}; use name = "fusion", or fewer features'
        )


def check_evaluation(study: "Study") -> None:
    """Thresholds call a probability positive; what is not there yet for an outcome says so."""
    evaluation, kind = study.evaluation, study.task.kind
    thresholds = evaluation.thresholds != Evaluation().thresholds
    if thresholds and kind not in ("binary", "multilabel"):
        raise ValueError(
            f"evaluation.thresholds: nothing is called positive in a {kind} outcome; remove them"
        )
    asked = {
        "evaluation.own_model": evaluation.own_model,
        "evaluation.noise_epsilon": evaluation.noise_epsilon is not None,
        "mitigation.recalibrate": study.mitigation.recalibrate,
        "mitigation.ditto": study.mitigation.ditto is not None,
    }
    for key, wanted in asked.items():
        if wanted and kind != "binary":
            raise ValueError(f"{key}: not yet for a {kind} outcome, only for a binary one")
    if evaluation.noise_epsilon is not None and study.privacy.mechanism == "none":
        raise ValueError(
            "evaluation.noise_epsilon: noise costs privacy at the study's delta, and "
            'privacy.mechanism = "none" has none; remove it, or use "gaussian"'
        )
    if evaluation.noise_epsilon is not None and evaluation.leave_one_site_out:
        raise ValueError(
            "evaluation.leave_one_site_out: with noise_epsilon only the final model is measured, "
            "and models without one site would be trained for nothing; remove one of the two"
        )


def check_evaluate_only(study: "Study") -> None:
    """What a site that trains on nobody would need its training patients, or its place, for."""
    if not study.sites.evaluate_only:
        return
    if study.preprocessing.scaling == "site-standard":
        raise ValueError(
            'sites.evaluate_only: preprocessing.scaling = "site-standard" takes a site\'s mean and '
            "deviation from its training patients, and such a site has none; use another scaling"
        )
    if study.preprocessing.site_intercept:
        raise ValueError(
            "sites.evaluate_only: with preprocessing.site_intercept such a site would have an "
            "intercept that nobody trained; remove site_intercept"
        )
    if study.training.shared_stream_rows:
        raise ValueError(
            "sites.evaluate_only: training.shared_stream_rows replays sites that all train"
        )


def check_fairness(study: "Study") -> None:
    fairness = study.fairness
    for name in fairness.attributes:
        if name in study.task.columns:
            raise ValueError(
                f'fairness.attributes: "{name}" is the outcome itself; among patients who all have '
                "one outcome there are no errors of both kinds to compare"
            )
    for key in ("intersections", "reference", "margins"):
        if getattr(fairness, key) and not fairness.attributes:
            raise ValueError(f"fairness.{key}: there are no fairness.attributes to look at")
    _check_intersections(study)
    _check_reference(study)
    _check_margins(study)


def _check_intersections(study: "Study") -> None:
    seen: set[frozenset[str]] = set()
    for pair in study.fairness.intersections:
        for name in pair:
            if name not in study.fairness.attributes:
                hint = nearest(name, list(study.fairness.attributes))
                raise ValueError(
                    f'fairness.intersections: "{name}" is not in fairness.attributes{hint}'
                )
        if pair[0] == pair[1]:
            raise ValueError(f'fairness.intersections: "{pair[0]}" is paired with itself')
        if frozenset(pair) in seen:
            raise ValueError(f'fairness.intersections: "{pair[0]}" and "{pair[1]}" come twice')
        seen.add(frozenset(pair))


def _check_reference(study: "Study") -> None:
    for name, level in study.fairness.reference.items():
        if name not in study.fairness.attributes:
            hint = nearest(name, list(study.fairness.attributes))
            raise ValueError(f"fairness.reference.{name}: not in fairness.attributes{hint}")
        levels = study.attribute_levels(name)
        if level not in levels:
            hint = nearest(level, list(levels))
            raise ValueError(f'fairness.reference.{name}: "{level}" is no level of it{hint}')


def _check_margins(study: "Study") -> None:
    """Such as a gap in the study's outcome can be held against."""
    kind = study.task.kind
    if study.fairness.margins and kind not in CALLED:
        raise ValueError(
            f"fairness.margins: not yet for a {kind} outcome, whose errors are reported by group "
            "without a verdict; remove them"
        )
    for criterion, margin in study.fairness.margins.items():
        if criterion == RATIO and margin <= 1:
            raise ValueError(
                f"fairness.margins.{criterion}: {margin:g} is no factor above 1; 1.25 lets "
                "observed / expected lie between 0.8 and 1.25"
            )
        if criterion != RATIO and margin >= 1:
            raise ValueError(
                f"fairness.margins.{criterion}: shares never differ by {margin:g}, so that nothing "
                "would be a gap; 5 percentage points are 0.05"
            )
