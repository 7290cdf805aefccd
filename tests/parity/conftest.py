"""Keras runs on JAX here, so that it computes on the same platform as the models that are compared with it."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
