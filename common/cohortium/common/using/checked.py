"""The ONNX graph of a model, if it says what the model says."""

import numpy as np
from torch import nn

from cohortium.common.console import note
from cohortium.common.errors import CohortiumError
from cohortium.common.preprocessing.encode import encode_inputs
from cohortium.common.preprocessing.mock import mock_table
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.common.task import ContactsTask, LabellingTask
from cohortium.common.using.described import prediction_names
from cohortium.common.using.onnx_form import AGREEMENT, disagreement, onnx_form

ROWS = 64
SEED = 1
MOST = 10**8  # parameters: a graph is one message of less than 2 GiB


def checked_onnx(study: Study, module: nn.Module, statistics: Statistics | None) -> bytes | None:
    """The graph, compared with the model on rows made up from the schema; None says why there.

    A release is exported with or without it: what it cannot be is told, and is no failure.
    """
    reason = _none(study, module)
    if reason:
        note(f"without model.onnx: {reason}")
        return None
    try:
        graph = onnx_form(study, module)
        table = mock_table(study, ROWS, np.random.default_rng(SEED))
        if study.preprocessing.scaling == "site-standard":
            rows = np.random.default_rng(SEED).standard_normal((ROWS, study.layout.inputs))
            features = rows.astype(np.float32)
        else:
            features = encode_inputs(table, study, study.sites.names[0], statistics)
        apart = disagreement(study, module, graph, features)
    except CohortiumError as error:
        note(f"without model.onnx: {error}")
        return None
    if apart > AGREEMENT:
        note(f"without model.onnx: its predictions are up to {apart:.1e} from the model's")
        return None
    return graph


def _none(study: Study, module: nn.Module) -> str:
    if not prediction_names(study) or isinstance(study.task, LabellingTask | ContactsTask):
        return f"a model of kind {study.task.kind} gives more than a few numbers a patient"
    if sum(parameter.numel() for parameter in module.parameters()) > MOST:
        return f"it would hold more than {MOST} parameters"
    return ""
