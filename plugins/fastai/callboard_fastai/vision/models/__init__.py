"""Mirrors the package ``fastai.vision.models``."""
