"""Search a recipe's `search:` on one set of targets, then retrain the best over paired replicas and test them.

    python jobs/sweep.py digits --output runs/sweep
    ray job submit --working-dir . -- python jobs/sweep.py digits --output /shared/sweep

Takes the arguments of `raykd sweep`, and ends with its exit code; `--resume` goes on after a kill. In a
Ray job $RAY_ADDRESS names the cluster; give --output a folder that every node sees.

Cost: the teachers' fits and forward passes once; then trials × epochs of one student, less what is
stopped early, and (1 + finalists) × replicas student fits.
"""

import sys

from raykd.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
