"""Run callbacks that were written for fastai: its module tree, and an adapter.

Rename the root of a file's imports from ``fastai`` to ``callboard_fastai``, and its
callbacks take part in Callboard's loop. Callbacks of an installed fastai can be given
to a Learner as they are.

Listens to  all events, for the callback that it adapts
Changes     what that callback changes
Source      fastai 2.8 (Apache-2.0), https://github.com/fastai/fastai; written anew
"""

from __future__ import annotations

from callboard_fastai.adapter import adapted

#: The version of fastai that is mirrored: files ask for it.
__version__ = "2.8.12"

__all__ = ["adapted"]
