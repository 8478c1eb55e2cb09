"""Mirrors the package ``fastai.medical``."""
