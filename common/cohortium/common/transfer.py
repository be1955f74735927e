"""Starting from what was learnt before, and which parameters are trained."""

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cohortium.common.continuation import Sha256
from cohortium.common.document import Document

if TYPE_CHECKING:
    from cohortium.common.study import Study


class Adapters(Document):
    """A path of low rank beside each linear layer, which alone is trained (LoRA).

    rank: of the path. alpha: it counts alpha / rank times. layers: patterns of layers' names.
    """

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    layers: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)


class Transfer(Document):
    """Where parameters begin, and which of them stay as they are.

    start: the safetensors file that parameters come from, as SHA-256 of its bytes; in a study.toml
    its path, relative to it. initialise: patterns (as of a shell) of names that begin anew, such as
    a head for another outcome; every other parameter must be in the file, in its shape.
    freeze: patterns of names that are not trained. They get no noise, and an update leaves them be.
    adapters: with them all is frozen but the adapters, and what begins anew.
    own: patterns of names that are trained at each site for itself, and never leave it.
    """

    start: Sha256 | None = None
    initialise: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    adapters: Adapters | None = None
    own: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether some of the model is not in every round's message: sites hold on to it."""
        return bool(self.freeze or self.adapters or self.own)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a parameter's name is meant by one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_transfer(study: "Study") -> None:
    """Raise ValueError where frozen or given parameters and the rest cannot be together."""
    transfer = study.transfer
    goes_on = study.continues is not None and transfer.adapters is not None
    if transfer.initialise and transfer.start is None and not goes_on:
        raise ValueError("transfer.initialise: without transfer.start everything begins anew")
    if transfer.start is not None and study.continues is not None:
        raise ValueError("transfer.start: this study goes on from another's model already")
    if transfer.start is not None and study.evaluation.leave_one_site_out:
        raise ValueError(
            "transfer.start: what a model without one site begins with may have seen that site; "
            "remove evaluation.leave_one_site_out"
        )
    if transfer.adapters is not None and transfer.start is None and study.continues is None:
        raise ValueError(
            "transfer.adapters: a model that was never trained has nothing to adapt; give "
            "transfer.start"
        )
    if transfer.adapters is not None and transfer.freeze:
        raise ValueError(
            "transfer.freeze: with transfer.adapters all is frozen but the adapters and what "
            "transfer.initialise names; remove it"
        )
    unfit = {
        "strategy.name": study.strategy.name == "newton",
        "strategy.weight_decay": study.strategy.weight_decay > 0,
        "training.l1": study.training.l1 > 0,
        "task.likelihood": getattr(study.task, "likelihood", "") == "cox",
    }
    for key, given in unfit.items():
        if given and transfer.holds:
            which = "freeze" if transfer.freeze else "adapters" if transfer.adapters else "own"
            raise ValueError(
                f"transfer.{which}: {key} would move what does not travel; change one of them"
            )
    beside = study.evaluation.own_model or study.mitigation.ditto is not None
    if beside and (transfer.start or transfer.holds):
        raise ValueError(
            "transfer: a site's own models (evaluation.own_model, mitigation.ditto) begin anew and "
            "could not be compared with one that does not; remove one of the two"
        )
    if transfer.own:
        _check_own(study)


def _check_own(study: "Study") -> None:
    """What would take a site's parameters and the shared ones of different rounds for one model."""
    unfit = {
        "evaluation.leave_one_site_out": study.evaluation.leave_one_site_out,
        "training.patience": study.training.patience is not None,
        "strategy.average_last": study.strategy.average_last > 0,
    }
    for key, given in unfit.items():
        if given:
            raise ValueError(
                f"transfer.own: {key} takes models of earlier rounds, and a site has its own "
                "parameters of its last round only; remove one of the two"
            )
    if study.sites.evaluate_only:
        raise ValueError(
            "transfer.own: a site that only evaluates has no parameters of its own; remove "
            "sites.evaluate_only"
        )
