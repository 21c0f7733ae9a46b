"""Fit the teachers of a recipe, all at once as the cluster allows, and keep them for later runs.

    python jobs/fit_teachers.py digits --output runs/teachers
    ray job submit --working-dir . -- python jobs/fit_teachers.py -c recipe.yaml --output /shared/run

Takes the arguments of `raykd teachers`, and ends with its exit code. Weights go to $RAYKD_HOME/teachers
under the fingerprint of recipe and data: a run that asks for the same teachers does not fit them again.

Cost: `digits` takes about half a minute on two cores (60 epochs of 200 samples for three teachers); one
core for each teacher at a time.
"""

import sys

from raykd.cli import main

if __name__ == "__main__":
    sys.exit(main(["teachers", *sys.argv[1:]]))
