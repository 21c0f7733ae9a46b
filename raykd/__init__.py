"""raykd: distil an ensemble of teachers into one small student, on a laptop or a Ray cluster.

`import raykd` is light: torch, ray and wandb are imported when something that needs them is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from raykd.importing import search_own_folders_last

if TYPE_CHECKING:
    from raykd.config import Config, load_config
    from raykd.forecast import Plan, plan
    from raykd.pipeline import (
        AblateResult,
        CompareResult,
        Fleet,
        RunResult,
        ablate,
        compare,
        load_student,
        predict,
        run,
    )
    from raykd.search import SweepResult, sweep

search_own_folders_last()
__version__ = "0.1.0"
__all__ = [
    "AblateResult",
    "CompareResult",
    "Config",
    "Fleet",
    "Plan",
    "RunResult",
    "SweepResult",
    "__version__",
    "ablate",
    "compare",
    "load_config",
    "load_student",
    "plan",
    "predict",
    "run",
    "sweep",
]

_HOMES = {
    "Config": "raykd.config",
    "load_config": "raykd.config",
    "AblateResult": "raykd.pipeline",
    "ablate": "raykd.pipeline",
    "CompareResult": "raykd.pipeline",
    "Fleet": "raykd.pipeline",
    "Plan": "raykd.forecast",
    "RunResult": "raykd.pipeline",
    "compare": "raykd.pipeline",
    "load_student": "raykd.pipeline",
    "plan": "raykd.forecast",
    "predict": "raykd.pipeline",
    "run": "raykd.pipeline",
    "SweepResult": "raykd.search",
    "sweep": "raykd.search",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raykd' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
