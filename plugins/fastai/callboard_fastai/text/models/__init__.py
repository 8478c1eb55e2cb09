"""Mirrors the package ``fastai.text.models``."""
