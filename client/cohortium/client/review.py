"""The review sheet: what a study wants, in words, for the person who decides."""

from cohortium.client.budget import Balance
from cohortium.client.difference import difference, start
from cohortium.common import newton
from cohortium.common.explanation import Explanation
from cohortium.common.privacy.accounting import gaussian_mu, in_words
from cohortium.common.privacy.plan import in_words as in_words_of_tracks
from cohortium.common.privacy.plan import planned_at, price_of_tracks
from cohortium.common.study import Study

WHAT_LEAVES = {
    "full": "the noised sum of the patients' clipped gradients, once a round",
    "poisson": "the change of the model after noised training steps, once a round",
    "shuffle": "the change of the model after ordinary training, WITHOUT PRIVACY, once a round",
}


RESULTS = {
    "binary": "counts of who is rightly and wrongly called",
    "multiclass": "counts of classes and of what was called",
    "multilabel": "counts of who is rightly and wrongly called, by label",
    "regression": "means of errors, values and predictions",
    "survival": "counts of events; by horizon, observed and predicted risk",
    "labelling": "means of the patients' shares of right places, by state",
    "contacts": "means of how many of the likeliest pairs of a patient touch",
    "reconstruction": "means of the patients' errors, and of how they vary",
    "generation": "means of the patients' errors, if the model gives them back",
}
NOT_TRAINED = "no model is trained on this site's patients"


def sheet(
    study: Study, balance: Balance | None, before: Study | None = None, site: str = ""
) -> str:
    """Plain text, a screen long.

    Args:
        balance: the dataset's account, if it is registered.
        before: the study on the same dataset that was approved last, to say what is new.
        site: whose sheet it is: one that only evaluates is asked for less.
    """
    trains = site not in study.sites.evaluate_only
    lines = [
        f"Study      {study.name}   ({study.digest[:16]}...)",
        f"Purpose    {study.purpose.text} [{study.purpose.duo}]",
        f"Basis      {study.purpose.legal_basis}",
        f'Data       "{study.data.dataset}", columns read: {", ".join(study.columns_read)}',
        f"Predicts   {study.task.outcome}",
        f"Model      {study.model.name}, {study.training.rounds} rounds, from {start(study)}",
        *_tracks(study),
        *_leaves(study, trains),
        f"Privacy    {_privacy(study) if trains else NOT_TRAINED}",
        *_in_words(study, site),
        f"Budget     {_budget(study, balance) if trains else _budget_of_results(study)}",
        f"Sites      {', '.join(study.sites.names)} (at least {study.sites.min_sites} a round)",
        *_role(study, site),
        f"Load       {_load(study) if trains else 'evaluations only'}",
    ]
    if before is not None:
        changes = "; ".join(difference(before, study)) or "nothing but the name"
        lines.append(f"Changes    against {before.name}: {changes}")
    return "\n".join(lines)


def _tracks(study: Study) -> list[str]:
    """What leaving one site out after the other asks for beyond the one model."""
    if not study.left_out:
        return []
    models, rounds = len(study.left_out), study.rounds_at_a_site
    lines = [
        f"Left out   {models} more models, each trained without one site and measured there:",
        f"           {rounds} rounds at each site instead of {study.training.rounds}",
    ]
    price = price_of_tracks(study)
    return lines if price is None else [*lines, f"           {in_words_of_tracks(price)}"]


def _leaves(study: Study, trains: bool) -> list[str]:
    """What of the patients leaves, in any form."""
    evaluation, mitigation = study.evaluation, study.mitigation
    whom = "held-out patients" if trains else "all patients"
    lines = [*_update(study), *_of_a_part(study)] if trains else []
    if trains and study.strategy.q is not None:
        how = "WITHOUT PRIVACY" if study.privacy.mechanism == "none" else "in the same noise"
        lines.append(f"with it, {how}, the mean loss of the model on the training patients;")
    if trains:
        lines += _measured(study)
    lines.append(f"of {whom}: {RESULTS[study.task.kind]},")
    lines += _small_cells(evaluation.noise_epsilon)
    beside = {
        "its own model (trained without noise)": evaluation.own_model,
        "the recalibrated model (fitted without noise)": mitigation.recalibrate,
        "its personal model (trained without noise)": mitigation.ditto is not None,
    }
    for model, wanted in beside.items():
        if wanted and trains and evaluation.noise_epsilon is not None:
            lines.append(f"nothing of how {model} does;")
        elif wanted and trains:
            lines.append(f"for how many of them {model} is right; it stays here,")
            lines.append("and such counts are covered by the minimum cell, not by epsilon;")
    if study.explanation is not None:
        lines += _explained(study.explanation)
    if trains and study.training.patience is not None:
        lines.append("of patients held out to decide when to stop: the mean loss, each round;")
    lines.append(f"the site's size as {_size(study)}")
    first, *others = lines
    return [f"Leaves     {first}", *(f"           {line}" for line in others)]


