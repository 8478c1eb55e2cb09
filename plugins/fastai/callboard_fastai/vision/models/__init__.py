"""The names of ``fastai.vision.models``."""

from callboard_fastai.exports import exporting

__getattr__, __dir__ = exporting(__name__)
