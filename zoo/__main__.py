"""`python -m zoo` is `zoo`."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parents[1] / "train" / "entry.py"))["main"]()
