"""Autoencoders: the inputs through a narrow layer and back, plainly or as a distribution."""

import torch
from torch import Tensor, nn

from cohortium.common.layout import Layout
from cohortium.common.models.mlp import perceptron
from cohortium.common.models.options_generative import AutoencoderModel


class Autoencoder(nn.Module):
    """(B, inputs) from features (B, inputs)."""

    def __init__(self, options: AutoencoderModel, inputs: int, code: int) -> None:
        super().__init__()
        self.latent = options.latent
        chosen = (options.activation, options.dropout)
        self.encoder = perceptron(inputs, options.hidden, code, *chosen)
        self.decoder = perceptron(options.latent, options.hidden[::-1], inputs, *chosen)

    def forward(self, features: Tensor) -> Tensor:
        return self.decode(self.encode(features))

    def encode(self, features: Tensor) -> Tensor:
        """(B, latent)."""
        found: Tensor = self.encoder(features)
        return found

    def decode(self, code: Tensor) -> Tensor:
        """(B, inputs) from (B, latent)."""
        found: Tensor = self.decoder(code)
        return found


class VariationalAutoencoder(Autoencoder):
    """(B, inputs + 1): the last is `beta` times each patient's divergence from the prior.

    Kingma & Welling 2014, Equation 10; `beta` as in Higgins et al. 2017. A squared error and
    `beta` times the divergence are together `beta` times the bound of a Gaussian likelihood of
    variance beta / 2. In training a code is drawn for each patient
    while `draws` is set.
    """

    def __init__(self, options: AutoencoderModel, inputs: int) -> None:
        super().__init__(options, inputs, 2 * options.latent)
        self._beta = options.beta
        self.spread = options.spread
        self.draws = True

    def forward(self, features: Tensor) -> Tensor:
        mean, log_variance = self.encoder(features).chunk(2, dim=1)
        code = mean
        if self.training and self.draws:
            code = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
        return torch.cat([self.decode(code), self._beta * divergence[:, None]], dim=1)

    def encode(self, features: Tensor) -> Tensor:
        """(B, latent): the means."""
        found: Tensor = self.encoder(features).chunk(2, dim=1)[0]
        return found

    def sample(self, rows: int, generator: torch.Generator) -> Tensor:
        """(rows, inputs) of patients who never were, as codes of the prior have them on average."""
        return self.decode(torch.randn(rows, self.latent, generator=generator))


def autoencoder(options: AutoencoderModel, layout: Layout, outputs: int) -> nn.Module:
    """For all blocks of a layout, side by side."""
    if options.name == "vae":
        return VariationalAutoencoder(options, layout.inputs)
    return Autoencoder(options, layout.inputs, options.latent)
