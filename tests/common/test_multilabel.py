"""Several labels of the same patients: each as a yes or no outcome, and all together."""

from typing import Any

import numpy as np
import pytest
from sklearn import metrics
from tests.outcomes import patients, study

from cohortium.common.metrics import multilabel
from cohortium.common.metrics import tally as binary
from cohortium.common.metrics.cube import OVERALL, hide
from cohortium.common.metrics.performance import Performance, performance
from cohortium.common.metrics.summary import summarise
from cohortium.common.metrics.tallies import SiteEvaluation

pytestmark = pytest.mark.skipif(
    not hasattr(binary, "questions"), reason="tally.py gives no questions yet"
)

STUDY = study("multilabel")
SITES = {name: patients("multilabel", 80 + 20 * k, k) for k, name in enumerate("abcd")}


def at(found: tuple[Performance, ...], measure: str, **where: Any) -> Performance:
    return next(
        one
        for one in found
        if one.measure == measure and all(getattr(one, key) == at for key, at in where.items())
    )


def test_labels_of_four_sites_give_what_scikit_learn_gives_on_their_pooled_rows() -> None:
    tallies = {site: multilabel.tally(*rows, STUDY, frozenset(), 0) for site, rows in SITES.items()}
    found = performance(tallies, STUDY.evaluation.thresholds)
    scores, true = (np.concatenate(rows) for rows in zip(*SITES.values(), strict=True))
    called = scores > 0.5
    expected = {
        "all_right": metrics.accuracy_score(true, called),
        "macro_f1": metrics.f1_score(true, called, average="macro"),
        "micro_f1": metrics.f1_score(true, called, average="micro"),
        "macro_sensitivity": metrics.recall_score(true, called, average="macro"),
        "micro_ppv": metrics.precision_score(true, called, average="micro"),
        "log_loss": np.mean([metrics.log_loss(true[:, k], scores[:, k]) for k in (0, 1)]),
    }
    for name, value in expected.items():
        assert at(found, name, part="").pooled.value == pytest.approx(value, abs=1e-9), name
    one = at(found, "f1", part="pain", threshold=0.3)
    assert one.pooled.value == pytest.approx(metrics.f1_score(true[:, 1], scores[:, 1] > 0.3))


def test_averages_have_no_interval_since_labels_are_of_the_same_patients() -> None:
    tallies = {"a": multilabel.tally(*SITES["a"], STUDY, frozenset(), 0)}
    one = at(performance(tallies, (0.5,)), "macro_f1", part="")
    assert (one.pooled.low, one.pooled.of) == (None, 80)
    assert "same patients" in one.pooled.reason


def test_each_label_hides_its_own_small_cells_and_n_is_shared() -> None:
    scores, true = (rows[:200] for rows in patients("multilabel", 400, 1))
    true[:, 1] = np.arange(200) < 3
    questions = multilabel.questions(scores, true, STUDY)
    names = [facet.name for question in questions for facet in question.facets]
    assert names.count("n") == len(questions)
    own = [name for name in names if name != "n"]
    assert len(own) == len(set(own))
    hidden = hide(questions, {}, (), 10).facets[OVERALL]
    found = multilabel.tally(scores, true, STUDY, hidden, 10)
    assert (found.n, found.labels["pain"].positives, found.log_loss) == (200, None, None)
    assert found.labels["ill"].positives == int(true[:, 0].sum())
    assert found.labels["ill"].auroc is not None


def test_the_headline_counts_patients_with_every_label_right() -> None:
    scores, true = SITES["d"]
    found = multilabel.tally(scores, true, STUDY, frozenset(), 0)
    right = ((scores > 0.5) == (true > 0.5)).all(axis=1).mean()
    summary = summarise({"d": SiteEvaluation(overall=found, groups={})})
    assert summary.headline["accuracy"].unweighted == pytest.approx(right)
