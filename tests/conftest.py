"""One Ray cluster for the whole session, a home of its own for every test, tiny data and recipes."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before anything imports ray: its processes inherit them. The tests' own models are importable there.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
# Any will do for the S3 server that tests start; else the client would look for a machine's own.
os.environ |= {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}
_OWN = str(Path(__file__).parent / "teachers")
os.environ["PYTHONPATH"] = os.pathsep.join([_OWN, *filter(None, [os.environ.get("PYTHONPATH")])])
sys.path.insert(0, _OWN)

# Two processes of tests share two cores: more threads in each would wait for each other. Those that they start choose anew.
_THREADS = os.environ.get("OMP_NUM_THREADS")
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
import yaml
from raykd_test_models import BLOBS, blobs

from raykd.cli import main
from raykd.config.data import Data, Preprocess, Splits, Views
from raykd.config.models import (
    CnnModel,
    FactoryModel,
    MlpModel,
    Model,
)
from raykd.config.sources import FactorySource
from raykd.data import Samples
from raykd.data.samples import samples_of
from raykd.models import build_model
from raykd.models.preprocess import resolve
from raykd.tracking import Event

if TYPE_CHECKING:
    from raykd.teachers import Spec

os.environ.pop("OMP_NUM_THREADS")
if _THREADS is not None:
    os.environ["OMP_NUM_THREADS"] = _THREADS


_OPERATORS = (
    "nms", "qnms", "roi_align", "_roi_align_backward", "qroi_align", "ps_roi_align",
    "_ps_roi_align_backward", "roi_pool", "_roi_pool_backward", "ps_roi_pool", "_ps_roi_pool_backward",
    "deform_conv2d", "_deform_conv2d_backward",
)  # fmt: skip


def _declare_operators() -> Any:
    """Declare torchvision's operators where it has no build for this torch: it, timm and transformers import then.

    Its ordinary wheel is for CUDA, and its compiled part does not load beside a CPU build of torch. Before any of them
    is imported; the library ends with what this returns.
    """
    here = importlib.util.find_spec("torchvision") is not None
    if not here or "+cpu" not in torch.__version__ or "+cpu" in version("torchvision"):
        return None
    declared = torch.library.Library("torchvision", "DEF")
    for name in _OPERATORS:
        declared.define(f"{name}(Tensor x) -> Tensor")
    return declared


_DECLARED = _declare_operators()
CHANCE = {"type": "factory", "path": "raykd_test_models:chance"}


@dataclass(frozen=True)
class Ended:
    """A command's exit code and what it printed."""

    code: int
    out: str
    err: str


def call(*argv: str | Path) -> Ended:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in argv])
    return Ended(code, out.getvalue(), err.getvalue())


_CLUSTERS = {"ray_cluster": "cluster", "cluster": "nodes"}
"""Fixture of a Ray cluster -> the group of tests that share it."""
_FLEETS = {"methods", "runtime", "targets", "teachers", "train"}
"""Folders whose tests share a second cluster: about half of the time on Ray."""
_RUNS: set[Path] = set()
"""Files whose tests start whole runs on the first cluster, and no processes of their own there."""
_CREW: list[Any] = []
"""The processes that these runs take turns with."""


@pytest.hookimpl(tryfirst=True)  # xdist looks at the groups in its own hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n`, all tests of a cluster go to one process: two clusters beside each other, then all other tests.

    What waits for Ray's processes leaves a core idle; an idle cluster takes half a core from the others.
    """
    groups = {item: _CLUSTERS[name] for item in items
              for name in getattr(item, "fixturenames", ()) if name in _CLUSTERS}  # fmt: skip
    with_ray = {item.path for item in groups}
    _RUNS.update(
        item.path
        for item, cluster in groups.items()
        if cluster == "cluster"
        and item.path.parent.name not in _FLEETS
        and not item.get_closest_marker("own_processes")
    )
    items.sort(key=lambda item: item.path in with_ray)
    for item, cluster in groups.items():
        group = "fleet" if cluster == "cluster" and item.path.parent.name in _FLEETS else cluster
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The cluster of the session; `raykd.runtime.connect` uses it."""
    import ray

    ray.init(
        address="local",
        num_cpus=6,
        include_dashboard=False,
        log_to_driver=False,
        namespace="raykd",
        object_store_memory=256 * 2**20,
    )
    yield
    _CREW.clear()
    ray.shutdown()


@pytest.fixture(scope="module", autouse=True)
def kept_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """A run leaves its processes to the next one, as a stage does: starting them takes longer than most of their work."""
    if request.path not in _RUNS:
        for crew in _CREW:
            crew.dismiss()
        yield
        return
    request.getfixturevalue("ray_cluster")
    from raykd.runtime.engine import Block, Crew

    if not _CREW:
        _CREW.append(Crew())
    Block.crew = _CREW[0]
    yield
    Block.crew = None


@pytest.fixture(scope="module", autouse=True)
def undrawn_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """A report's pictures take four seconds of a core: runs draw them where a module's tests look at them."""
    if request.node.get_closest_marker("figures"):
        yield
        return
    with _no_pictures():
        yield


@pytest.fixture
def undrawn() -> Iterator[None]:
    """None of a report's pictures are drawn in a test that reads its words, in a module that draws them."""
    with _no_pictures():
        yield


