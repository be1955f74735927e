"""What of the training cannot be together with the rest of a study.

Raises ValueError with the key and the reason, for `Study` to refuse the document.
"""

from typing import TYPE_CHECKING

from cohortium.common.task import BinaryTask, MulticlassTask

if TYPE_CHECKING:
    from cohortium.common.study import Study


def check_training(study: "Study") -> None:
    """Class weights and resampling have classes; stopping early has somebody to look at."""
    _check_classes(study)
    _check_patience(study)


def _check_classes(study: "Study") -> None:
    task, training = study.task, study.training
    for key, asked in {
        "class_weights": bool(training.class_weights),
        "sampling": training.sampling != "none",
    }.items():
        if asked and not isinstance(task, BinaryTask | MulticlassTask):
            raise ValueError(
                f"training.{key}: a {task.kind} outcome puts a patient into no class; remove it"
            )
    classes = 2 if isinstance(task, BinaryTask) else study.outputs
    given = len(training.class_weights)
    if given and given != classes:
        order = "without and with the outcome" if classes == 2 else "in the order of the codes"
        raise ValueError(
            f"training.class_weights: {given} numbers for {classes} classes; give one for each, "
            f"{order}"
        )
    if given and training.sampling != "none":
        raise ValueError(
            "training.class_weights and training.sampling both make up for rare classes; use one"
        )


def _check_patience(study: "Study") -> None:
    """Early stopping looks at patients who do not train, without privacy, for one model."""
    patience, fraction = study.training.patience, study.split.validation_fraction
    if (patience is None) != (fraction is None):
        given, needed = "training.patience", "split.validation_fraction"
        if patience is None:
            given, needed = needed, given
        raise ValueError(f"{given} needs {needed}: who stops early looks at held-out patients")
    if patience is None:
        return
    why = ""
    if study.privacy.mechanism != "none":
        why = (
            "with privacy each look at validation patients would be a release that no epsilon "
            "covers; decide on training.rounds beforehand, and remove it"
        )
    elif patience >= study.training.rounds:
        why = f"{patience} rounds without a better one never pass in {study.training.rounds}"
    elif study.strategy.average_last:
        why = "takes the best round's model, and strategy.average_last a mean of the last; use one"
    elif study.evaluation.leave_one_site_out:
        why = (
            "would stop each model of evaluation.leave_one_site_out in another round, and they "
            "could not be compared; remove one"
        )
    elif study.mitigation.ditto is not None:
        why = (
            "mitigation.ditto trains a personal model in every round, which has no best round; "
            "remove one"
        )
    if why:
        raise ValueError(f"training.patience: {why}")
