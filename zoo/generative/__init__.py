"""Networks that make images."""

from zoo.generative import autoencoder, diffusion, gan, vae

__all__ = ["autoencoder", "diffusion", "gan", "vae"]
