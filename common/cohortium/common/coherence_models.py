"""What a model's free choices cannot be for the inputs that a study has.

`check_shapes` raises ValueError with the key, the numbers and what to use instead, so that nobody
finds out at a hospital.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cohortium.common.coherence_adversarial import check_adversarial
from cohortium.common.document import nearest
from cohortium.common.layout import Block
from cohortium.common.models.options_base import ModelDocument
from cohortium.common.models.options_fusion import FusionModel
from cohortium.common.models.options_generative import AdversarialModel
from cohortium.common.models.options_graph import NetworkModel
from cohortium.common.models.options_image import Cnn2dModel, ResnetModel
from cohortium.common.models.options_sequence import Cnn1dModel
from cohortium.common.models.options_tensor import TensorTrainModel
from cohortium.common.preprocessing.decoding import check_decodable

if TYPE_CHECKING:
    from cohortium.common.study import Study

GENERATORS = ("vae", "gan")
GROUPS = 4  # of the group norms that take no number of their own
MOST_SITES = 2000  # of a tensor train: its matrices are multiplied one after the other


def check_shapes(study: "Study") -> None:
    """The sizes of the model's layers fit the sizes of the blocks."""
    model, blocks = study.model, study.layout.by_name
    if study.task.kind == "generation":
        if model.name not in GENERATORS:
            raise ValueError(
                f'model.name: a {model.name} gives patients back, and makes none; use "vae"'
            )
        check_decodable(study)
    if isinstance(model, AdversarialModel):
        check_adversarial(model, study)
    if isinstance(model, FusionModel):
        _check_branches(model, study)
        return
    for block in blocks.values():
        _check(model, block, "model", study.task.per)


def _check(model: ModelDocument, block: Block, key: str, per: str = "patient") -> None:
    check = _CHECKS.get(type(model))
    if check is not None:
        check(model, block, key, per)


def _check_branches(model: FusionModel, study: "Study") -> None:
    blocks = study.layout.by_name
    if model.branches and model.how == "early":
        raise ValueError(
            'model.branches: how = "early" has one MLP for all blocks; remove the branches, or use '
            '"late" or "attention"'
        )
    for name, branch in model.branches.items():
        if name not in blocks:
            raise ValueError(
                f'model.branches.{name}: no block of the inputs is called "{name}"'
                f"{nearest(name, list(blocks))}"
            )
        if blocks[name].kind not in branch.blocks:
            raise ValueError(
                f"model.branches.{name}: a {branch.name} model reads no {blocks[name].kind}"
            )
        _check(branch, blocks[name], f"model.branches.{name}")


def _check_cnn1d(model: Cnn1dModel, block: Block, key: str, per: str) -> None:
    (places,) = block.shape
    _check_norm(model.norm, key, "layer")
    if model.norm == "group":
        raise ValueError(
            f'{key}.norm: "group" takes a mean over all places, and so counts the padding behind a '
            'sequence; use "layer"'
        )
    pool = model.pool if per == "patient" else 1
    for number in range(1, len(model.channels) + 1):
        _check_kernel(model.kernel, places, f"layer {number} sees {places} places", key)
        if pool > places:
            raise ValueError(
                f"{key}.pool: layer {number} sees {places} places, fewer than the {pool} that are "
                "pooled; use fewer channels or a smaller pool"
            )
        places //= pool


def _check_cnn2d(model: Cnn2dModel, block: Block, key: str, per: str) -> None:
    _, height, width = block.shape
    _check_norm(model.norm, key, "group")
    for number, channels in enumerate(model.channels, start=1):
        size = f"layer {number} sees {height} x {width} pixels"
        _check_kernel(model.kernel, min(height, width), size, key)
        if min(height, width) < 2:
            raise ValueError(f"{key}.channels: {size}, too few to pool by 2; use fewer channels")
        if model.norm == "group":
            _check_groups(channels, GROUPS, height * width, f"{key}.channels")
        height, width = height // 2, width // 2


def _check_resnet(model: ResnetModel, block: Block, key: str, per: str) -> None:
    _, height, width = block.shape
    for number, channels in enumerate(model.channels):
        if number:
            if max(height, width) < 2:
                raise ValueError(
                    f"{key}.channels: one pixel is left for width {number + 1}, and nothing to "
                    "halve; use fewer channels"
                )
            height, width = -(-height // 2), -(-width // 2)
        _check_groups(channels, model.groups, height * width, f"{key}.groups")


def _check_norm(norm: str, key: str, instead: str) -> None:
    if norm == "batch":
        raise ValueError(
            f'{key}.norm: "batch" mixes patients, so that no gradient is one patient\'s own and '
            f'no site\'s statistics stay its own; use "{instead}"'
        )


def _check_kernel(kernel: int, least: int, size: str, key: str) -> None:
    if kernel % 2 == 0:
        raise ValueError(f"{key}.kernel: {kernel} is even and has no middle; use {kernel + 1}")
    if kernel > least:
        raise ValueError(
            f"{key}.kernel: {size}, fewer than the kernel's {kernel}; use a smaller kernel, or "
            "less pooling before it"
        )


def _check_groups(channels: int, groups: int, places: int, key: str) -> None:
    if channels % groups:
        raise ValueError(f"{key}: {channels} channels are no multiple of the {groups} groups")
    if channels // groups * places < 2:
        raise ValueError(
            f"{key}: {groups} groups of {channels} channels over one pixel leave one number to "
            "norm; use fewer groups or fewer channels"
        )


def _check_network(model: NetworkModel, block: Block, key: str, per: str) -> None:
    if not block.names:
        raise ValueError(
            f'{key}.edges: "{block.name}" is reduced, and has no names left for edges to join; '
            "remove preprocessing.reduce"
        )
    for pair in model.edges:
        for name in pair:
            if name not in block.names:
                known = [one for one in block.names if one.lower() == name.lower()]
                raise ValueError(
                    f'{key}.edges: block "{block.name}" has no "{name}"'
                    + (f'; did you mean "{known[0]}"?' if known else "")
                )
        if pair[0] == pair[1]:
            raise ValueError(f'{key}.edges: "{pair[0]}" is joined to itself; remove that edge')


def _check_tensor_train(model: TensorTrainModel, block: Block, key: str, per: str) -> None:
    inputs = block.stop - block.first
    if inputs > MOST_SITES:
        raise ValueError(
            f"{key}.name: an mps multiplies a matrix for each of {inputs} inputs; at most "
            f"{MOST_SITES}: reduce them (preprocessing.reduce), or use another model"
        )


_CHECKS: Mapping[type[ModelDocument], Callable[[Any, Block, str, str], None]] = {
    Cnn1dModel: _check_cnn1d,
    Cnn2dModel: _check_cnn2d,
    ResnetModel: _check_resnet,
    NetworkModel: _check_network,
    TensorTrainModel: _check_tensor_train,
}
