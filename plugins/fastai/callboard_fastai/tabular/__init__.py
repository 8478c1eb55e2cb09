"""Mirrors the package ``fastai.tabular``."""
