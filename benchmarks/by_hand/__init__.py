"""Is ``callboard fit --fast`` faster than a loop written by hand? To the same loss.

    nox -s by_hand               # prints the tables
    nox -s by_hand -- write      # writes docs/faster-than-by-hand.md anew

Both train the same model from the same weights on the same batches in the same order,
until the validation loss is down to a number. Each run has a process of its own; the
ways take turns. ``tasks`` is what is trained, ``loop`` the loop by hand, ``train`` what
``callboard fit`` is given.
"""
