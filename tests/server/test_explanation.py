"""What the final model goes by: told by sites as means over enough patients, and by nobody else."""

import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.any_study import federation_of, run, write_documents

from cohortium.client import consent
from cohortium.common.cli import main
from cohortium.common.errors import DocumentError, ProtocolError
from cohortium.common.explaining.document import Told
from cohortium.common.explaining.pooled import pooled
from cohortium.common.explaining.told import check_told
from cohortium.common.metrics.noisy import nothing
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.study import Study
from cohortium.server.desk import StudyFailed
from cohortium.server.explained import explained_by
from cohortium.server.plausible_evaluation import check_evaluation
from cohortium.server.reports.explaining import explained_figures

SITES = ("a", "b", "c")
LENGTH, MOTIF, AT = 20, "GTA", 8  # what ill patients have, from place 9

SCHEMA = f"""
name = "reads"

[columns.dna]
kind = "sequence"
alphabet = "dna"
length = {LENGTH}

[columns.age]
kind = "number"
low = 0
high = 100

[columns.sex]
kind = "flag"

[columns.noise]
kind = "number"
low = -5
high = 5

[columns.kind]
kind = "category"
codes = ["n", "s"]
labels = ["without", "with"]

[columns.ill]
kind = "flag"
"""

HEAD = """
name = "reads"

[purpose]
text = "Find what ill patients have."
duo = "HMB"
legal_basis = "nobody's data"

[data]
schema = "schema.toml"
dataset = "reads"
"""

SEQUENCES = """
features = ["dna"]

[task]
kind = "multiclass"
label = "kind"

[model]
name = "cnn1d"
channels = [8]
kernel = 5
pool = 1
"""

TABLE = """
features = ["age", "sex", "noise"]

[task]
kind = "binary"
label = "ill"
positive_codes = ["1"]

[model]
name = "logistic"
"""

REST = """
[split]
test_fraction = 0.4

[training]
rounds = 4
batches = "shuffle"
batch_size = 16
local_steps = 30
learning_rate = 0.01
optimiser = "adam"

[privacy]
mechanism = "none"

[sites]
names = ["a", "b", "c"]
min_sites = 2
approval_deadline = 5.0
"""


