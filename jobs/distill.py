"""The whole job of a recipe: fit or load teachers, score once, distil, evaluate, report.

    python jobs/distill.py digits --output runs/digits
    ray job submit --working-dir . -- python jobs/distill.py -c recipe.yaml seeds=5 --output /shared/run

Takes the arguments of `raykd run`, and ends with its exit code. In a Ray job $RAY_ADDRESS names the
cluster; give --output a folder that every node sees, since the job's own is thrown away.

Cost: `digits` (three teachers, 5 replicas of student and three controls) takes about two minutes on two
cores. In general: the teachers' fits once, views × samples × teachers forward passes once, then
replicas × (1 + controls) student fits.
"""

import sys

from raykd.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
