"""The examples on real data, measured again: what their pages claim, and what the issue wants."""

import json
import os
from pathlib import Path

import pytest
from benchmarks.examples import RUNS, Line, measured, tables_in
from benchmarks.federations import assembled
from examples.prepare import EXAMPLES
from tests.any_study import ALLOW

from cohortium.common.explaining.pooled import pooled
from cohortium.common.study import load_study
from cohortium.server.coordinator import run_study

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("COHORTIUM_TEST_DATA", str(ROOT / "../shared/data")))
NEEDS = {
    "splice": "dna",
    "omics": "breast_tcga",
    "expression": "breast_tcga",
    "barrier": "molecules",
    "solubility": "molecules",
    "radiographs": "pneumonia",
    "survival": "survival",
}
RECORDED = json.loads((ROOT / "examples/results.json").read_text())
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def again(example: str) -> dict[tuple[str, str], Line]:
    if not (DATA / NEEDS[example]).is_dir():
        pytest.skip(f"{NEEDS[example]}/ is not here; COHORTIUM_TEST_DATA names the directory above")
    return {(one.what, one.measure): one for one in measured(example, DATA)}


@pytest.mark.parametrize("example", sorted(RUNS))
def test_measured_again_an_example_lies_in_the_interval_that_its_page_shows(example: str) -> None:
    found = again(example)
    recorded = [Line(**one) for one in RECORDED if one["example"] == example]
    assert list(found) == [(one.what, one.measure) for one in recorded]
    for one in recorded:
        now = found[one.what, one.measure]
        assert one.low <= now.value <= one.high, (one, now)
        assert now.epsilon <= one.epsilon * 1.001 + 0.01
    CLAIMS[example]({what: one for (what, _), one in found.items()})


def test_the_logos_of_splice_junctions_show_gt_and_ag(tmp_path: Path) -> None:
    """A donor begins its intron with GT behind the junction, an acceptor ends it with AG before."""
    if not (DATA / "dna").is_dir():
        pytest.skip("dna/ is not here; COHORTIUM_TEST_DATA names the directory above")
    EXAMPLES["splice"](DATA, tmp_path)
    study = load_study(ROOT / "examples/splice/study.toml")
    with assembled(study, tables_in(tmp_path), ALLOW) as federation:
        run_study(study, federation.desk(study))
        last = federation.store.rounds(study.digest)[-1].evaluations
    (told,) = pooled({site: found.explained for site, found in last.items()})

    def letters(of: str, *places: int) -> str:
        rows = [[cell or 0.0 for cell in told.motifs[of][place - 1]] for place in places]
        return "".join("ACGT"[row.index(max(row))] for row in rows)

    assert letters("donor", 31, 32) == "GT"
    assert letters("acceptor", 29, 30) == "AG"
    tallest = {of: max(range(60), key=lambda at: max(c or 0 for c in told.motifs[of][at])) + 1
               for of in ("donor", "acceptor")}  # fmt: skip
    assert tallest["donor"] in (30, 31, 32)
    assert tallest["acceptor"] in (28, 29, 30)


def at_sites_as_pooled(found: dict[str, Line]) -> None:
    for what, seeds in (("1D CNN", ", 5 seeds"), ("two-way LSTM", ""), ("Transformer", "")):
        at_sites = found[f"{what}, 4 sites{seeds}"]
        together = found[f"{what}, pooled rows{seeds}"]
        least = 0.01 if seeds else 0.025  # of one training, what another seed moves as well
        assert at_sites.value > together.value - least


def fusion_as_good(found: dict[str, Line]) -> None:
    best = max(
        found[f"{one} alone, 4 sites, 5 seeds"].value for one in ("gene expression", "micro-RNA")
    )
    assert found["fusion of three blocks, 4 sites, 5 seeds"].value > best - 0.01


def fewer_inputs_gain_nothing(found: dict[str, Line]) -> None:
    """As the page says: were it otherwise, the page would be wrong."""
    every = found["all 200 genes, private, 4 sites, 10 seeds"]
    for what, one in found.items():
        assert one.value < every.high
        assert "private" not in what or 7.5 < one.epsilon <= 8.1


def graph_better(found: dict[str, Line]) -> None:
    graph = found["graph network, 4 sites, 3 seeds"]
    (fingerprint,) = (one for what, one in found.items() if what.startswith("fingerprint"))
    better = graph.value - fingerprint.value
    assert (-better if graph.measure == "RMSE" else better) > 0


def private_learns(found: dict[str, Line]) -> None:
    private = found["residual network, private, 4 sites"]
    assert 7.5 < private.epsilon <= 8.0
    assert private.measure == "AUROC"
    assert private.low > 0.7


def hazards_close(found: dict[str, Line]) -> None:
    cox, private = found["Cox, 2 sites"], found["hazards in discrete time, private, 2 sites"]
    assert private.epsilon <= 3.0
    assert cox.value > private.value > cox.value - 0.04


CLAIMS = {
    "splice": at_sites_as_pooled,
    "omics": fusion_as_good,
    "expression": fewer_inputs_gain_nothing,
    "barrier": graph_better,
    "solubility": graph_better,
    "radiographs": private_learns,
    "survival": hazards_close,
}