@contextlib.contextmanager
def _no_pictures() -> Iterator[None]:
    from raykd.report import page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "pictures_of", lambda _run: {})
        patch.setattr(page, "pictures_ahead", lambda *_: contextlib.nullcontext(dict))
        yield


@pytest.fixture(autouse=True)
def raykd_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fitted teachers and stored targets of one test are not those of another."""
    home = tmp_path / "home"
    monkeypatch.setenv("RAYKD_HOME", str(home))
    return home


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Results are compared bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Heard(list[Event]):
    """A listener that keeps what it hears."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def decisions(self) -> list[str]:
        return [e.values["decision"] for e in self if e.kind == "failure"]


@pytest.fixture
def heard() -> Heard:
    return Heard()


Make = Callable[..., Samples]
_MODELS = {
    "mlp": MlpModel(width=0.25, depth=1),
    "cnn": CnnModel(width=0.25, depth=2),
    "batch": CnnModel(width=0.25, depth=2, norm="batch"),
}


@pytest.fixture
def make_samples() -> Make:
    """Learnable blobs of 1×8×8 in three classes, with the given view policy."""

    def make(
        *policy: dict[str, Any], count: int | None = 1, labels: Any = 36, **given: Any
    ) -> Samples:
        data = Data(
            source=FactorySource(path=BLOBS),
            splits=Splits(validation=24, test=24),
            labels=labels,
            views=Views.model_validate({"count": count, "policy": policy}),
        )
        return samples_of(blobs(**given), data, seed=0)

    return make


@pytest.fixture
def samples(make_samples: Make) -> Samples:
    return make_samples({"type": "shift", "pixels": 1}, count=4)


@pytest.fixture
def make_spec(samples: Samples) -> Callable[..., Spec]:
    """A teacher with fresh weights, on `samples` unless others are given."""

    def make(
        model: Model | str = "mlp",
        *,
        data: Samples = samples,
        name: str = "wide",
        outputs: int | None = None,
        seed: int = 0,
        **given: Any,
    ) -> Spec:
        from raykd.teachers import Spec  # imports ray, which most tests do without

        spec = (
            model if not isinstance(model, str) else _MODELS.get(model) or FactoryModel(path=model)
        )
        outputs = outputs or data.class_count
        preprocessing = resolve(
            Preprocess(), data.statistics(), input_shape=data.input_shape, key="preprocess"
        )
        torch.manual_seed(seed)
        shape = preprocessing.output_shape(data.input_shape)
        network = build_model(spec, input_shape=shape, classes=outputs, key="model")
        settings = {
            "label_map": None,
            "kind": "logits",
            "dtype": "float32",
            "batch_size": 8,
            **given,
        }
        weights = {n: t.detach().clone() for n, t in network.state_dict().items()}
        return Spec(
            name=name,
            key=f"teachers.{name}.model",
            model=spec,
            input_shape=data.input_shape,
            outputs=outputs,
            classes=data.class_count,
            **{"weights": weights, "preprocessing": preprocessing, **settings},
        )

    return make


@pytest.fixture
def tiny_recipe() -> dict[str, Any]:
    """A whole recipe on digits that takes seconds: two teachers that learn, a student that begins to."""
    return tiny()


def tiny() -> dict[str, Any]:
    fit = {"epochs": 6, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}}
    return {
        "seed": 0,
        "data": {
            "source": {"type": "digits"},
            "splits": {"validation": 100, "test": 0.2},
            "labels": 200,
            "views": {"count": 2, "policy": [{"type": "shift", "pixels": 1}]},
        },
        "teachers": [
            {"name": "wide", "model": {"type": "mlp", "width": 1.0, "depth": 1}, "fit": fit},
            {"name": "conv", "model": {"type": "cnn", "width": 0.25, "depth": 2}, "fit": fit},
        ],
        "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}},
        "train": {"epochs": 2, "batch_size": 128, "optimizer": {"type": "adamw", "lr": 0.01}},
        "evaluate": {"controls": ["labels"]},
        "tracking": {"wandb": {"mode": "disabled"}},
    }


@pytest.fixture(name="call", scope="session")
def _call() -> Callable[..., Ended]:
    return call


@dataclass(frozen=True)
class Finished:
    """A run that went through: its folder, its recipe's file, its home, and how the command ended."""

    path: Path
    recipe: Path
    home: Path
    ended: Ended


@pytest.fixture(scope="session")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One whole run from nothing, made by the command line; nobody may change it."""
    root = tmp_path_factory.mktemp("finished")
    evaluate = {
        "controls": ["labels", "best_teacher", "hard"],
        "compare": [{"name": "chance", "model": CHANCE}],
        "slices": [{"class": "3"}],
        "require": ["student.test.accuracy >= 0", "student.test.accuracy > 1"],
    }
    recipe = root / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny() | {"evaluate": evaluate}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYKD_HOME", str(root / "home"))
        patch.delenv("RAY_ADDRESS", raising=False)
        ended = call("run", recipe, "--output", root / "run")
    return Finished(root / "run", recipe, root / "home", ended)


@pytest.fixture
def rows_of(samples: Samples) -> np.ndarray:
    return samples.splits["train"]
