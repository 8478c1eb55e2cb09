"""What a layer makes of the validation data, for TensorBoard's projector."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from callboard import Callback, Learner, hookimpl
from callboard.errors import OptionError
from callboard_run_log import as_picture, as_text, require_client, samples_of
from callboard_tensorboard.writers import new_log_dir, open_writer

MAX_THUMBNAIL = 64  # rows and columns of the pictures in the projector


class Embeddings:
    """Collects what goes through one layer, with labels and small pictures.

    Args:
        layer: The layer whose output is collected. None for what goes into the last
            layer of the model that has parameters: what it decides by.
    """

    def __init__(self, layer: nn.Module | None = None) -> None:
        self.layer = layer
        self._vectors: list[Tensor] = []
        self._labels: list[str] = []
        self._pictures: list[Tensor] = []
        self._latest: Tensor | None = None

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Watch the layer; the hook is gone afterwards, whatever happens."""
        self._vectors, self._labels, self._pictures = [], [], []
        layer = self.layer or last_layer(model)
        handle = layer.register_forward_hook(self._keep)
        try:
            yield
        finally:
            handle.remove()
            self._latest = None

    def _keep(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        value = output if self.layer is not None else inputs[0]
        self._latest = value if isinstance(value, Tensor) else None

    def add_batch(self, learner: Learner) -> None:
        """Take in the batch that the model has just predicted."""
        vectors, self._latest = self._latest, None
        if vectors is None or not isinstance(learner.pred, Tensor):
            return
        self._vectors.append(vectors.detach().flatten(1).float().cpu())
        for sample in samples_of(learner, learner.xb, learner.yb, learner.pred):
            label = sample.prediction if sample.target is None else sample.target
            self._labels.append(as_text(label))
            picture = as_picture(sample.input)
            if picture is not None:
                self._pictures.append(thumbnail(picture))

    def write(self, writer: Any, step: int) -> None:
        """Write what was collected; nothing where nothing was."""
        if not self._vectors:
            return
        vectors = torch.cat(self._vectors)
        has_all = len(self._pictures) == len(vectors)
        pictures = torch.stack(self._pictures) if has_all else None
        writer.add_embedding(
            vectors, metadata=self._labels, label_img=pictures, global_step=step
        )
        self._vectors, self._labels, self._pictures = [], [], []


def last_layer(model: nn.Module) -> nn.Module:
    """The last layer of a model that has parameters of its own.

    Raises:
        OptionError: There is none.
    """
    layers = [m for m in model.modules() if list(m.parameters(recurse=False))]
    if not layers:
        raise OptionError(
            f"tensorboard: {type(model).__name__} has no layer with parameters; give "
            "layer=..., the layer whose output is to be shown."
        )
    return layers[-1]


def thumbnail(picture: Tensor) -> Tensor:
    """A picture as the projector wants it: three channels, square, small."""
    size = min(MAX_THUMBNAIL, max(picture.shape[1:]))
    small = interpolate(picture[None], (size, size), mode="nearest")[0]
    return small.expand(3, size, size)


class TensorBoardProjectorCallback(Callback):
    """Writes what a layer makes of every item of a validation, for the projector.

    Args:
        log_dir: Folder of the event files, in ``learner.path`` unless it is absolute.
            Default: a new one in ``runs``.
        layer: The layer whose output is shown. Default: what goes into the last layer
            that has parameters.
    """

    name = "tensorboard-projector"
    role = "observe"
    stages = ("fit", "validate", "predict")

    def __init__(
        self, log_dir: str | Path | None = None, *, layer: nn.Module | None = None
    ) -> None:
        require_client(self.name, "tensorboard", "tensorboard")
        self.log_dir = log_dir
        self._embeddings = Embeddings(layer)

    @hookimpl(wrapper=True)
    def do_validate(self) -> Generator[None, object, object]:
        """Watch the layer in this validation, and write what was seen."""
        learner = self.learn
        with self._embeddings.hooked(learner.model):
            result = yield
        if self.log_dir is None:
            self.log_dir = new_log_dir()
        with open_writer(Path(learner.path, self.log_dir)) as writer:
            self._embeddings.write(writer, learner.train_iter)
        return result

    def after_pred(self) -> None:
        """Take in a batch of the validation."""
        if not self.learn.training:
            self._embeddings.add_batch(self.learn)


def projector_word_embeddings(
    learn: Learner | None = None,
    layer: nn.Embedding | None = None,
    vocab: Sequence[str] | None = None,
    limit: int = -1,
    start: int = 0,
    log_dir: str | Path | None = None,
) -> Path:
    """Write the vectors of words for the projector; returns the folder.

    Args:
        learn: Whose model holds the layer, and whose data the ``vocab``, where these
            are not given.
        layer: The layer with the vectors. Default: the first embedding of the model.
        vocab: The words, in the order of the vectors.
        limit: How many words; negative for all.
        start: The first of them.
        log_dir: Folder of the event files, in the Learner's ``path`` unless it is
            absolute. Default: a new one in ``runs``.

    Raises:
        OptionError: There is no such layer, or the words do not fit it.
    """
    layer = first_embedding(learn) if layer is None else layer
    words = words_of(learn) if vocab is None else list(vocab)
    vectors = layer.weight.detach().float().cpu()
    if len(words) != len(vectors):
        raise OptionError(
            f"projector_word_embeddings: vocab has {len(words)} words and the layer "
            f"{len(vectors)} vectors; give a word for every vector."
        )
    chosen = slice(start, None if limit < 0 else start + limit)
    folder = Path(learn.path if learn else ".", log_dir or new_log_dir())
    with open_writer(folder) as writer:
        # A line that looks empty, or a word of two lines, would shift all the rest.
        labels = [
            word if word.strip() and word.isprintable() else repr(word)
            for word in words[chosen]
        ]
        writer.add_embedding(vectors[chosen], metadata=labels)
    return folder


def first_embedding(learn: Learner | None) -> nn.Embedding:
    """The first embedding of a Learner's model."""
    for module in learn.model.modules() if learn else ():
        if isinstance(module, nn.Embedding):
            return module
    raise OptionError(
        "projector_word_embeddings: there is no nn.Embedding to take the vectors from; "
        "give layer=..."
    )


def words_of(learn: Learner | None) -> list[str]:
    """The ``vocab`` of a Learner's data."""
    for loader in (learn.dls.train, learn.dls.valid) if learn else ():
        vocab = getattr(getattr(loader, "dataset", None), "vocab", None)
        if vocab is not None:
            return [str(word) for word in vocab]
    raise OptionError(
        "projector_word_embeddings: the dataset has no vocab; give vocab=[...], the "
        "words in the order of the vectors."
    )
