"""Record what fastai does: ``python record.py`` where fastai 2.8.12 is installed.

Writes ``oracle.json``, the facts that the tests compare with.
"""

import json
from pathlib import Path

from cases import run_all

if __name__ == "__main__":
    facts = json.dumps(run_all("fastai"), indent=None, separators=(",", ":"))
    Path(__file__).with_name("oracle.json").write_text(
        facts.replace('},"', '},\n"') + "\n"
    )
