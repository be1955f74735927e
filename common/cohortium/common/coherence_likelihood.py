"""What Cox's likelihood, Newton's method and outcomes of many numbers cannot be together with.

Each function raises ValueError with the key and the reason, for `Study` to refuse the document.
"""

from typing import TYPE_CHECKING

from cohortium.common.newton import MOST_INPUTS, asked
from cohortium.common.task import SurvivalTask

if TYPE_CHECKING:
    from cohortium.common.study import Study

LINEAR = ("logistic", "linear", "cox")
ONE_OUTPUT = ("binary", "regression", "survival")
WITHOUT_GROUPS = ("labelling", "contacts", "reconstruction", "generation")


def check(study: "Study") -> None:
    """All that is in this module."""
    if isinstance(study.task, SurvivalTask) and study.task.likelihood == "cox":
        _check_cox(study)
    if asked(study):
        _check_newton(study)
    _check_groups(study)


def _check_cox(study: "Study") -> None:
    if study.privacy.mechanism != "none":
        raise ValueError(
            'task.likelihood: with "cox" the loss of one patient depends on the others who are at '
            "risk at that time, so that no clipping bounds what one patient changes and no epsilon "
            'holds; with privacy use likelihood = "discrete"'
        )
    if study.training.batches != "full":
        raise ValueError(
            f'training.batches: with task.likelihood = "cox" a batch of "{study.training.batches}" '
            'would have other risk sets than the site; use "full", or likelihood = "discrete"'
        )
    if study.strategy.name == "qfedavg":
        raise ValueError(
            'strategy.name: "qfedavg" weighs sites by their loss, and with task.likelihood = "cox" '
            "that grows with the number of patients at risk; use another strategy"
        )
    if study.training.patience is not None:
        raise ValueError(
            'training.patience: with task.likelihood = "cox" there is no loss of each validation '
            "patient to follow; leave it out"
        )


def _check_newton(study: "Study") -> None:
    training, strategy = study.training, study.strategy
    if study.privacy.mechanism != "none":
        raise ValueError(
            'strategy.name: "newton" sends an information matrix, in which a patient is not '
            "bounded by clipping; with privacy use another strategy"
        )
    if training.batches != "full":
        raise ValueError('strategy.name: "newton" needs training.batches = "full"')
    if study.model.name not in LINEAR or study.task.kind not in ONE_OUTPUT or study.outputs != 1:
        raise ValueError(
            'strategy.name: "newton" fits cox, logistic (binary) and linear (regression) models; '
            f"a {study.model.name} model of a {study.task.kind} outcome needs another strategy"
        )
    if study.layout.inputs > MOST_INPUTS:
        raise ValueError(
            f'strategy.name: "newton" sends the product of every two inputs, and there are '
            f"{study.layout.inputs}; at most {MOST_INPUTS}, or use another strategy"
        )
    if strategy.weighting == "equal":
        raise ValueError(
            'strategy.weighting: "newton" adds up what sites send, so that every patient counts '
            'once; use "bands"'
        )
    unused = {
        "strategy.weight_decay": strategy.weight_decay,
        "strategy.average_last": strategy.average_last,
        "training.l1": training.l1,
        "training.class_weights": training.class_weights,
        "training.sampling": training.sampling != "none",
    }
    for key, given in unused.items():
        if given:
            raise ValueError(f'{key}: strategy.name = "newton" takes every row as it is; remove it')


def _check_groups(study: "Study") -> None:
    kind = study.task.kind
    if study.fairness.attributes and kind in WITHOUT_GROUPS:
        raise ValueError(
            f"fairness.attributes: not yet for a {kind} outcome, of which sites show means of all "
            "patients together; remove them"
        )
