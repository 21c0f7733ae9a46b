"""One scenario in this process: `python -m jobs.faults ROW FOUND.json [--quick]`; `jobs/chaos.py` starts these."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jobs.faults import SCENARIOS
from raykd.folders import write_json


def main(arguments: Sequence[str]) -> None:
    """Run it in the folder of the file that its figures are written to."""
    row, answer, *more = arguments
    work = Path(answer).parent / "work"
    work.mkdir()
    write_json(Path(answer), asdict(SCENARIOS[row].run(work, "--quick" in more)))


if __name__ == "__main__":
    main(sys.argv[1:])
