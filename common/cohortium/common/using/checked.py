"""The ONNX graph of a model, if it says what the model says."""

import numpy as np
from torch import nn

from cohortium.common.console import note
from cohortium.common.errors import CohortiumError
from cohortium.common.preprocessing.encode import encode_inputs
from cohortium.common.preprocessing.mock import mock_table
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study
from cohortium.common.using.answer import CODES
from cohortium.common.using.onnx_form import AGREEMENT, Floats, disagreement, onnx_form, taken

ROWS = 64
SEED = 1
MOST = 10**8  # parameters: a graph is one message of less than 2 GiB


def checked_onnx(study: Study, module: nn.Module, statistics: Statistics | None) -> bytes | None:
    """The graph, compared with the model on rows made up from the schema; None says why there.

    A release is exported with or without it: what it cannot be is told, and is no failure.
    """
    if sum(parameter.numel() for parameter in module.parameters()) > MOST:
        note(f"without model.onnx: it would hold more than {MOST} parameters")
        return None
    try:
        graph = onnx_form(study, module)
        apart = disagreement(study, module, graph, _rows(study, module, statistics))
    except CohortiumError as error:
        note(f"without model.onnx: {error}")
        return None
    if apart > AGREEMENT:
        note(f"without model.onnx: its predictions are up to {apart:.1e} from the model's")
        return None
    return graph


def _rows(study: Study, module: nn.Module, statistics: Statistics | None) -> Floats:
    """What the graph takes: features of mock patients, or codes where it takes no patient."""
    rng = np.random.default_rng(SEED)
    name, width = taken(study, module)
    if name == CODES or study.preprocessing.scaling == "site-standard":
        return rng.standard_normal((ROWS, width)).astype(np.float32)
    table = mock_table(study, ROWS, rng)
    return encode_inputs(table, study, study.sites.names[0], statistics)
