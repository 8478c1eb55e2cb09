"""The names of ``fastai.torch_imports``."""

from callboard_fastai.exports import exporting

__getattr__, __dir__ = exporting(__name__)
