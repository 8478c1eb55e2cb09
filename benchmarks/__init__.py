"""What the loop costs, beside a bare loop and beside other frameworks.

    nox -s bench                 # prints all tables
    nox -s bench -- write        # writes docs/benchmarks.md and its picture anew

Each framework runs in a process of its own, by turns with the bare loop, so that load
on the machine falls on both. ``problem`` is what all of them train, ``peers`` has one
file for each of them, ``child`` measures one, ``scale`` and ``startup`` measure ours.
"""
