"""A study's final model as an ONNX graph, from a row of features to predictions.

ONNX (https://onnx.ai) is what most programs that run models read. The graph ends where
`predict.predictions` ends: with probabilities, values in the outcome's units, or survival. Of a
model that makes rows it is the part that makes them, from codes.
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
from cohortium.common.models.adversarial import Adversarial
from cohortium.common.models.autoencoder import VariationalAutoencoder
from cohortium.common.predict import answers
from cohortium.common.study import Study
from cohortium.common.using.answer import CODES, FEATURES, PREDICTIONS

AGREEMENT: Final = 1e-5  # of a prediction, or of its size where that is above 1
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


class Maker(nn.Module):
    """Rows (n, inputs) of nobody from codes (n, latent)."""

    def __init__(self, module: VariationalAutoencoder | Adversarial) -> None:
        super().__init__()
        self._decode = module.eval().decode
        self.module = module

    def forward(self, codes: Tensor) -> Tensor:
        return self._decode(codes)


def onnx_form(study: Study, module: nn.Module) -> bytes:
    """The graph of a model; `module` is the study's with its final parameters, on the CPU.

    Raises:
        UsageError: the packages that write ONNX are not installed.
        CohortiumError: a part of the model has no ONNX form.
    """
    name, width, form = _form(study, module)
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
                form,
                (torch.zeros(TRACED_ROWS, width),),
                path,
                input_names=[name],
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


def taken(study: Study, module: nn.Module) -> tuple[str, int]:
    """The name and width of what the graph takes: features, or a generator's codes."""
    name, width, _ = _form(study, module)
    return name, width


def _form(study: Study, module: nn.Module) -> tuple[str, int, nn.Module]:
    if study.task.kind != "generation":
        return FEATURES, study.layout.inputs, Predictor(study, module)
    assert isinstance(module, VariationalAutoencoder | Adversarial)
    return CODES, module.latent, Maker(module)


def run_onnx(raw: bytes, rows: Floats) -> Floats:
    """Predictions (n, ...) of ONNX Runtime for features (n, inputs), or codes (n, latent)."""
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(
            'running an ONNX file needs a further package here: pip install "cohortium[onnx]"'
        ) from None
    try:
        session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
        (takes,) = session.get_inputs()
        found: Floats = session.run([PREDICTIONS], {takes.name: rows.astype(np.float32)})[0]
    except Exception:  # a class of its own for each kind, none of which it exports
        raise CohortiumError("ONNX Runtime cannot run the graph for any number of rows") from None
    return found


def disagreement(study: Study, module: nn.Module, raw: bytes, rows: Floats) -> float:
    """The largest difference between the graph and the model, over rows (n, inputs) or codes.

    Of a prediction above 1 the difference is relative to its size.
    """
    with torch.no_grad():
        ours = _form(study, module)[2](torch.from_numpy(rows)).numpy()
    theirs = run_onnx(raw, rows)
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
