"""An epoch of the guide's network on digits, in `fit` here and in Keras 3 on JAX, side by side in one process.

usage: python tests/parity/epoch_speed.py [ROUNDS]

1437 rows, batch 32, dropout .3, Adam, loss and accuracy reported. Keras runs 15 steps an execution, and drops the
last 29 rows as `fit` does here: 44 steps an epoch for both. The rounds alternate; the first epochs, which compile, do
not count.
"""

import os
import sys
import time

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
import optax

import data
import zoo
from train.loop.fitting import fit
from train.tasks import classification

EPOCHS = 40
STEPS = 44


def ours(dataset: data.Dataset) -> list[float]:
    """Seconds of each epoch after the first five."""
    ends = []
    task = classification(zoo.create_model("mlp"), optax.adam(1e-3))
    fit(
        task,
        dataset,
        batch_size=32,
        epochs=EPOCHS,
        callbacks=[lambda report: ends.append(time.perf_counter()) if report.evaluated else None],
    )
    return list(np.diff(ends)[5:])


def theirs(x: np.ndarray, y: np.ndarray) -> list[float]:
    """The same of Keras."""
    model = keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], steps_per_execution=15)
    ends = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    rows = STEPS * 32
    model.fit(x[:rows], y[:rows], batch_size=32, epochs=EPOCHS, verbose=0, callbacks=[callback])
    return list(np.diff(ends)[5:])


def main() -> None:
    """Prints median milliseconds of an epoch, with the 10 % and 90 % quantiles, and the ratio."""
    dataset = data.load("digits", flat=True, standardize=True)
    arrays = dataset.preprocess(dataset.splits["train"].arrays)
    times = {"zoo": [], "keras": []}
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        times["zoo"] += ours(dataset)
        times["keras"] += theirs(arrays["image"], arrays["label"])
    for name, seconds in times.items():
        low, median, high = np.quantile(seconds, [0.1, 0.5, 0.9]) * 1e3
        print(f"{name:6} {median:6.2f} ms an epoch (10 %: {low:.2f}, 90 %: {high:.2f}, {len(seconds)} epochs)")
    print(f"ratio  {np.median(times['keras']) / np.median(times['zoo']):6.2f}")


if __name__ == "__main__":
    main()
