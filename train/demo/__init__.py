"""A page on localhost on which trained runs are tried: drawn digits, latent planes, texts and translations."""

from train.demo.panels import Panel, of_folder, panel
from train.demo.server import Server, serve

__all__ = ["Panel", "Server", "of_folder", "panel", "serve"]
