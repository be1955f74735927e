"""What a generative adversarial network and the rest of a study cannot be together.

Raises ValueError with the key and the reason, for `Study` to refuse the document.
"""

from typing import TYPE_CHECKING

from cohortium.common.models.options_generative import AdversarialModel

if TYPE_CHECKING:
    from cohortium.common.study import Study


def check_adversarial(model: AdversarialModel, study: "Study") -> None:
    """The generator moves, and nothing judges by the loss of a game."""
    training = study.training
    if training.batches == "full":
        poisson = "shuffle" if study.privacy.mechanism == "none" else "poisson"
        raise ValueError(
            "training.batches: with one full batch a round the discriminator of a gan takes no "
            f'step at a site that its generator could follow; use "{poisson}"'
        )
    if model.generator_every > training.local_steps:
        raise ValueError(
            f"model.generator_every: a round has {training.local_steps} steps "
            f"(training.local_steps), and after {model.generator_every} the generator would never "
            "move; use no more than there are"
        )
    if study.strategy.q is not None:
        raise ValueError(
            f'strategy.name: "{study.strategy.name}" weighs sites by their loss, which in the game '
            "of a gan says nothing of how good its patients are; use another strategy"
        )
    if training.patience is not None:
        raise ValueError(
            "training.patience: a gan gives no patient back, and has no loss of one to follow; "
            "remove it"
        )
    if study.transfer.holds:
        raise ValueError(
            "transfer: freeze, adapters and own hold parts of a model back, and the parts of a gan "
            "learn from each other; remove them"
        )
