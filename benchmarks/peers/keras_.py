"""Keras, on PyTorch."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
)

from benchmarks.problem import LEARNING_RATE, Problem


class Nothing(Callback):
    """Does nothing when a batch begins and ends."""

    def on_train_batch_begin(self, batch, logs=None) -> None:
        pass

    def on_train_batch_end(self, batch, logs=None) -> None:
        pass


def fit(problem: Problem) -> None:
    """Train for one epoch."""
    width = max(8, problem.size.width)
    layers = [
        keras.layers.Dense(width, activation="relu") for _ in range(problem.size.depth)
    ]
    inputs = keras.layers.Input((width,))
    model = keras.Sequential([inputs, *layers, keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(LEARNING_RATE), loss="mse")
    callbacks = [Nothing() for _ in range(problem.num_observers)]
    if problem.is_everyday:
        callbacks = [
            CSVLogger(str(problem.folder / "history.csv")),
            EarlyStopping(monitor="loss"),
            LearningRateScheduler(lambda epoch, rate: LEARNING_RATE),
            ModelCheckpoint(
                str(problem.folder / "best.keras"), monitor="loss", save_best_only=True
            ),
        ]
    model.fit(
        problem.loader(),
        epochs=1,
        callbacks=callbacks,
        verbose=1 if problem.is_everyday else 0,
    )
