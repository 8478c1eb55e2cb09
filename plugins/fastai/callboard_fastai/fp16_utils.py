"""The names of ``fastai.fp16_utils``."""

from callboard_fastai.exports import exporting

__getattr__, __dir__ = exporting(__name__)
