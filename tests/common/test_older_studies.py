"""What was approved before a key existed keeps its identity: an upgrade asks nobody again for it.

The texts are what commit b2de269 wrote, the release before studies knew of other outcomes than yes
or no, of mitigation and of release.
"""

from typing import Any

import pytest

from cohortium.common.document import GrownDocument, canonical, parse, parse_json
from cohortium.common.evaluating import Evaluation, Fairness
from cohortium.common.messages import Invite, pack, unpack
from cohortium.common.participation import Sites
from cohortium.common.study import Study

OLD_DIGEST = "70e813b88354826642e938b1df2d5233388db3f4a8d2bca1a469139c076d22f2"
OLD_STUDY = (
    b'{"continues":null,"data":{"dataset":"ward","features":["age","sex","marker"]},"data_mode'
    b'l":{"columns":{"age":{"centre":null,"description":"","high":100.0,"kind":"number","low":'
    b'18.0,"not_measured":[],"spread":null,"unit":"years"},"ill":{"description":"","kind":"fla'
    b'g","no":"0","no_label":"no","yes":"1","yes_label":"yes"},"marker":{"centre":null,"descri'
    b'ption":"","high":10.0,"kind":"number","low":0.0,"not_measured":[],"spread":null,"unit":"'
    b'"},"sex":{"description":"","kind":"flag","no":"0","no_label":"female","yes":"1","yes_lab'
    b'el":"male"}},"description":"","name":"ward","order":["age","sex","marker","ill"],"table"'
    b':{"delimiter":",","header":true,"missing":["","?","NA","NaN","nan"],"patient_key":null,"'
    b'repeated":"refuse"}},"evaluation":{"every":1,"thresholds":[0.5]},"fairness":{"attributes'
    b'":["sex","age"],"bands":{"age":[50.0]}},"model":{"activation":"relu","dropout":0.0,"hidd'
    b'en":[],"name":"logistic"},"name":"ward-study","preprocessing":{"missing":"indicator","mi'
    b'ssing_indicators":[],"scaling":"public-range","site_intercept":false},"privacy":{"clip_n'
    b'orm":1.0,"delta":1e-05,"epsilon":3.0,"mechanism":"gaussian","unit":"patient"},"purpose":'
    b'{"duo":"HMB","legal_basis":"test data, nobody\'s","text":"Tell ill from well patients by '
    b'age, sex and marker."},"sites":{"approval_deadline":5.0,"min_patients":0,"min_sites":2,"'
    b'names":["a","b","c"],"on_missing":"continue","round_deadline":60.0},"split":{"column":nu'
    b'll,"seed":0,"test_fraction":0.3},"strategy":{"average_last":0.0,"beta1":0.9,"beta2":0.99'
    b'9,"learning_rate":1.0,"momentum":0.9,"name":"fedavg","proximal_mu":0.0,"tau":1e-08,"weig'
    b'ht_decay":0.0,"weighting":"bands"},"task":{"kind":"binary","label":"ill","one_class_site'
    b's":"refuse","positive_above":null,"positive_codes":["1"]},"training":{"batch_size":null,'
    b'"batches":"poisson","learning_rate":0.5,"local_steps":5,"momentum":0.0,"rounds":4,"sampl'
    b'e_rate":0.2,"seed":0,"shared_stream_rows":[],"weight_decay":0.0}}'
)


def test_a_study_that_was_approved_before_keeps_its_bytes_and_its_digest() -> None:
    study = parse_json(OLD_STUDY, Study, "stored study")
    assert canonical(study) == OLD_STUDY
    assert study.digest == OLD_DIGEST


def test_an_old_study_that_travels_is_the_same_at_the_other_end() -> None:
    sent = Invite(study=parse_json(OLD_STUDY, Study, "stored study"))
    received, _ = unpack(pack(sent), Invite)
    assert received.study.digest == OLD_DIGEST


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("evaluation", {"curves": False}),
        ("evaluation", {"own_model": True}),
        ("evaluation", {"leave_one_site_out": True}),
        ("evaluation", {"blinded": True}),
        ("evaluation", {"noise_epsilon": 0.5}),
        ("fairness", {"intersections": [["sex", "age"]]}),
        ("fairness", {"reference": {"sex": "male"}}),
        ("fairness", {"primary": "accuracy"}),
        ("fairness", {"margins": {"accuracy": 0.1}}),
        ("sites", {"evaluate_only": ["c"]}),
        ("mitigation", {"recalibrate": True}),
        ("mitigation", {"ditto": 0.1}),
        ("release", {"gates": []}),
    ],
)
def test_a_later_key_that_says_something_is_part_of_the_identity(
    part: str, value: dict[str, Any]
) -> None:
    values = parse_json(OLD_STUDY, Study, "stored study").model_dump()
    values[part] = {**values[part], **value}
    study = parse(values, Study, "changed")
    assert study.digest != OLD_DIGEST
    again = parse_json(canonical(study), Study, "travelled")
    assert again == study
    assert again.digest == study.digest


@pytest.mark.parametrize("kind", [Study, Evaluation, Fairness, Sites])
def test_what_came_later_is_a_key_with_a_default(kind: type[GrownDocument]) -> None:
    for key in kind.later:
        assert not kind.model_fields[key].is_required()


def test_what_people_are_shown_has_every_key() -> None:
    """Only the canonical form leaves keys out."""
    assert Evaluation().model_dump().keys() == Evaluation.model_fields.keys()
