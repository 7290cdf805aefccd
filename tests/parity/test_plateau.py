"""The learning rate on a plateau, beside Keras's ReduceLROnPlateau."""

from __future__ import annotations

import numpy as np
import pytest

from train.optim.plateau import Plateau

keras = pytest.importorskip("keras")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("seed", range(5))
def test_as_keras(seed):
    rng = np.random.default_rng(seed)
    losses = np.cumsum(rng.normal(0, 1, 40)).round(2)
    callback = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=3, min_lr=1e-2)
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    callback.set_model(model)
    callback.on_train_begin()
    plateau = Plateau(factor=0.5, patience=3, least_scale=1e-2)
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        wanted = float(np.asarray(model.optimizer.learning_rate))
        assert plateau.scale([{"validation_loss": value} for value in losses[: epoch + 1]]) == pytest.approx(wanted)
