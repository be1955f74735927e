"""Which explanations of the final model sites compute, and what of them may leave."""

from typing import Annotated, Literal

from pydantic import Field

from cohortium.common.document import Document

Method = Literal[
    "integrated_gradients", "gradient_shap", "kernel_shap", "lime", "grad_cam", "attention"
]


class Explanation(Document):
    """Explained at the site, on held-out patients; only means over enough of them leave.

    methods: what each gives for one patient stays at the site (`site explain`).
    patients: at most so many are explained at a site. motifs: of sequences, mean attribution by
    place and letter. saliency: of images, the mean of the maps leaves; off unless asked for.
    surrogate: a rule list or tree that imitates the model, with its fidelity.
    """

    methods: Annotated[tuple[Method, ...], Field(min_length=1)] = ("integrated_gradients",)
    patients: Annotated[int, Field(ge=1, le=10_000)] = 200
    motifs: bool = False
    saliency: bool = False
    surrogate: Literal["none", "tree", "rules"] = "none"
