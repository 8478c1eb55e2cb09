"""One file for each framework; ``fit(problem)`` trains as its own users would.

The everyday set is a history of the loss, a progress bar, a CSV file, early stopping,
the best weights in a file, and a one-cycle schedule. What a framework lacks of these is
left out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A framework that is measured.

    Attributes:
        module: Its file here.
        distribution: What pip installs.
        lacks: What of the everyday set there is not, or otherwise.
        has_observers: Whether something can be called when a batch begins and ends.
    """

    module: str
    distribution: str
    lacks: str = ""
    has_observers: bool = True


PEERS = {
    "Callboard": Peer("ours", "callboard"),
    "Ignite": Peer(
        *("ignite_", "pytorch-ignite"), "a CSV logger; a handler writes the row"
    ),
    "skorch": Peer(
        *("skorch_", "skorch"), "a CSV logger; its history can be saved as JSON"
    ),
    "accelerate": Peer(
        *("accelerate_", "accelerate"),
        "callbacks; its loop by hand has a bar, a mean, a file and a schedule",
        has_observers=False,
    ),
    "pytorch-accelerated": Peer(
        *("pytorch_accelerated_", "pytorch-accelerated"), "a CSV logger"
    ),
    "torchtnt": Peer(
        *("torchtnt_", "torchtnt"), "all but a history, a bar and a schedule"
    ),
    "Lightning": Peer("lightning_", "lightning"),
    "fastai": Peer("fastai_", "fastai"),
    "transformers": Peer(
        *("transformers_", "transformers"), "a CSV logger; its history goes to JSON"
    ),
    "Keras": Peer(*("keras_", "keras"), "a schedule by batch; its own goes by epoch"),
}
