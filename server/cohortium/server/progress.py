"""Studies and rounds in words: what `validate`, `watch` and the demo print."""

from collections.abc import Iterator
from typing import Any

from cohortium.common.metrics.summary import Mean, Summary
from cohortium.common.privacy import accounting
from cohortium.common.privacy.accounting import cap_needed, epsilon
from cohortium.common.privacy.count_noise import CountNoise
from cohortium.common.privacy.plan import (
    in_words,
    planned_beside,
    planned_in_all,
    planned_noise,
    planned_reduction,
    price_of_tracks,
)
from cohortium.common.study import Study
from cohortium.common.task import SurvivalTask
from cohortium.server import early_stopping
from cohortium.server.store import RoundRecord

NAMES = {
    "log_loss": "log-loss",
    "auroc": "AUROC",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2",
    "concordance": "C",
    "brier": "Brier",
    "precision_l5": "precision L/5",
    "precision_l": "precision L",
    "mse": "MSE",
    "variance_explained": "explained",
}
FOLLOWED = {
    "binary": ("log_loss", "auroc", "accuracy"),
    "multiclass": ("log_loss", "accuracy"),
    "multilabel": ("log_loss", "accuracy"),
    "regression": ("mae", "rmse", "r2"),
    "survival": ("concordance", "brier"),
    "cox": ("concordance",),
    "labelling": ("log_loss", "accuracy"),
    "contacts": ("precision_l5", "precision_l", "auroc"),
    "reconstruction": ("mse", "variance_explained"),
    "generation": ("mse", "variance_explained"),
}


def _transferred(study: Study) -> dict[str, int] | None:
    """How many parameters there are, are trained and travel; None where that is all of them."""
    if not study.transfer.holds:
        return None
    import torch

    from cohortium.common import arrays
    from cohortium.common.models.building import study_module

    with torch.device("meta"):  # nothing of that size is made
        module = study_module(study)
    trained = arrays.trained(module)
    return {
        "parameters": len(trained),
        "trained": int(trained.sum()),
        "travelling": arrays.travelling(module),
    }


def describe(study: Study) -> tuple[dict[str, Any], str]:
    """What each site will be asked for, and what it costs in privacy: document and text."""
    mechanism = planned_in_all(study)
    price = price_of_tracks(study)
    document: dict[str, Any] = {
        "study": study.name,
        "digest": study.digest,
        "sites": list(study.sites.names),
        "evaluate_only": list(study.sites.evaluate_only),
        "dataset": study.data.dataset,
        "columns": list(study.columns_read),
        "outcome": study.task.outcome,
        "asks_beside": list(_beside(study)),
        "noise_epsilon": study.evaluation.noise_epsilon,
        "model": study.model.name,
        "rounds": study.training.rounds,
        "rounds_in_all": study.rounds_in_all,
        "left_out": list(study.left_out),
        "transfer": _transferred(study),
        "privacy": None,
    }
    lines = [
        f"{study.name} is valid   digest {study.digest}",
        f'asks {", ".join(study.sites.names)} for dataset "{study.data.dataset}"',
        f"reads {', '.join(study.columns_read)}",
        f"trains {study.model.name} in {study.training.rounds} rounds",
        f"predicts {study.task.outcome} ({study.task.kind})",
    ]
    if (parts := document["transfer"]) is not None:
        lines.append(
            f"trains {parts['trained']:,} of {parts['parameters']:,} parameters; "
            f"{parts['travelling']:,} travel every round, the others once to each site"
        )
    if study.transfer.own:
        lines.append(
            f"leaves {', '.join(study.transfer.own)} to each site: they stay there, and no whole "
            "model can be released"
        )
    if study.training.patience is not None:
        lines.append(
            f"stops early after {study.training.patience} rounds without a lower loss on "
            f"{study.split.validation_fraction:.0%} of the training patients, who then do not train"
        )
    if study.left_out:
        lines.append(
            f"leaves one of {len(study.left_out)} sites out after the other: "
            f"{study.rounds_in_all} rounds in all, {study.rounds_at_a_site} of them at each site"
        )
    if only := study.sites.evaluate_only:
        lines.append(
            f"trains nothing at {', '.join(only)}: all patients there are held out, and no "
            "privacy is spent on training"
        )
    lines += [f"asks sites that train for {what}" for what in _beside(study)]
    if mechanism is None:
        lines.append("privacy: NONE; only sites whose policy says allow_unprotected take part")
        return document, "\n".join(lines)
    assert study.privacy.delta is not None
    noise, reduction = planned_noise(study), planned_reduction(study)
    every = [mechanism, *planned_beside(study)]
    cap = cap_needed(every, study.privacy.delta)
    document["privacy"] = {
        "epsilon": study.privacy.epsilon,
        "delta": study.privacy.delta,
        "unit": study.privacy.unit,
        "sampler": mechanism.sampler,
        "noise_multiplier": mechanism.noise_multiplier,
        "steps": mechanism.steps,
        "cap_needed": cap,
        "noise_multiplier_without_leaving_out": price[0] if price else None,
        "noise_std_of_counts": noise.std if noise else None,
        "epsilon_in_all": (
            epsilon(every, study.privacy.delta) if len(every) > 1 else study.privacy.epsilon
        ),
        "true_positive_rate": accounting.true_positive_rate(every),
        "words": accounting.in_words(every),
        "mu": accounting.gaussian_mu(every),
    }
    lines.append(
        f"costs each patient epsilon {study.privacy.epsilon:g} at delta {study.privacy.delta:g}: "
        f"{mechanism.sampler}, noise multiplier {mechanism.noise_multiplier:.3f}, "
        f"{mechanism.steps} steps"
    )
    if price is not None:
        lines.append(in_words(price))
    if reduction is not None:
        assert study.preprocessing.reduce is not None
        lines.append(
            f"sums for the reduction cost epsilon {study.preprocessing.reduce.epsilon:g} more, "
            f"once; that is {document['privacy']['epsilon_in_all']:.2f} in all"
        )
    if noise is not None:
        lines += _of_noise(study, noise, document["privacy"]["epsilon_in_all"])
    lines.append(f"after all that, {document['privacy']['words']}")
    lines.append(f"a fresh dataset needs a lifetime cap of about epsilon {cap:.2f} to approve it")
    return document, "\n".join(lines)


