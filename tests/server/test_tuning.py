"""Trials: they find what is good, train as the study would, and the study says where from."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tests.any_study import federation_of, run
from tests.federation import PLAIN, PRIVATE, write_study, write_ward
from tests.server.test_model_card import facts

from cohortium.client.review import sheet
from cohortium.client.trials import MadeUpSites
from cohortium.client.trials import open_bench as open_made_up
from cohortium.common import cli
from cohortium.common.errors import CohortiumError, DataError
from cohortium.common.privacy.plan import planned
from cohortium.common.study import Study, load_study
from cohortium.common.trials import FOLD, for_trials, open_bench
from cohortium.common.tuning import changed, tuned_in_words
from cohortium.server import tuning
from cohortium.server.config import CoordinatorConfig
from cohortium.server.coordinator import initial_model
from cohortium.server.model_card import card, plain
from cohortium.server.outcome import Evidence, publish
from cohortium.server.search import search

QUICK = PLAIN.replace("rounds = 4", "rounds = 2")
ON_MOCK = 'on = "mock"\npatients = 60\nfolds = 2\n'
GRID = f'\n[tuning]\nsearch = "grid"\n{ON_MOCK}'
LISTED = "[tuning.space]\ntraining.learning_rate = [1e-5, 1e-3, 0.3]\n"
RANGE = "[tuning.space]\ntraining.learning_rate = { low = 1e-5, high = 1.0, log = true }\n"
PUBLIC = ON_MOCK.replace("mock", "public").replace("patients = 60", 'table = "public.csv"')


def searching(name: str, on: str = ON_MOCK) -> str:
    return f'\n[tuning]\nsearch = "{name}"\ntrials = 6\n{on}'


def tried(study: Study, table: Path | None = None) -> tuning.Tried:
    assert study.tuning is not None
    return tuning.tune(study, study.tuning, open_bench(study, study.tuning, table), None)


def tune(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["study", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    "section", [GRID + LISTED, searching("random") + RANGE, searching("bayesian") + RANGE]
)
def test_a_search_finds_the_learning_rate_at_which_something_is_learnt(
    tmp_path: Path, section: str
) -> None:
    study = write_study(tmp_path, QUICK, section)
    found = tried(study)
    assert found.objective == "log_loss"
    rates = {float(str(t.values["training.learning_rate"])): t.score for t in found.trials}
    assert len(rates) == (3 if "grid" in section else 6)
    assert found.best is not None
    assert found.best.score == min(score for score in rates.values() if score is not None)
    assert found.best.values["training.learning_rate"] == max(rates)  # never too fast


def test_where_more_is_better_the_highest_score_is_the_best(tmp_path: Path) -> None:
    study = write_study(tmp_path, QUICK, GRID + 'objective = "auroc"\n' + LISTED)
    found = tried(study)
    assert found.best is not None
    assert found.best.score == max(t.score or 0 for t in found.trials)
    assert found.best.score > 0.8


def test_the_same_seed_gives_the_same_trials_and_scores(tmp_path: Path) -> None:
    study = write_study(tmp_path, QUICK, searching("bayesian") + RANGE)
    first, again = tried(study), tried(study)
    assert [t.values for t in first.trials] == [t.values for t in again.trials]
    assert [t.score for t in first.trials] == [t.score for t in again.trials]
    other = write_study(tmp_path, QUICK, searching("bayesian") + "seed = 1\n" + RANGE)
    assert [t.values for t in tried(other).trials] != [t.values for t in first.trials]


def test_a_search_stays_within_its_ranges_and_keeps_whole_numbers_whole(tmp_path: Path) -> None:
    space = (
        "[tuning.space]\ntraining.local_steps = { low = 1, high = 3, log = true }\n"
        "training.batch_size = { low = 8, high = 10 }\ntraining.momentum = [0.0, 0.5]\n"
    )
    for name in ("random", "bayesian"):
        section = searching(name).replace("trials = 6", "trials = 40") + space
        asked = write_study(tmp_path, QUICK, section).tuning
        assert asked is not None
        asking, seen = search(asked, lower=True), list[dict[str, object]]()
        try:
            values = next(asking)
            while True:
                seen.append(dict(values))
                values = asking.send(1.0 if len(seen) % 3 else None)
        except StopIteration:
            pass
        assert len(seen) == 40
        assert {v["training.local_steps"] for v in seen} == {1, 2, 3}
        assert {v["training.batch_size"] for v in seen} == {8, 9, 10}
        assert {v["training.momentum"] for v in seen} == {0.0, 0.5}
        assert all(type(v["training.local_steps"]) is int for v in seen)


def test_settings_that_come_to_nothing_are_told_and_are_not_the_best(tmp_path: Path) -> None:
    sizes = "[tuning.space]\ntraining.batch_size = [500, 16]\n"
    found = tried(write_study(tmp_path, QUICK, GRID + sizes))
    assert found.trials[0].score is None
    assert "batch_size = 500 is too much" in found.trials[0].reason
    assert found.best is not None
    assert found.best.number == 2
    with pytest.raises(CohortiumError, match="no trial came to anything"):
        tried(write_study(tmp_path, QUICK, GRID + sizes.replace(", 16", "")))


def folds_of(study: Study, table: Path) -> MadeUpSites:
    assert study.tuning is not None
    return open_made_up(study, study.tuning, table)


def test_every_patient_is_held_out_once_and_is_at_one_site(tmp_path: Path) -> None:
    study = write_study(tmp_path, QUICK, searching("random", PUBLIC) + RANGE)
    sites = folds_of(study, write_ward(tmp_path / "public.csv", 1, patients=120))
    assert sum(table.rows for table in sites.tables.values()) == 120
    for name in study.sites.names:
        assert np.bincount(sites.folds[name]).tolist() == [20, 20]
    plain = for_trials(study)
    for fold in (0, 1):
        for site in sites.sites(plain, fold, None).values():
            assert len(site.cohort.labels) == len(site.cohort.test_labels) == 20


@pytest.mark.parametrize(
    "strategy",
    [
        "",
        '[strategy]\nname = "fedadam"\naverage_last = 0.9\n',
        '[transfer]\nfreeze = ["*bias"]\n',
    ],
)
def test_a_trial_trains_the_model_that_the_study_would(tmp_path: Path, strategy: str) -> None:
    study = write_study(tmp_path, QUICK, strategy, searching("random", PUBLIC) + RANGE)
    table = write_ward(tmp_path / "public.csv", 1, patients=120)
    sites = folds_of(study, table)
    plain = for_trials(changed(study, {"training.learning_rate": 0.7}))
    assert plain.training.learning_rate == 0.7
    trial = tuning._trained(plain, sites.sites(plain, 1, None), None)
    assert not np.array_equal(trial, initial_model(plain))
    tables = {name: write_fold(tmp_path / f"{name}.csv", sites, name) for name in sites.tables}
    federation = federation_of(tmp_path, plain, tables)
    assert np.array_equal(trial, run(plain, federation))
    federation.close()


def write_fold(path: Path, sites: MadeUpSites, name: str) -> Path:
    table = sites.tables[name]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*table.numbers, *table.codes, FOLD])
        side = np.where(sites.folds[name] == 1, "test", "train")
        columns: list[np.ndarray] = [*table.numbers.values(), *table.codes.values(), side]
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
    return path


def test_trials_of_a_private_study_carry_the_noise_that_the_study_would(tmp_path: Path) -> None:
    study = write_study(tmp_path, PRIVATE, GRID + LISTED, "[evaluation]\nleave_one_site_out=true\n")
    plain, noise = planned(for_trials(study)), planned(study)
    assert plain is not None
    assert plain == noise
    bench = open_made_up(study, study.tuning, None) if study.tuning else None
    assert bench is not None
    one = bench.sites(for_trials(study), 0, None)["a"]
    start = initial_model(study)
    assert not np.array_equal(one.train(start, 1).delta, one.train(start, 1).delta)


def test_a_public_table_that_is_too_small_is_refused(tmp_path: Path) -> None:
    study = write_study(tmp_path, QUICK, searching("random", PUBLIC) + RANGE)
    with pytest.raises(DataError, match="too few patients"):
        folds_of(study, write_ward(tmp_path / "public.csv", 1, patients=5))


def test_the_tuned_study_says_what_was_tried_on_whom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path, QUICK, searching("random", PUBLIC) + RANGE)
    write_ward(tmp_path / "public.csv", 1, patients=120)
    file, made = tmp_path / "study.toml", tmp_path / "study-tuned.toml"
    assert tune("submit", str(file), "--dir", str(tmp_path)) == 2
    assert "has not been done" in capsys.readouterr().err
    assert tune("tune", str(file), "--trials", "2", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    study, record = load_study(made), json.loads((tmp_path / "study-tuned.json").read_text())
    assert study.digest == said["digest"]
    assert study.tuning is not None
    assert study.tuning.found is not None
    assert study.training.learning_rate == said["values"]["training.learning_rate"]
    assert len(record["trials"]) == study.tuning.found.trials == 2
    assert record["untuned"] == changed(load_study(file), {}).digest
    assert study.tuning.found.data == record["data"] == said["data"] is not None
    words = tuned_in_words(study)
    assert said["data"][:16] in words
    assert "no privacy was spent" in words
    bytes_ = (made.read_bytes(), (tmp_path / "study-tuned.json").read_bytes())
    assert tune("tune", str(file), "--trials", "2") == 2
    assert "not overwritten" in capsys.readouterr().err
    assert tune("tune", str(file), "--trials", "2", "--force") == 0
    assert bytes_ == (made.read_bytes(), (tmp_path / "study-tuned.json").read_bytes())
    assert tune("validate", str(made)) == 0
    assert "was tuned on a public table" in capsys.readouterr().out


FOUND = f"""
[tuning.found]
values = {{ "training.learning_rate" = 0.2 }}
trials = 7
failed = 0
score = 0.5
data = "{"ab" * 32}"
record = "{"0" * 64}"
"""
SAID = "7 trials of training.learning_rate; no patient of a site took part"


def test_sheet_report_and_card_say_on_whom_it_was_tuned(tmp_path: Path) -> None:
    study = write_study(tmp_path, QUICK, searching("random", PUBLIC) + RANGE + FOUND)
    shown = " ".join(sheet(study, None).split())
    assert f"a public table (SHA-256 {'ab' * 8}...), says its coordinator: {SAID}" in shown
    assert plain(SAID) in card(facts(study, reason="for the committee"))
    tables = {name: write_ward(tmp_path / f"{name}.csv", seed) for seed, name in enumerate("abc")}
    federation = federation_of(tmp_path, study, tables)
    run(study, federation)
    evidence = Evidence(CoordinatorConfig(name="consortium", host="127.0.0.1"), "TLSv1.3", "ab")
    row = federation.store.study(study.name)
    page = publish(row, federation.store, federation.log, evidence, tmp_path / "report")
    assert SAID in page.read_text()
    federation.close()
    untuned = changed(study, {})
    assert "tuned" not in sheet(untuned, None) + card(facts(untuned, reason="for the committee"))
