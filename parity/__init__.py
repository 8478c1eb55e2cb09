"""Proofs that runs with our plugins are those of fastai, wherever fastai is right.

Both frameworks train the same model on the same data with the same options, in one
process, and what they leave is compared: ``nox -s parity`` in an environment that has
fastai too, or ``python -m parity``. Each module but these is a theme of such cases:

- ``subjects.py``: everything that is compared, and what differs on purpose;
- ``cases.py``: what a case is, and how a difference is measured;
- ``problems.py``: the models and data, for either framework;
- ``page.py``: docs/fastai-parity.md, which is made from the verdicts.
"""
