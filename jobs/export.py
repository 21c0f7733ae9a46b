"""A finished run's student as safetensors, ONNX and torch.export, with a model card.

    python jobs/export.py runs/digits
    ray job submit --working-dir . -- python jobs/export.py /shared/run --format onnx --output /shared/student

Takes the arguments of `raykd export`, and ends with its exit code. Needs no cluster; ONNX needs
`pip install 'raykd[export]'`.

Cost: a few seconds for each format, most of it tracing; the network runs some hundred times on one CPU thread.
"""

import sys

from raykd.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
