"""Score a finished run again, on validation and test: student, controls, teachers, ensemble, fidelity, cost.

    python jobs/evaluate.py runs/digits
    ray job submit --working-dir . -- python jobs/evaluate.py /shared/run

Takes the arguments of `raykd evaluate`, and ends with its exit code: 3 when an `evaluate.require` does not hold.
Fits and targets that are there are not made again; `summary.json` counts how often test was scored.

Cost: one forward pass of every student over validation and test, and the timing of each model: some 10 s for
`digits`, most of it the start of Python and Ray.
"""

import sys

from raykd.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
