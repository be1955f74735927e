"""Going on without a site that withdrew: a study of its own, from a model of the one before.

The rounds that are trained anew ask every remaining site for more than it approved, and for more
privacy; so it is a new study, which each of them sees, compares and approves, or does not.
"""

import hashlib
import math

from cohortium.common.continuation import Continues
from cohortium.common.document import parse
from cohortium.common.errors import ProtocolError, UsageError
from cohortium.common.messages import Vector
from cohortium.common.participation import Sites
from cohortium.common.privacy import accounting
from cohortium.common.privacy.plan import planned
from cohortium.common.study import Study
from cohortium.server.checkpoints import Checkpoints
from cohortium.server.store import Store, StudyRow


def without(row: StudyRow, site: str, from_round: int, store: Store) -> Study:
    """The study that trains again from a round on (the first is 1), without one of the sites.

    A private one keeps the noise of the one before, so it costs what its fewer rounds cost.

    Raises:
        UsageError: no such site or round, or the model before that round cannot be used.
    """
    study, kept = row.study, from_round - 1
    if site not in study.sites.names:
        raise UsageError(f'"{site}" is no site of {study.name}: {", ".join(study.sites.names)}')
    if study.sites.training == (site,):
        raise UsageError(f"{site} is the only site that trains in {study.name}: nobody is left")
    values = study.model_dump(exclude={"continues"})
    values["name"] = f"{study.name}-without-{site}"
    values["sites"] |= _sites_without(study.sites, site)
    values["training"] |= {"rounds": study.training.rounds - kept}
    if rows := study.training.shared_stream_rows:
        pairs = zip(study.sites.names, rows, strict=True)
        values["training"]["shared_stream_rows"] = tuple(n for name, n in pairs if name != site)
    if kept:
        values["continues"] = _continues(row, kept, store).model_dump()
        anew = study.transfer.initialise if study.transfer.adapters else ()  # what is not frozen
        values["transfer"] |= {"start": None, "initialise": anew}  # its model has them already
    elif study.transfer.start is not None:
        raise UsageError(
            f"{study.name} begins with parameters of a file, which only `study submit` brings: "
            f"take {site} out of its study.toml and submit that under another name"
        )
    left_out = [name for name in study.left_out if name != site]
    tracks = len(left_out) if len(left_out) > 1 and not kept else 1
    values["evaluation"]["leave_one_site_out"] = tracks > 1
    mechanism = planned(study, (study.training.rounds - kept) * tracks)
    if mechanism is not None and study.privacy.delta is not None:
        cost = accounting.epsilon([mechanism], study.privacy.delta)
        values["privacy"]["epsilon"] = math.ceil(cost * 1e4) / 1e4
    return parse(values, Study, values["name"])


def _sites_without(sites: Sites, site: str) -> dict[str, object]:
    names = tuple(name for name in sites.names if name != site)
    evaluate_only = tuple(name for name in sites.evaluate_only if name != site)
    training = len(names) - len(evaluate_only)
    return {
        "names": names,
        "evaluate_only": evaluate_only,
        "min_sites": min(sites.min_sites, training),
    }


def used(row: StudyRow, site: str, store: Store) -> tuple[int, ...]:
    """The rounds whose models a site's update went into; every later model builds on them too."""
    return tuple(record.round for record in store.rounds(row.digest) if site in record.replied)


def start_of(continues: Continues, store: Store) -> Vector:
    """The model that a continuing study starts from: float32 (parameters,).

    Raises:
        ProtocolError: it is no longer there, or not the one that was approved.
    """
    model = Checkpoints(store.database, continues.study).load(continues.round).model
    if sha256_of(model) != continues.model:
        raise ProtocolError(
            f"the model of round {continues.round} of {continues.name} is not the one that this "
            "study was approved with"
        )
    return model


def _continues(row: StudyRow, kept: int, store: Store) -> Continues:
    study, checkpoints = row.study, Checkpoints(store.database, row.digest)
    rounds = sorted(checkpoints.rounds())
    if kept not in rounds or kept >= study.training.rounds:
        possible = [1, *(n + 1 for n in rounds if n < study.training.rounds)]
        raise UsageError(
            f"--from-round {kept + 1}: no model from before that round is kept; possible: "
            f"{', '.join(map(str, possible))}"
        )
    if study.preprocessing.site_intercept or study.measures_first:
        raise UsageError(
            f"{study.name} has inputs that depend on who takes part (site_intercept, "
            "federated-standard scaling or a reduction): train it anew with --from-round 1"
        )
    model = checkpoints.load(kept).model
    return Continues(name=study.name, study=row.digest, round=kept, model=sha256_of(model))


def sha256_of(model: Vector) -> str:
    """Over a model's parameters as little-endian float32, hex."""
    return hashlib.sha256(model.astype("<f4").data).hexdigest()
