"""The names of ``fastai.data.external``."""

from callboard_fastai.exports import exporting

__getattr__, __dir__ = exporting(__name__)
