"""The review sheet: what a study wants, in words, for the person who decides."""

from cohortium.client.budget import Balance
from cohortium.client.difference import difference, start
from cohortium.common.privacy.plan import in_words, price_of_tracks
from cohortium.common.study import Study

WHAT_LEAVES = {
    "full": "the noised sum of the patients' clipped gradients, once a round",
    "poisson": "the change of the model after noised training steps, once a round",
    "shuffle": "the change of the model after ordinary training, WITHOUT PRIVACY, once a round",
}


def sheet(study: Study, balance: Balance | None, before: Study | None = None) -> str:
    """Plain text, a screen long.

    Args:
        balance: the dataset's account, if it is registered.
        before: the study on the same dataset that was approved last, to say what is new.
    """
    lines = [
        f"Study      {study.name}   ({study.digest[:16]}...)",
        f"Purpose    {study.purpose.text} [{study.purpose.duo}]",
        f"Basis      {study.purpose.legal_basis}",
        f'Data       "{study.data.dataset}", columns read: {", ".join(study.columns_read)}',
        f"Predicts   {study.task.outcome}",
        f"Model      {study.model.name}, {study.training.rounds} rounds, from {start(study)}",
        *_tracks(study),
        f"Leaves     {WHAT_LEAVES[study.training.batches]};",
        "           results on held-out patients (counts at or above the site's minimum cell);",
        f"           the site's size as {_size(study)}",
        f"Privacy    {_privacy(study)}",
        f"Budget     {_budget(study, balance)}",
        f"Sites      {', '.join(study.sites.names)} (at least {study.sites.min_sites} a round)",
        f"Load       {_load(study)}",
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
    return lines if price is None else [*lines, f"           {in_words(price)}"]


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


def _budget(study: Study, balance: Balance | None) -> str:
    if balance is None:
        return "the dataset is not registered at this site"
    if study.privacy.mechanism == "none":
        return "not charged: without privacy there is nothing to account for"
    return (
        f"lifetime epsilon {balance.epsilon_spent:.3f} of {balance.epsilon_cap:g} spent so far "
        f"(delta {balance.delta_cap:g})"
    )