def table(path: Path, rows: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    lines = ["dna,age,sex,noise,kind,ill"]
    for _ in range(rows):
        letters = list(rng.choice(list("ACGT"), LENGTH))
        has = rng.random() < 0.5
        if has:
            letters[AT : AT + len(MOTIF)] = MOTIF
        age, sex = rng.uniform(0, 100), int(rng.random() < 0.5)
        ill = int(rng.random() < 1 / (1 + np.exp(-(age - 50) / 8)))
        noise = rng.uniform(-5, 5)
        lines.append(f"{''.join(letters)},{age:.2f},{sex},{noise:.3f},{'s' if has else 'n'},{ill}")
    path.write_text("\n".join(lines) + "\n")
    return path


def asked(root: Path, kind: str, *explanation: str, rest: str = REST) -> Study:
    wanted = "\n".join(["", "[explanation]", *explanation])
    return write_documents(root, SCHEMA, HEAD + kind + rest + wanted)


def explained(
    root: Path, study: Study, rows: int = 120, policy: Mapping[str, str] | None = None
) -> Mapping[str, tuple[Told, ...]]:
    """What each site told of the final model."""
    tables = {name: table(root / f"{name}.csv", rows, k) for k, name in enumerate(SITES)}
    federation = federation_of(root, study, tables, policy)
    try:
        run(study, federation)
        last = federation.store.rounds(study.digest)[-1].evaluations
        for evaluation in last.values():
            check_evaluation(study, evaluation, last=True)
        return {name: evaluation.explained for name, evaluation in last.items()}
    finally:
        federation.close()


def test_what_decides_moves_the_model_most_and_its_sign_is_right(tmp_path: Path) -> None:
    methods = 'methods = ["integrated_gradients", "kernel_shap", "lime"]'
    study = asked(tmp_path, TABLE, methods, "patients = 20")
    told = explained(tmp_path, study)
    assert {len(found) for found in told.values()} == {3}
    for one in pooled(told):
        means = one.columns
        assert next(iter(means)) == "age"
        assert means["age"].size > 3 * means["noise"].size
        assert set(means) == {"age", "sex", "noise"}
    first, second, _ = pooled(told)
    for name, mean in first.columns.items():  # of a linear model, all are the same
        assert second.columns[name].size == pytest.approx(mean.size, rel=0.02)


def test_letters_that_decide_are_the_tallest_of_the_logo(tmp_path: Path) -> None:
    study = asked(tmp_path, SEQUENCES, "motifs = true")
    told = explained(tmp_path, study)
    (one,) = pooled(told)
    motif = np.array([[cell or 0.0 for cell in row] for row in one.motifs["with"]])
    assert motif.shape == (LENGTH, 4)
    tallest = sorted(range(LENGTH), key=lambda place: -motif[place].max())[: len(MOTIF)]
    assert sorted(tallest) == [AT, AT + 1, AT + 2]
    assert "".join("ACGT"[motif[AT + k].argmax()] for k in range(len(MOTIF))) == MOTIF
    drawn = [str(figure.drawing) for figure in explained_figures((one,), "ACGT")]
    assert any("letter-G" in one and "scale(1.5 " in one for one in drawn)


def test_letters_of_few_patients_and_groups_of_few_are_not_told(tmp_path: Path) -> None:
    study = asked(tmp_path, SEQUENCES, "motifs = true")
    told = explained(tmp_path, study, rows=50)  # 20 held out: five have a letter at a place
    for (one,) in told.values():
        hidden = [cell for rows in one.motifs.values() for row in rows for cell in row]
        assert hidden.count(None) > 0.5 * len(hidden)
    few = REST.replace("test_fraction = 0.4", "test_fraction = 0.2")
    fewer = explained(tmp_path / "few", asked(tmp_path / "few", SEQUENCES, rest=few), rows=40)
    assert set(fewer.values()) == {()}


def test_a_site_whose_policy_says_nothing_takes_no_part(tmp_path: Path) -> None:
    with pytest.raises(StudyFailed, match="allow_explanations"):
        explained(tmp_path, asked(tmp_path, TABLE), policy={"allow_explanations": "false"})


def test_no_site_told_and_none_asked_is_no_section(tmp_path: Path) -> None:
    study = write_documents(tmp_path, SCHEMA, HEAD + TABLE + REST)
    assert explained_by(study, {}) is None
    assert set(explained(tmp_path, study).values()) == {()}


@pytest.mark.parametrize(
    ("kind", "explanation", "why"),
    [
        (TABLE, 'methods = ["grad_cam"]', "reads the maps of a convolution"),
        (TABLE, 'methods = ["attention"]', "logistic has none; use integrated_gradients"),
        (SEQUENCES, 'methods = ["gradient_shap"]', "between those of two letters"),
        (TABLE, "motifs = true", "no column among data.features is a sequence"),
        (SEQUENCES, "saliency = true", "no column among data.features is an image"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_what_can(
    tmp_path: Path, kind: str, explanation: str, why: str
) -> None:
    with pytest.raises(DocumentError, match=f"explanation.*{why}"):
        asked(tmp_path, kind, explanation)


def test_exact_means_and_promised_noise_do_not_go_together(tmp_path: Path) -> None:
    private = REST.replace('"shuffle"\nbatch_size = 16', '"poisson"\nsample_rate = 0.1').replace(
        'mechanism = "none"',
        'mechanism = "gaussian"\nepsilon = 2.0\ndelta = 1e-5\nclip_norm = 1.0\n\n'
        "[evaluation]\nnoise_epsilon = 1.0",
    )
    with pytest.raises(DocumentError, match="noise_epsilon promises"):
        asked(tmp_path, TABLE, rest=private)


def test_a_site_that_tells_the_impossible_is_not_believed(tmp_path: Path) -> None:
    study = asked(tmp_path, SEQUENCES, "motifs = true")
    told, *_ = explained(tmp_path, study, rows=60).values()
    changes: list[tuple[dict[str, object], str]] = [
        ({"method": "lime"}, "other methods"),
        ({"columns": {"weight": {"size": 1.0, "signed": 1.0}}}, "columns that the study"),
        ({"motifs": {"neither": ((1.0, None, 0.0, 0.0),)}}, "classes that the study"),
        ({"motifs": {"with": ((1.0, None, 0.0, 0.0),)}}, "another shape"),
    ]
    for change, why in changes:
        other = (Told.model_validate(told[0].model_dump() | change),)
        with pytest.raises(ValueError, match=why):
            check_told(study, other)
    check_told(study, told)
    early = SiteEvaluation(overall=nothing().overall, groups={}, explained=told)
    with pytest.raises(ProtocolError, match="not the final one"):
        check_evaluation(study, early, last=False)


def test_a_site_explains_one_of_its_patients_to_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = asked(tmp_path, SEQUENCES, "motifs = true")
    explained(tmp_path, study, rows=80)
    where = ["--dir", str(tmp_path / "sites" / "a")]
    rows = (tmp_path / "a.csv").read_text().splitlines()[1:]
    row = next(number for number, line in enumerate(rows, start=1) if ",s," in line)
    with pytest.raises(SystemExit) as ended:
        main(["site", "explain", "reads", "--row", str(row), "--json", *where])
    found = json.loads(capsys.readouterr().out)
    assert (ended.value.code, found.get("about")) == (0, "with"), found
    largest = {name for name, _ in list(found["columns"].items())[:5]}
    assert largest & {f"dna {AT + k}" for k in (1, 2, 3)}
    assert sum(found["columns"].values()) == pytest.approx(
        found["answer"] - found["empty"], rel=0.02
    )
    for words, said in (
        (["--row", "99"], "the table of reads has 80 rows"),
        (["--row", "1", "--method", "grad_cam"], "cnn1d has not"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["site", "explain", "reads", *words, *where])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["site", "explain", "reads", "--row", str(row), *where])
    assert "stays here" in capsys.readouterr().out
    file = tmp_path / "patient.html"
    drawn = ["site", "explain", "reads", "--row", str(row), "--html", str(file), *where]
    with pytest.raises(SystemExit):
        main(drawn)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    page = file.read_text()
    for name, added in list(found["columns"].items())[:5]:
        assert f'>{name}</th><td class="number">{added:+.4g}</td>' in page
    assert re.sub("<[^>]+>", "", page.split('class="letters">')[1])[:LENGTH] in rows[row - 1]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(drawn)
    assert ended.value.code == 2
    assert "is not overwritten" in capsys.readouterr().err


def test_a_site_without_the_package_says_so_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consent, "find_spec", lambda name: None)
    with pytest.raises(StudyFailed, match=r"policy.packages .*cohortium\[explain\]"):
        explained(tmp_path, asked(tmp_path, TABLE))


def test_a_few_rules_imitate_the_model_at_a_site(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a model that goes by age: the first question is about age, and most answers agree."""
    study = asked(tmp_path, TABLE)
    explained(tmp_path, study, rows=150)
    where = ["--dir", str(tmp_path / "sites" / "a")]
    with pytest.raises(SystemExit) as ended:
        main(["site", "explain", "reads", "--rules", "--json", *where])
    found = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert all(rule["conditions"][0].startswith("age ") for rule in found["rules"])
    assert {rule["says"] for rule in found["rules"]} == {"no", "yes"}
    assert all(rule["patients"] >= 10 for rule in found["rules"])
    assert found["fidelity"] > max(0.8, found["simplest"])
    with pytest.raises(SystemExit):
        main(["site", "explain", "reads", "--rules", *where])
    assert "nothing of it is sent" in capsys.readouterr().out
    for words in ([], ["--rules", "--row", "3"]):
        with pytest.raises(SystemExit) as ended:
            main(["site", "explain", "reads", *words, *where])
        assert ended.value.code == 2
        assert "not both" in capsys.readouterr().err
