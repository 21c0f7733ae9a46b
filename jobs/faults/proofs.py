"""Rows that tests of the repository prove: they are run in full, and the figures read that they record."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from jobs import ROOT
from jobs.faults.scenario import Found

_SECONDS = " (s)"
"""Ends the name of a figure of which the largest counts; others are added up."""


@dataclass(frozen=True)
class Proof:
    """Runs tests, by their ids; those of `make soak` unless fewer faults will do.

    Attributes:
        tests: ids of pytest.
        least: figure that they record -> how much there has to be of it, unless fewer will do.
    """

    tests: tuple[str, ...]
    least: Mapping[str, int]

    def __call__(self, folder: Path, quick: bool) -> Found:
        """Their figures; passed when every one of them did."""
        report = folder / "report.xml"
        missing = [name for name in self.tests if not (ROOT / name.partition("::")[0]).is_file()]
        if missing:
            return Found(f"needs the repository: no {missing[0]} in {ROOT}", passed=False)
        marks = "not soak" if quick else "soak or not soak"
        command = [sys.executable, "-m", "pytest", "-q", "-m", marks]
        command += ["-p", "no:cacheprovider", "-o", "junit_family=xunit1"]
        done = subprocess.run(  # noqa: S603 (tests of our own)
            [*command, f"--junitxml={report}", f"--basetemp={folder / 'tests'}", *self.tests],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not report.is_file():
            return Found(f"pytest ended with {done.returncode}: {done.stderr[-300:]}", passed=False)
        return _read(report, {} if quick else self.least)


def proved_by(*tests: str, **least: int) -> Proof:
    """A scenario that runs tests, which do at least so many of each fault."""
    return Proof(tests, least)


def _read(report: Path, least: Mapping[str, int]) -> Found:
    """Counts of a JUnit report, and the figures in it."""
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314 (pytest's own)
    counts = {n: int(suite.get(n, "0")) for n in ("tests", "failures", "errors", "skipped")}
    figures: dict[str, float] = {}
    for one in suite.iter("property"):
        name, value = str(one.get("name")), float(one.get("value", "nan"))
        known = figures.get(name, 0.0)
        figures[name] = max(known, value) if name.endswith(_SECONDS) else known + value
    bad = counts["failures"] + counts["errors"] + counts["skipped"]
    parts = [f"{name} {value:,.4g}" for name, value in figures.items()]
    cases = [one for one in suite.iter("testcase") if {"failure", "error"} & {e.tag for e in one}]
    failed = [str(one.get("name")) for one in cases]
    parts.append(f"{counts['tests'] - bad} of {counts['tests']} tests")
    parts += [f"failed: {failed[0]}"] if failed else []
    enough = all(figures.get(name, 0) >= count for name, count in least.items())
    return Found(", ".join(parts), passed=enough and not bad and counts["tests"] > 0)
