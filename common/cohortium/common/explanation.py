"""Which explanations of the final model sites compute, and what of them may leave."""

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from cohortium.common.document import Document

if TYPE_CHECKING:
    from cohortium.common.study import Study

Method = Literal[
    "integrated_gradients", "gradient_shap", "kernel_shap", "lime", "grad_cam", "attention"
]
TOLD: Final = ("binary", "multiclass", "multilabel", "regression", "survival")
MOST_COLUMNS: Final = 100  # that `kernel_shap` and `lime` take out in turn
MOST_TOLD: Final = 5000  # columns whose means leave
SLOW: Final = ("kernel_shap", "lime")


class Explanation(Document):
    """Explained at the site, on held-out patients; only means over enough of them leave.

    methods: what each gives for one patient stays at the site (`site explain`). patients: at most
    so many are explained at a site. motifs: of sequences, mean attribution by place and letter.
    saliency: of images, the mean of the maps leaves; off unless asked for.
    """

    methods: Annotated[tuple[Method, ...], Field(min_length=1)] = ("integrated_gradients",)
    patients: Annotated[int, Field(ge=1, le=10_000)] = 200
    motifs: bool = False
    saliency: bool = False


def check_explanation(study: "Study") -> None:
    """Raise ValueError for what cannot be explained so, with the key and what to use instead."""
    asked = study.explanation
    if asked is None:
        return
    if study.evaluation.noise_epsilon is not None:
        raise ValueError(
            "explanation: evaluation.noise_epsilon promises held-out patients that nothing but "
            "noised counts leaves, and means of attributions have no noise; leave one of them out"
        )
    for method in asked.methods:
        reason = unfit(study, method)
        if reason:
            raise ValueError(f'explanation.methods: "{method}" {reason}')
    kinds = {block.kind for block in study.layout.blocks}
    if asked.motifs and "sequence" not in kinds:
        raise ValueError("explanation.motifs: no column among data.features is a sequence")
    if asked.saliency and "image" not in kinds:
        raise ValueError("explanation.saliency: no column among data.features is an image")


def unfit(study: "Study", method: Method) -> str:
    """Why a method cannot explain a study's model, and what can; empty where it can."""
    kinds = [block.kind for block in study.layout.blocks]
    model, instead = study.model.name, "use integrated_gradients"
    if study.task.kind not in TOLD:
        return f"explains one answer for each patient; {study.task.kind} gives many"
    if "molecule" in kinds and model != "gnn":
        return (
            f"cannot follow atoms through a {model}; read molecules as fingerprints "
            '(preprocessing.molecules = "fingerprint")'
        )
    if "molecule" in kinds and method != "integrated_gradients":
        return f"cannot take a graph of atoms apart; {instead}"
    if method == "grad_cam" and model not in ("cnn2d", "resnet"):
        return f"reads the maps of a convolution over images, which {model} has not; {instead}"
    if method == "attention" and model != "transformer":
        return f"reads the attention of a transformer; {model} has none; {instead}"
    if method == "integrated_gradients" and model == "fusion" and "sequence" in kinds:
        return "cannot follow letters through a fusion; use kernel_shap"
    if method == "gradient_shap" and "sequence" in kinds:
        return f"would read numbers between those of two letters; {instead}"
    if method in SLOW:
        from cohortium.common.explaining.columns import columns

        found = len(columns(study))
        if found > MOST_COLUMNS:
            return f"takes out {MOST_COLUMNS} columns in turn at most, here are {found}; {instead}"
        if "image" in kinds:
            return "would take out a whole image at once; use grad_cam or integrated_gradients"
    return ""
