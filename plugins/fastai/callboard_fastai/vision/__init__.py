"""Mirrors the package ``fastai.vision``."""
