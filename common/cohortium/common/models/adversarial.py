"""A generative adversarial network: one part learns to tell patients from what the other makes."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from cohortium.common.layout import Layout
from cohortium.common.models.mlp import perceptron
from cohortium.common.models.options_generative import AdversarialModel

BLUR = 0.25  # of a scaled input; a code's inputs are 1 apart


class Adversarial(nn.Module):
    """In training (B, inputs + 1): the inputs, and each patient's loss; else (B, 0).

    The loss is the discriminator's (Goodfellow et al. 2014, Equation 1), of one patient and of one
    row made up for it: softplus(-D(x)) + softplus(D(G(z))). Of all patients it moves with that one
    alone, so that clipping bounds what one patient changes, made-up row and all; codes z are
    independent of everybody. A generator gives no patient back: outside training there is nothing
    to say of one.

    Both kinds of row are blurred before they are told apart (Sonderby et al. 2017), or codes would
    give away what is made up: real ones are whole. Equal after the blur means equal before.
    """

    def __init__(self, options: AdversarialModel, inputs: int) -> None:
        super().__init__()
        shape = (options.latent, options.hidden, inputs, options.activation)
        self.generator = perceptron(*shape)
        self.generator.requires_grad_(False)  # it has no gradient of a patient, and gets no noise
        told = (inputs, options.discriminator, 1, options.activation, options.dropout)
        self.discriminator = perceptron(*told)
        self.latent = options.latent
        self.every = options.generator_every
        self.spread = options.spread
        self.draws = True

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return features[:, :0]
        with torch.no_grad():
            made = self.generator(self._codes(features))
        real, fake = self._told(torch.stack([features, made], dim=1)).unbind(dim=1)
        losses = softplus(-real) + softplus(fake)
        return torch.cat([features, losses[:, None]], dim=1)

    def deceit(self, rows: int) -> Tensor:
        """What the generator lowers: mean softplus(-D(G(z))) of so many codes; of no patient."""
        like = next(self.generator.parameters()).new_zeros(rows, 1)
        return softplus(-self._told(self.generator(self._codes(like)))).mean()

    def sample(self, rows: int, generator: torch.Generator) -> Tensor:
        """(rows, inputs) of patients who never were."""
        return self.decode(torch.randn(rows, self.latent, generator=generator))

    def decode(self, codes: Tensor) -> Tensor:
        """(B, inputs) of nobody from codes (B, latent)."""
        found: Tensor = self.generator(codes)
        return found

    def _told(self, rows: Tensor) -> Tensor:
        """The discriminator's logits (...) of rows (..., inputs), blurred."""
        blurred = rows + BLUR * torch.randn_like(rows) if self.draws else rows
        found: Tensor = self.discriminator(blurred)[..., 0]
        return found

    def _codes(self, like: Tensor) -> Tensor:
        """(B, latent) for B rows on their device; zeros where nothing is drawn."""
        codes = like.new_zeros(len(like), self.latent)
        return torch.randn_like(codes) if self.draws else codes


def adversarial(options: AdversarialModel, layout: Layout, outputs: int) -> nn.Module:
    """For all blocks of a layout, side by side."""
    return Adversarial(options, layout.inputs)