def _explained(asked: Explanation) -> list[str]:
    """What of the model's reasons leaves."""
    what = ["columns"]
    what += ["letters at each place"] * asked.motifs + ["pixels"] * asked.saliency
    how = ", ".join(asked.methods)
    return [
        f"of the first {asked.patients} of them, what the final model goes by ({how}):",
        f"means of {', '.join(what)}, each over enough patients;",
    ]


def _update(study: Study) -> list[str]:
    """What the training rounds send."""
    if newton.asked(study):
        return [
            "the patients' summed gradients and their information matrix, which is as exact as",
            "a table of how inputs vary together, WITHOUT PRIVACY, once a round;",
        ]
    if study.training.batches == "full" and study.privacy.mechanism == "none":
        return ["the sum of the patients' gradients, WITHOUT PRIVACY, once a round;"]
    return [f"{WHAT_LEAVES[study.training.batches]};"]


def _of_a_part(study: Study) -> list[str]:
    """Which part of the model that is, where it is not the whole."""
    transfer = study.transfer
    lines = []
    if transfer.adapters is not None:
        anew = "".join(f" and {pattern}" for pattern in transfer.initialise)
        lines += [
            f"of adapters of rank {transfer.adapters.rank}{anew} alone: the rest of the model",
            "comes once, and stays as it came;",
        ]
    if transfer.freeze:
        lines.append(f"without {', '.join(transfer.freeze)}, which comes once and is not trained;")
    if transfer.own:
        own = ", ".join(transfer.own)
        lines.append(f"nothing of {own}: this site's own, trained in the same steps, kept here;")
    return lines


def _measured(study: Study) -> list[str]:
    """Sums over patients that leave before the first round."""
    how = study.preprocessing.reduce
    if how is None or not how.measured:
        return []
    what = "of their pairs" if how.method == "pca" else "of each class"
    noise = (
        "WITHOUT PRIVACY"
        if how.epsilon is None
        else f"with noise that costs epsilon {how.epsilon:g} more"
    )
    return [f'once, sums {what} of block "{how.block}" over training patients, {noise};']


def _small_cells(noise_epsilon: float | None) -> list[str]:
    if noise_epsilon is None:
        return ["none about fewer patients than the site's minimum cell;"]
    return [
        f"all with noise that costs epsilon {noise_epsilon:g} more, small groups included,",
        "once, of the final model, and nothing else of them;",
    ]


def _role(study: Study, site: str) -> list[str]:
    """Who only evaluates, if anybody."""
    only = study.sites.evaluate_only
    if site in only:
        return ["           THIS SITE ONLY EVALUATES: its patients are all held out"]
    return [f"           of which only evaluate: {', '.join(only)}"] if only else []


def _budget_of_results(study: Study) -> str:
    noise = study.evaluation.noise_epsilon
    return "not charged" if noise is None else f"epsilon {noise:g} for the noise in the results"


def _load(study: Study) -> str:
    training = study.training
    if training.batches == "full":
        work = "one pass over the patients"
    else:
        work = f"{training.local_steps} training steps"
    return f"{study.rounds_at_a_site} times {work}, in a process with the limits of site.toml"


def _size(study: Study) -> str:
    return {
        "bands": "a band such as 100-199",
        "equal": "a band such as 100-199",
        "exact": "an EXACT number of patients",
    }[study.strategy.weighting]


def _privacy(study: Study) -> str:
    privacy = study.privacy
    if privacy.mechanism == "none":
        return "NONE: updates may reveal single patients"
    return (
        f"epsilon {privacy.epsilon:g}, delta {privacy.delta:g} for each {privacy.unit}, "
        "over the whole study"
    )


def _in_words(study: Study, site: str) -> list[str]:
    """What all that the study may learn of a patient comes to, for a committee."""
    plan = planned_at(study, site)
    if not plan:
        return []
    mu = gaussian_mu(plan)
    found = [f"           {in_words(plan)}", "           (of all that leaves with noise)"]
    return found if mu is None else [*found[:1], f"{found[1][:-1]}; Gaussian DP: mu {mu:.3f})"]


def _budget(study: Study, balance: Balance | None) -> str:
    if balance is None:
        return "the dataset is not registered at this site"
    if study.privacy.mechanism == "none":
        return "not charged: without privacy there is nothing to account for"
    return (
        f"lifetime epsilon {balance.epsilon_spent:.3f} of {balance.epsilon_cap:g} spent so far "
        f"(delta {balance.delta_cap:g})"
    )
