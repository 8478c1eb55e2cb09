"""Mirrors the package ``fastai.callback``."""
