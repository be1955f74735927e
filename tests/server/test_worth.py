"""Was it worth joining, through a whole federation: what the sites know is what the report says."""

from collections.abc import Iterator

import pytest
import torch
from tests.federation import FULL, Federation, approve, federate, write_study

from cohortium.client.results import KeptResults
from cohortium.common.metrics.paired import Pairs, newcombe_paired
from cohortium.common.metrics.tallies import BinaryTally, Comparison
from cohortium.common.metrics.value import Compared, Value
from cohortium.common.study import Study
from cohortium.server.coordinator import run_study
from cohortium.server.value import value_of

ASKED = """
[evaluation]
own_model = true
leave_one_site_out = true
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


Ran = tuple[Study, Federation, Value]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    root = tmp_path_factory.mktemp("worth")
    study = write_study(root, FULL.replace("rounds = 3", "rounds = 2"), ASKED)
    federation = federate(root, policy={"allow_own_model": "true"}, patients=400)
    for site in federation.sites.values():
        approve(site, study)
    run_study(study, federation.desk(study))
    return study, federation, value_of(study, federation.store.rounds(study.digest))


def known(ran: Ran, site: str) -> Comparison:
    """The paired counts as the site itself has them, nothing hidden."""
    results = KeptResults(ran[1].sites[site].database).of(ran[0].digest)
    assert results is not None
    return results.models["federated"].beside["own"].overall


def rows(ran: Ran, **wanted: object) -> list[Compared]:
    return [r for r in ran[2].compared if all(getattr(r, k) == v for k, v in wanted.items())]


def test_what_is_reported_of_pairs_is_what_each_site_counted(ran: Ran) -> None:
    shown = 0
    for site in "abc":
        (row,) = rows(ran, other="own", measure="accuracy", site=site, attribute="")
        if row.difference is None:
            assert row.reason
            continue
        own = known(ran, site)
        assert own.both is not None
        assert own.federated_only is not None
        assert own.other_only is not None
        assert own.neither is not None
        pairs = Pairs(own.both, own.federated_only, own.other_only, own.neither)
        assert row.difference == pairs.difference
        assert (row.low, row.high) == newcombe_paired(pairs)
        shown += 1
    (pooled,) = rows(ran, other="own", measure="accuracy", site=None, attribute="")
    assert (pooled.difference is not None) == (shown > 0)


def test_small_counts_of_pairs_stay_at_their_sites(ran: Ran) -> None:
    """Nothing reported holds a cell of 1 to 9, and every cell hidden has its reason."""
    study, federation, _ = ran
    records = federation.store.rounds(study.digest)
    last = records[study.training.rounds - 1]
    for evaluation in last.evaluations.values():
        beside = evaluation.beside["own"]
        groups = [c for levels in beside.groups.values() for c in levels.values()]
        for found in (beside.overall, *groups):
            counts = (found.both, found.federated_only, found.other_only, found.neither)
            assert not any(count in range(1, 10) for count in counts if count is not None)
            assert None not in counts or found.reason


def test_only_the_last_evaluation_of_the_main_model_is_by_group_and_beside(ran: Ran) -> None:
    study, federation, _ = ran
    for record in federation.store.rounds(study.digest):
        final = record.round == study.training.rounds
        for evaluation in record.evaluations.values():
            assert bool(evaluation.groups) == final
            assert bool(evaluation.beside) == final


def test_each_model_stands_in_the_table_at_each_site(ran: Ran) -> None:
    study, federation, found = ran
    table = {(one.model, one.measure): one.sites for one in found.crossed}
    assert {model for model, _ in table} == {"all sites", "without a", "without b", "without c"}
    last = federation.store.rounds(study.digest)[-1]
    assert last.left_out == "c"
    tally = last.evaluations["a"].overall
    assert isinstance(tally, BinaryTally)
    assert table["without c", "auroc"]["a"] == tally.auroc


def test_a_site_hears_how_a_model_does_that_never_saw_it(ran: Ran) -> None:
    assert {row.site for row in rows(ran, other="left out", measure="auroc")} == {
        "a", "b", "c", None,
    }  # fmt: skip
