"""`python -m raykd`."""

import sys
from pathlib import Path

if sys.path and sys.path[0] == str(
    Path.cwd()
):  # which Python puts first: a file `torch.py` there is not PyTorch
    sys.path.append(sys.path.pop(0))

from raykd.cli import main

sys.exit(main())
