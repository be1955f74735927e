"""Taking a patient's blocks out of a row of features again (`layout.py`)."""

from torch import Tensor

from cohortium.common.layout import Block


def values(features: Tensor, block: Block) -> Tensor:
    """(B, *block.shape) from features (B, inputs)."""
    return features[:, block.first : block.stop].reshape(-1, *block.shape)


def there(features: Tensor, block: Block) -> Tensor:
    """(B,) 1 where the patient has the block, else 0; a table is always there."""
    if block.kind == "table":
        return features.new_ones(features.shape[0])
    return features[:, block.start]


def letters(features: Tensor, block: Block) -> Tensor:
    """int64 (B, length) of a sequence: 0 is padding."""
    return values(features, block).long()
