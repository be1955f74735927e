"""How much each input of a patient adds to what a model answers, beside an empty patient.

Captum's methods (Kokhlikyan et al. 2020, arXiv:2009.07896). The empty patient has every input at 0,
which is public: a number's centre, a flag's middle, a category's first code, no letter, a grey
pixel. What is explained is one number for each patient: see `answer`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cohortium.common.explaining.columns import Column, columns
from cohortium.common.explanation import Method
from cohortium.common.layout import ATOM
from cohortium.common.models.graph import GraphNetwork
from cohortium.common.models.sequence import Letters
from cohortium.common.models.transformer import attention_maps
from cohortium.common.study import Study
from cohortium.common.task import MulticlassTask, MultilabelTask, RegressionTask, SurvivalTask

Floats = NDArray[np.float32]
STEPS = 64  # of an integral: Sundararajan et al. 2017 find 20 to 300 enough
STEPS_OF_ATOMS = 128  # their layer norms are steep where nothing of an atom is known yet
DRAWS = 32  # of gradient SHAP, for each patient
AT_ONCE = 256  # rows through the model
RIDGE = 1e-3  # of LIME's linear model, as the reference implementation's


def attribute(
    study: Study, module: nn.Module, rows: Floats, method: Method, seed: int = 0
) -> Floats:
    """What each input adds, float32 (n, inputs), in the units of `answer`.

    integrated_gradients: adds up to the answer less that of the empty patient (Sundararajan et al.
    2017, eq. 1). gradient_shap: its expectation over random points of the path (Lundberg & Lee
    2017). kernel_shap, lime: of whole columns, spread evenly over a column's inputs (Lundberg & Lee
    2017; Ribeiro et al. 2016). grad_cam: the map of the last convolution, never negative (Selvaraju
    et al. 2017). attention: how much of the other places' attention a place gets, mean over layers
    and heads (Vaswani et al. 2017); it says where a model looks, not what that adds.

    Args:
        module: the study's, in evaluation mode, on the rows' device.
        rows: (n, inputs), encoded patients.
    """
    x = torch.from_numpy(np.ascontiguousarray(rows, np.float32))
    if not len(x):
        return np.zeros_like(rows, dtype=np.float32)
    parts = []
    for number, part in enumerate(torch.split(x, AT_ONCE)):
        with _drawn(seed + number):
            parts.append(_METHODS[method](study, module, part).detach())
    return torch.cat(parts).numpy().astype(np.float32)


@contextmanager
def _drawn(seed: int) -> Iterator[None]:
    """From this seed, as Captum draws: from torch's and numpy's generators, left as they were."""
    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)


def answer(study: Study, logits: Tensor, chosen: Tensor) -> Tensor:
    """The number that is explained, (n,), from logits (n, outputs).

    binary, cox: the logit or log hazard ratio. multiclass, multilabel: the logit of the class that
    was `chosen` (n,). regression: the value in its units. survival: cumulative hazard to the end.
    """
    task = study.task
    match task:
        case MulticlassTask() | MultilabelTask():
            return logits.gather(1, chosen[:, None])[:, 0]
        case RegressionTask():
            centre, spread = task.scale(study.data_model)
            return centre + spread * logits[:, 0]
        case SurvivalTask() if task.likelihood != "cox":
            return functional.softplus(logits).sum(dim=1)
        case _:
            return logits[:, 0]


def chosen_classes(logits: Tensor) -> Tensor:
    """(n,) the class, or label, that the model holds likeliest; 0 where there is one output."""
    return logits.argmax(dim=1)


def answers(study: Study, module: nn.Module, rows: Floats, beside: Method | None = None) -> Floats:
    """What is explained of each row, (n,); or of the empty patient `beside` it of a method.

    An empty patient has every block that the row has. Where integrated gradients begin, the places
    of its sequence are there, and no letter at any; its atoms and bonds, and nothing of any atom.
    """
    x = torch.from_numpy(np.ascontiguousarray(rows, np.float32))
    model, chosen, empty = _prepared(study, module, x)
    silent = _read_first(module) if beside == "integrated_gradients" else []
    hooks = [part.register_forward_hook(_silent) for part in silent]
    try:
        with torch.no_grad():
            said = model(x if silent or beside is None else empty, chosen)
        return cast(Floats, said.numpy())
    finally:
        for hook in hooks:
            hook.remove()


def _silent(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def _letters(module: nn.Module) -> list[Letters]:
    return [part for part in module.modules() if isinstance(part, Letters)]


def _graphs(module: nn.Module) -> list[GraphNetwork]:
    return [part for part in module.modules() if isinstance(part, GraphNetwork)]


def _read_first(module: nn.Module) -> list[nn.Module]:
    """The layers that give what a path through letters, or through atoms, begins without."""
    return [*_letters(module), *(one.known for one in _graphs(module))]


class _Answer(nn.Module):
    """(n,) what is explained, from rows (n, inputs)."""

    def __init__(self, study: Study, module: nn.Module) -> None:
        super().__init__()
        self.study, self.module = study, module

    def forward(self, rows: Tensor, chosen: Tensor) -> Tensor:
        return answer(self.study, self.module(rows), chosen)


def _prepared(study: Study, module: nn.Module, x: Tensor) -> tuple[_Answer, Tensor, Tensor]:
    """The model's answer, which class each row's is about, and the empty patients (n, inputs)."""
    with torch.no_grad():
        chosen = chosen_classes(module(x))
    empty = torch.zeros_like(x)
    for block in study.layout.blocks:
        if block.kind != "table":
            empty[:, block.start] = x[:, block.start]  # a block that is there stays there
    return _Answer(study, module), chosen, empty


def _integrated(study: Study, module: nn.Module, x: Tensor) -> Tensor:
    from captum.attr import IntegratedGradients, LayerIntegratedGradients

    model, chosen, empty = _prepared(study, module, x)
    how: dict[str, Any] = {"n_steps": STEPS, "internal_batch_size": AT_ONCE}
    how["additional_forward_args"] = chosen
    letters, graphs = _letters(module), _graphs(module)
    if graphs:
        how["n_steps"] = STEPS_OF_ATOMS
        atoms = LayerIntegratedGradients(model, graphs[0].known).attribute(x, empty, **how)
        return _at_atoms(study, x, atoms.sum(dim=2))
    if not letters:
        found = IntegratedGradients(model).attribute(x, empty, **how)
        return cast(Tensor, found)
    along = LayerIntegratedGradients(model, letters[0]).attribute(x, empty, **how)
    return _at_places(study, x, along.sum(dim=2))


def _gradient_shap(study: Study, module: nn.Module, x: Tensor) -> Tensor:
    from captum.attr import GradientShap

    model, chosen, empty = _prepared(study, module, x)
    shap = GradientShap(model)
    return torch.cat(
        [
            shap.attribute(
                x[k : k + 1],
                empty[k : k + 1],
                n_samples=DRAWS,
                additional_forward_args=chosen[k : k + 1],
            )
            for k in range(len(x))
        ]
    )


def _kernel_shap(study: Study, module: nn.Module, x: Tensor) -> Tensor:
    from captum.attr import KernelShap

    return _by_column(study, module, x, KernelShap)


def _lime(study: Study, module: nn.Module, x: Tensor) -> Tensor:
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    def made(answered: Any) -> Any:
        return Lime(answered, interpretable_model=SkLearnRidge(alpha=RIDGE))

    return _by_column(study, module, x, made)


def _by_column(study: Study, module: nn.Module, x: Tensor, kind: Any) -> Tensor:
    """A linear model of the answer with columns taken out; one row at a time."""
    model, chosen, empty = _prepared(study, module, x)
    mask, sizes = _mask(columns(study), x.shape[1])
    draws = 8 * len(sizes) + 256
    found = []
    for row, nothing, about in zip(torch.split(x, 1), torch.split(empty, 1), chosen, strict=True):

        def answered(rows: Tensor, about: Tensor = about) -> Tensor:
            with torch.no_grad():
                return cast(Tensor, model(rows, about.expand(len(rows))))

        how = {"n_samples": draws, "perturbations_per_eval": AT_ONCE}
        found.append(kind(answered).attribute(row, nothing, feature_mask=mask, **how))
    return torch.cat(found) / sizes[mask[0]]


def _mask(found: tuple[Column, ...], inputs: int) -> tuple[Tensor, Tensor]:
    """(1, inputs) the number of each input's column, and (columns + 1,) how many inputs each has.

    The last column is of what is never taken out: whether a block is there.
    """
    mask = torch.full((1, inputs), len(found))
    for number, column in enumerate(found):
        mask[0, list(column.places)] = number
    sizes = torch.bincount(mask[0], minlength=len(found) + 1).clamp(min=1).float()
    return mask, sizes


def _grad_cam(study: Study, module: nn.Module, x: Tensor) -> Tensor:
    from captum.attr import LayerAttribution, LayerGradCam

    model, chosen, _ = _prepared(study, module, x)
    (block,) = (block for block in study.layout.blocks if block.kind == "image")
    layer = last_maps(module)
    maps = LayerGradCam(model, layer).attribute(
        x, additional_forward_args=chosen, relu_attributions=True
    )
    channels, height, width = block.shape
    whole = LayerAttribution.interpolate(maps, (height, width), interpolate_mode="bilinear")
    return _in_block(x, block.first, (whole / channels).expand(-1, channels, -1, -1).flatten(1))


def last_maps(module: nn.Module) -> nn.Module:
    """The layer of an image model whose maps Grad-CAM weighs: the last before the head."""
    features: nn.Module = next(
        part.features
        for part in module.modules()
        if hasattr(part, "features") and isinstance(part.features, nn.Sequential)
    )
    layers = list(features.children())
    while isinstance(layers[-1], nn.MaxPool2d):
        layers.pop()
    return layers[-1]


def _attention(study: Study, module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        maps = attention_maps(module, x)  # (n, layers, heads, place, place)
    return _at_places(study, x, maps.mean(dim=(1, 2)).mean(dim=1))


def _at_places(study: Study, x: Tensor, places: Tensor) -> Tensor:
    """(n, inputs) from one number for each place of the only sequence."""
    (block,) = (block for block in study.layout.blocks if block.kind == "sequence")
    return _in_block(x, block.first, places)


def _at_atoms(study: Study, x: Tensor, atoms: Tensor) -> Tensor:
    """(n, inputs) from one number for each atom of the only molecule, at its element's place."""
    (block,) = (block for block in study.layout.blocks if block.kind == "molecule")
    spread = torch.zeros(*atoms.shape, ATOM)
    spread[:, :, 0] = atoms
    return _in_block(x, block.first, spread.flatten(1))


def _in_block(x: Tensor, first: int, values: Tensor) -> Tensor:
    found = torch.zeros_like(x)
    found[:, first : first + values.shape[1]] = values
    return found


_METHODS: dict[Method, Any] = {
    "integrated_gradients": _integrated,
    "gradient_shap": _gradient_shap,
    "kernel_shap": _kernel_shap,
    "lime": _lime,
    "grad_cam": _grad_cam,
    "attention": _attention,
}