def _of_noise(study: Study, noise: CountNoise, in_all: float) -> tuple[str, ...]:
    """What leaves with noise, what it costs, and what else there is not in such a study."""
    costs = (
        f"noise in the results costs epsilon {study.evaluation.noise_epsilon:g} more, once and at "
        f"every site; with training that is {in_all:.2f} in all"
    )
    leaves = (
        "only the final model is measured: counts at the first threshold leave, each with noise "
        f"of standard deviation {noise.std:.1f} for {noise.families} tables, and nothing else"
    )
    stays = "how models do that stay at the sites is told nobody else"
    return (costs, leaves, stays) if any(_beside(study)) else (costs, leaves)


def _beside(study: Study) -> Iterator[str]:
    """What sites do with their training patients besides, none of which leaves them."""
    if study.evaluation.own_model:
        yield "a model of their own, trained without noise, which stays there (own_model)"
    if study.mitigation.recalibrate:
        yield "a recalibration of the final model, which stays there (recalibrate)"
    if study.mitigation.ditto is not None:
        yield "a personal model, trained without noise, which stays there (ditto)"


def line(study: Study, record: RoundRecord) -> tuple[dict[str, Any], str]:
    """One finished round: document and text. Unknown stays None, and a dash."""
    scores = record.summary
    epsilon = {site: spent.epsilon for site, spent in record.spent.items()}
    document = {
        "round": record.round,
        "rounds": study.rounds_in_all,
        "left_out": record.left_out or None,
        "seconds": record.seconds,
        "accuracy": scores.accuracy.unweighted if scores else None,
        "auroc": scores.auroc.unweighted if scores else None,
        "log_loss": scores.log_loss.unweighted if scores else None,
        "headline": _headline(study, scores),
        "epsilon": epsilon,
        "replied": list(record.replied),
        "missing": list(record.missing),
        "refused": dict(record.refused),
        "validation_loss": early_stopping.mean_loss(record.validation),
        "stopped": record.stopped or None,
    }
    shown = (f"{NAMES.get(k, k)} {_number(v)}" for k, v in _headline(study, scores).items())
    text = "  ".join((f"{record.round:>3}/{study.rounds_in_all}", *shown))
    if record.left_out:
        text += f"  without {record.left_out}"
    if epsilon:
        text += "  epsilon " + " ".join(f"{site} {value:.2f}" for site, value in epsilon.items())
    text += f"  {record.seconds:.1f} s"
    if record.validation:
        text += f"  validation {_number(document['validation_loss'])}"
    if left := study.rounds_in_all - record.round:
        text += f", about {left * record.seconds:.0f} s left"
    if record.missing:
        text += f"  missing: {', '.join(record.missing)}"
    if record.stopped:
        text += f"\n        {record.stopped}"
    for site, reason in record.refused.items():
        text += f"\n        {site} refused: {reason}"
    return document, text


def _headline(study: Study, scores: Summary | None) -> dict[str, float | None]:
    """Means over sites of what this kind of outcome is followed by; None what is not known."""
    kind: str = study.task.kind
    if isinstance(study.task, SurvivalTask) and study.task.likelihood == "cox":
        kind = "cox"
    return {name: _mean(scores, name) for name in FOLLOWED[kind]}


def _mean(scores: Summary | None, name: str) -> float | None:
    if scores is None:
        return None
    found = scores.headline.get(name) or getattr(scores, name, None)  # rounds of older versions
    return found.unweighted if isinstance(found, Mean) else None


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "  -  "
