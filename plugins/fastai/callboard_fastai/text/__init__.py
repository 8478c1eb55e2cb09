"""Mirrors the package ``fastai.text``."""
