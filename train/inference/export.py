"""A trained classifier as one file that needs only JAX: StableHLO with the weights and the preprocessing inside."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export as jax_export

from train.files import require_writable_file, write_whole
from train.inference.loading import load
from train.inference.prediction import image_classifier

PLATFORMS = ("cpu", "cuda", "tpu")


def export(folder: str | Path, out: str | Path) -> dict[str, object]:
    """Writes the best checkpoint of a run as a serialised `jax.export.Exported`, for CPU, CUDA and TPU.

    In a process that knows only JAX:

        classify = jax.export.deserialize(open(out, "rb").read())
        probabilities = classify.call(images)   # float32 [batch, height, width, channels] in [0, 1] → [batch, classes]

    Returns:
      What was written: file, bytes, platforms, input and output shapes, classes in the order of the output.

    Raises:
      ValueError: the run is no classifier of images, or its model is written for one size of batch.
      OSError: the file cannot be written.
    """
    require_writable_file(out)
    run = load(folder)
    if "senders" in run.dataset.spec.fields:
        raise ValueError(
            "a run on a graph is not exported: its model wants the whole graph beside what is asked; take "
            "zoo.load_model(RUN) in Python, or zoo predict"
        )
    classify = image_classifier(run)
    (batch,) = jax_export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *run.dataset.raw_image_shape), jnp.float32)
    try:
        exported = jax_export.export(jax.jit(classify), platforms=PLATFORMS)(images)
    except TypeError as error:
        if "_DimExpr" not in str(error):
            raise
        raise ValueError(
            f"the model {run.recipe.model!r} cannot be exported for batches of any size: it takes the size of a batch "
            "for a number, as len(x) and int(x.shape[0]) do; x.shape[0] itself will do"
        ) from error
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, bytes(exported.serialize()))
    return {
        "file": str(out),
        "bytes": out.stat().st_size,
        "platforms": list(exported.platforms),
        "input": str(exported.in_avals[0]),
        "output": str(exported.out_avals[0]),
        "classes": list(run.dataset.spec.classes),
    }
