"""The table of faults in `jobs/README.md`: each is done for real, in a process and Ray clusters of its own.

    python jobs/chaos.py --output chaos.json            # all rows
    python jobs/chaos.py --only R1,S3 --quick           # some, with fewer faults

Prints a line for each row and writes all of them to one JSON file; a row that fails or takes too long does not stop the
others. Exit code 1 if one failed. R17, faults of a GPU, needs one and is not among them.

Cost on two cores: some twenty-five minutes, 3 GB of memory.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the clone: `jobs` is not installed

from jobs.faults import SCENARIOS, Record, isolated
from raykd.runtime import machine


def _show(record: Record) -> None:
    passed = "passed" if record.passed else "FAILED"
    print(f"{record.row:4} {passed} {record.seconds:6.0f} s  {record.what}\n     bar: {record.bar}")
    print(f"     measured: {record.measured}", flush=True)


def _table(records: Sequence[Record]) -> str:
    """As Markdown."""
    lines = ["| | fault | asked for | measured | s |", "|---|---|---|---|--:|"]
    for one in records:
        failed = "" if one.passed else "**failed**: "
        lines.append(
            f"| {one.row} | {one.what} | {one.bar} | {failed}{one.measured} | {one.seconds:.0f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Run the rows; 0 if all passed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default=",".join(SCENARIOS), metavar="ROW[,ROW]")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    parser.add_argument("--quick", action="store_true", help="fewer faults of each kind")
    parser.add_argument(
        "--markdown", action="store_true", help="print the table as Markdown at the end"
    )
    chosen = parser.parse_args(arguments)
    rows = chosen.only.split(",")
    if unknown := set(rows) - set(SCENARIOS):
        parser.error(f"--only: found {', '.join(sorted(unknown))}; known: {', '.join(SCENARIOS)}")
    records = []
    for row in rows:
        records.append(isolated(row, SCENARIOS[row], quick=chosen.quick))
        _show(records[-1])
    failed = [record.row for record in records if not record.passed]
    minutes = sum(record.seconds for record in records) / 60
    print(f"{len(records) - len(failed)} of {len(records)} rows passed in {minutes:.0f} min")
    if chosen.markdown:
        print(f"\n{_table(records)}")
    if chosen.output is not None:
        report = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "cores": int(machine().cpus),
            "quick": chosen.quick,
            "rows": [asdict(record) for record in records],
        }
        chosen.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
