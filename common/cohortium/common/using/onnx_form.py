"""A study's final model as an ONNX graph, from a row of features to predictions.

ONNX (https://onnx.ai) is what most programs that run models read. The graph ends where
`predict.predictions` ends: with probabilities, values in the outcome's units, or survival.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cohortium.common.errors import CohortiumError, UsageError
from cohortium.common.predict import answers
from cohortium.common.study import Study

AGREEMENT: Final = 1e-5  # of a prediction, or of its size where that is above 1
FEATURES, PREDICTIONS = "features", "predictions"
TRACED_ROWS = 3  # of an example; any number of rows can be asked for later

Floats = NDArray[np.float32]


class Predictor(nn.Module):
    """Predictions (n, k) from features (n, inputs)."""

    def __init__(self, study: Study, module: nn.Module) -> None:
        super().__init__()
        self.module = module.eval()
        self._study = study

    def forward(self, features: Tensor) -> Tensor:
        found = answers(self._study, self.module(features))
        return found[:, None] if found.dim() == 1 else found


def onnx_form(study: Study, module: nn.Module) -> bytes:
    """The graph of a model; `module` is the study's with its final parameters, on the CPU.

    Raises:
        UsageError: the packages that write ONNX are not installed.
        CohortiumError: a part of the model has no ONNX form.
    """
    example = torch.zeros(TRACED_ROWS, study.layout.inputs)
    try:
        import onnxscript  # noqa: F401  (torch names it only when it is too late)
    except ImportError:
        raise UsageError(
            'an ONNX file needs further packages here: pip install "cohortium[onnx]"'
        ) from None
    with tempfile.TemporaryDirectory() as place, _quiet():
        path = Path(place) / "model.onnx"
        try:
            torch.onnx.export(
                Predictor(study, module),
                (example,),
                path,
                input_names=[FEATURES],
                output_names=[PREDICTIONS],
                dynamic_shapes=({0: torch.export.Dim("patients")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).splitlines()[0]
            raise CohortiumError(f"the model has no ONNX form: {reason}") from None
        return path.read_bytes()


def run_onnx(raw: bytes, features: Floats) -> Floats:
    """Predictions (n, k) of ONNX Runtime for features (n, inputs)."""
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(
            'running an ONNX file needs a further package here: pip install "cohortium[onnx]"'
        ) from None
    try:
        session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
        found: Floats = session.run([PREDICTIONS], {FEATURES: features.astype(np.float32)})[0]
    except Exception:  # a class of its own for each kind, none of which it exports
        raise CohortiumError("ONNX Runtime cannot run the graph for any number of rows") from None
    return found


def disagreement(study: Study, module: nn.Module, raw: bytes, features: Floats) -> float:
    """The largest difference between the graph and the model, over rows (n, inputs).

    Of a prediction above 1 the difference is relative to its size.
    """
    with torch.no_grad():
        ours = Predictor(study, module)(torch.from_numpy(features)).numpy()
    theirs = run_onnx(raw, features)
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.max(np.abs(ours - theirs) / np.maximum(1.0, np.abs(ours)), initial=0.0))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch tells of every pass and of packages that it would like; nobody asked."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
