"""Proofs that runs survive: kills, crashes in a save, damaged files, full disks.

Each module is a script that prints a table: ``python -m reliability.kill --count 200``.
"""

import os

# What happens to be installed shall not take part.
os.environ["CALLBOARD_AUTOLOAD"] = "0"
