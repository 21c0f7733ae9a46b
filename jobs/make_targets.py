"""Fill the target store with all that a recipe's teachers say, so that later runs, trials and seeds only read it.

    python jobs/make_targets.py digits --output runs/targets
    ray job submit --working-dir . -- python jobs/make_targets.py -c recipe.yaml --output /shared/run

Takes the arguments of `raykd targets`, and ends with its exit code; what the store holds is not scored again, also
after a kill. On a cluster $RAYKD_HOME, or `targets.store`, is a folder that every node sees.

Cost: the teachers' fits once, then views × samples × teachers forward passes (`raykd plan` counts them and the
bytes). `digits` scores 31,599 answers in some seconds, after half a minute of fitting.
"""

import sys

from raykd.cli import main

if __name__ == "__main__":
    sys.exit(main(["targets", *sys.argv[1:]]))
