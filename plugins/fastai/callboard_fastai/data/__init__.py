"""Mirrors the package ``fastai.data``."""
