"""What a model's free choices cannot be for the inputs that a study has.

`check_shapes` raises ValueError with the key, the numbers and what to use instead, so that nobody
finds out at a hospital.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cohortium.common.document import nearest
from cohortium.common.layout import Block
from cohortium.common.models.options_base import ModelDocument
from cohortium.common.models.options_fusion import FusionModel
from cohortium.common.models.options_graph import NetworkModel
from cohortium.common.models.options_image import Cnn2dModel, ResnetModel
from cohortium.common.models.options_sequence import Cnn1dModel
from cohortium.common.models.options_tensor import TensorTrainModel

if TYPE_CHECKING:
    from cohortium.common.study import Study

GROUPS = 4  # of the group norms that take no number of their own
MOST_SITES = 2000  # of a tensor train: its matrices are multiplied one after the other


def check_shapes(study: "Study") -> None:
    """The sizes of the model's layers fit the sizes of the blocks."""
    model, blocks = study.model, study.layout.by_name
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
    left = places // model.pool ** len(model.channels)
    if per == "patient" and not left:
        raise ValueError(
            f"{key}.pool: {len(model.channels)} poolings by {model.pool} leave nothing of "
            f"{places} places; use fewer channels or a smaller pool"
        )
    _check_groups(model, model.channels, key)


def _check_cnn2d(model: Cnn2dModel, block: Block, key: str, per: str) -> None:
    _, height, width = block.shape
    if not min(height, width) // 2 ** len(model.channels):
        raise ValueError(
            f"{key}.channels: {len(model.channels)} poolings by 2 leave nothing of {height} x "
            f"{width} pixels; use fewer channels"
        )
    _check_groups(model, model.channels, key)


def _check_groups(model: Cnn1dModel | Cnn2dModel, channels: tuple[int, ...], key: str) -> None:
    odd = [width for width in channels if width % GROUPS]
    if model.norm == "batch":
        raise ValueError(
            f'{key}.norm: "batch" mixes patients, so that no gradient is one patient\'s own and '
            'no site\'s statistics stay its own; use "group"'
        )
    if model.norm == "group" and odd:
        raise ValueError(f"{key}.channels: {odd[0]} is no multiple of the {GROUPS} groups of norm")


def _check_resnet(model: ResnetModel, block: Block, key: str, per: str) -> None:
    odd = [width for width in model.channels if width % model.groups]
    if odd:
        raise ValueError(f"{key}.groups: {odd[0]} channels are no multiple of {model.groups}")


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
