"""Fetch predictions after every validation, for other callbacks to use.

Listens to  before_fit, after_validate; also in ``learn.validate()``
Changes     nothing; the predictions are in ``FetchPredsCallback.preds``
Source      fastai's ``FetchPredsCallback`` (Apache-2.0), written anew
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from callboard import Callback
from callboard.errors import OptionError
from callboard_gather_preds import get_preds


class FetchPredsCallback(Callback):
    """Keeps the predictions of the model as it is after every validation.

    Args:
        ds_idx: Which data: 0 for training, 1 for validation.
        dl: Batches to use instead.
        with_input: Fetch the inputs too, before the predictions.
        with_decoded: Fetch decisions too, after the targets.
        cbs: Callbacks that take part in the prediction; ``"predict"`` must be among
            their ``stages``.
        reorder: Give items in the order of the dataset, whatever the loader does.

    Attributes:
        preds: What ``get_preds`` returned last: ``(preds, targets)``, with inputs
            before and decisions after where they were asked for. None before the
            first validation.
    """

    name = "fetch-preds"
    # Not an observer: one that fails is set aside, and others would go on to read the
    # predictions of an earlier epoch.
    role = "control"
    stages = ("fit", "validate")

    def __init__(
        self,
        ds_idx: int = 1,
        dl: Any = None,
        with_input: bool = False,
        with_decoded: bool = False,
        cbs: Any = None,
        reorder: bool = True,
    ) -> None:
        if ds_idx not in (0, 1):
            raise OptionError(
                f"{self.name}: ds_idx must be 0 for training data or 1 for validation "
                f"data, got {ds_idx!r}. Use 1, or give dl for other data."
            )
        if isinstance(dl, Iterator):
            raise OptionError(
                f"{self.name}: dl can be gone through once only, and it is needed "
                "after every validation. Give a DataLoader or a list of batches."
            )
        self.ds_idx = ds_idx
        self.fetched_dl = dl
        self.with_input = with_input
        self.with_decoded = with_decoded
        self.fetch_cbs = cbs
        self.reorder = reorder
        self.preds: tuple[Any, ...] | None = None

    def before_fit(self) -> None:
        """Refuse a fit that never validates."""
        if self.learn.dls.valid is None:
            raise OptionError(
                f"{self.name}: predictions are fetched after each validation, and the "
                "Learner has no validation data. Give DataLoaders(train, valid), or "
                "call learn.get_preds yourself."
            )
        self.preds = None

    def after_validate(self) -> None:
        """Fetch the predictions."""
        self.preds = get_preds(
            self.learn,
            self.ds_idx,
            self.fetched_dl,
            with_input=self.with_input,
            with_decoded=self.with_decoded,
            cbs=self.fetch_cbs,
            reorder=self.reorder,
        )
