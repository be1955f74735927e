"""What [tuning] may ask for: whose patients, which keys, and what is said of it afterwards."""

from pathlib import Path

import pytest
from tests.federation import PLAIN, PRIVATE, write_study

from cohortium.common.document import canonical, parse_json
from cohortium.common.errors import DocumentError
from cohortium.common.study import Study, load_study
from cohortium.common.tuning import cost_in_words, tuned_in_words

MOCK = '\n[tuning]\nsearch = "random"\ntrials = 4\non = "mock"\npatients = 50\n'
GRID = MOCK.replace('"random"\ntrials = 4', '"grid"')
RATES = "[tuning.space]\ntraining.learning_rate = [0.1, 0.2]\n"


def made(root: Path, tuning: str, training: str = PLAIN) -> Study:
    return write_study(root, training, tuning)


def refusal(root: Path, tuning: str, training: str = PLAIN) -> str:
    with pytest.raises(DocumentError) as caught:
        made(root, tuning, training)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "values", "why"),
    [
        ("privacy.epsilon", "[1.0, 8.0]", "part of what sites approve"),
        ("privacy.delta", "[1e-5]", "part of what sites approve"),
        ("data.dataset", '["ward", "other"]', "part of what sites approve"),
        ("sites.min_sites", "[1, 2]", "part of what sites approve"),
        ("split.seed", "[1, 2]", "part of what sites approve"),
        ("preprocessing.scaling", '["none"]', "part of what sites approve"),
        ("training.rounds", "[2, 3]", "part of what they approve"),
        ("training.seed", "[1, 2]", "luck"),
        ("strategy.weighting", '["equal"]', "their size"),
        ("training.learing_rate", "[0.1]", 'did you mean "learning_rate"'),
        ("training.learning_rate", "[0.1, -0.1]", "greater than 0"),
        ("training.momentum", "{ low = 0.0, high = 1.0 }", "less than 1"),
        ("training.learning_rate", "{ low = 0.2, high = 0.1 }", "low must be below high"),
        ("training.learning_rate", "{ low = 0.0, high = 0.1, log = true }", "above 0"),
    ],
)
def test_what_cannot_be_tuned_is_refused_with_the_reason(
    tmp_path: Path, key: str, values: str, why: str
) -> None:
    said = refusal(tmp_path, f"{MOCK}[tuning.space]\n{key} = {values}\n", PRIVATE)
    assert why in said
    assert key.split(".")[0] in said


@pytest.mark.parametrize(
    ("tuning", "why"),
    [
        (MOCK.replace('"mock"', '"sites"') + RATES, "no epsilon covers"),
        (MOCK.replace('"mock"', '"public"') + RATES, "table"),
        (MOCK.replace("patients = 50\n", "") + RATES, "patients"),
        (MOCK.replace("trials = 4\n", "") + RATES, "needs trials"),
        (GRID + "trials = 4\n" + RATES, "every combination"),
        (GRID + "[tuning.space]\ntraining.momentum = { low = 0.0, high = 0.9 }\n", "list of val"),
        (MOCK + 'objective = "auc"\n' + RATES, 'did you mean "auroc"'),
        (MOCK, "space"),
    ],
)
def test_what_a_search_cannot_do_is_refused_with_the_reason(
    tmp_path: Path, tuning: str, why: str
) -> None:
    said = refusal(tmp_path, tuning)
    assert why in said


def test_patients_of_the_sites_pay_for_no_trial_at_all(tmp_path: Path) -> None:
    """The one way in which tuning could overspend a budget does not get as far as a site."""
    said = refusal(tmp_path, MOCK.replace('"mock"', '"sites"') + RATES, PRIVATE)
    assert "tuning.on" in said
    assert "patients" in said


def test_both_ways_to_write_a_key_mean_the_same(tmp_path: Path) -> None:
    nested = made(tmp_path, MOCK + RATES)
    words = RATES.replace("training.learning_rate", '"training.learning_rate"')
    quoted = made(tmp_path, MOCK + words)
    assert nested.tuning == quoted.tuning
    assert nested.tuning is not None
    assert nested.tuning.space == {"training.learning_rate": (0.1, 0.2)}


def test_the_sheet_says_trials_and_that_nobody_is_asked(tmp_path: Path) -> None:
    study = made(tmp_path, GRID + RATES + "training.momentum = [0.0, 0.5, 0.9]\n")
    assert study.tuning is not None
    said = cost_in_words(study, study.tuning)
    assert "6 trials x 3 folds x 4 rounds at 3 made-up sites" in said
    assert "no patient's privacy is spent" in said
    assert tuned_in_words(study) == ""


FOUND = f"""
[tuning.found]
values = {{ "training.learning_rate" = 0.2 }}
trials = 4
failed = 1
score = 0.5
record = "{"0" * 64}"
"""


def test_a_study_changed_by_hand_does_not_say_that_trials_chose_it(tmp_path: Path) -> None:
    assert "learning_rate = 0.2" in PLAIN
    study = made(tmp_path, MOCK + RATES + FOUND)
    assert "4 trials of training.learning_rate" in tuned_in_words(study)
    text = (tmp_path / "study.toml").read_text()
    (tmp_path / "study.toml").write_text(
        text.replace("learning_rate = 0.2\n", "learning_rate = 0.3\n")
    )
    with pytest.raises(DocumentError, match=r"the trials chose training.learning_rate = 0\.2"):
        load_study(tmp_path / "study.toml")
    other = MOCK + "[tuning.space]\ntraining.momentum = [0.0]\n" + FOUND
    assert "another tuning.space" in refusal(tmp_path, other)


def test_other_models_cannot_begin_with_the_parameters_of_one(tmp_path: Path) -> None:
    (tmp_path / "base.safetensors").write_bytes(b"any")
    tuning = MOCK + '[tuning.space]\nmodel.name = ["logistic"]\n'
    said = refusal(tmp_path, tuning + '[transfer]\nstart = "base.safetensors"\n')
    assert "transfer.start" in said


def test_a_site_reads_from_the_wire_what_the_coordinator_wrote(tmp_path: Path) -> None:
    range_ = "training.momentum = { low = 0, high = 0.9 }\n"
    study = made(
        tmp_path, MOCK + RATES + range_ + FOUND.replace("0.2 }", '0.2, "training.momentum" = 0.0 }')
    )
    assert study.tuning is not None
    assert study.tuning.found is not None
    again = parse_json(canonical(study), Study, "wire")
    assert again == study
    assert again.digest == study.digest


def test_what_stays_at_a_site_is_in_no_trial(tmp_path: Path) -> None:
    assert "transfer.own" in refusal(tmp_path, MOCK + RATES + '[transfer]\nown = ["0.*"]\n')
