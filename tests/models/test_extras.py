"""Packages that are not there, or do not import, are named with the line that brings them."""

from __future__ import annotations

import importlib
import sys

import pytest

from raykd.config import check_search, load_config
from raykd.config.models import (
    HfModel,
    OnnxModel,
    TimmModel,
    TorchvisionModel,
)
from raykd.config.sources import DiabetesSource, DigitsSource
from raykd.data import load_source
from raykd.errors import InputError
from raykd.importing import load_package
from raykd.models import build_model


def build(spec):
    return build_model(spec, input_shape=(3, 32, 32), classes=4, key="model")


ASKING = {
    "torchvision": (lambda: build(TorchvisionModel(name="resnet18")), "raykd[vision]"),
    "timm": (lambda: build(TimmModel(name="resnet18")), "raykd[vision]"),
    "transformers": (lambda: build(HfModel(name="some/model")), "raykd[hf]"),
    "onnx": (lambda: build(OnnxModel(path="no.onnx")), "raykd[export]"),
    "onnxruntime": (lambda: build(OnnxModel(path="no.onnx")), "raykd[export]"),
    "sklearn": (lambda: load_source(DigitsSource()), "scikit-learn"),
    "sklearn, too": (lambda: load_source(DiabetesSource()), "scikit-learn"),
}


@pytest.fixture
def unloaded(monkeypatch):
    """Forgets a package, as in a process that has not imported it."""

    def forget(package):
        for name in [n for n in sys.modules if n.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)

    return forget


def found(ask):
    with pytest.raises(InputError) as caught:
        ask()
    (problem,) = caught.value.problems
    assert problem.key in ("model", "data.source.type")
    return problem.message


@pytest.mark.parametrize("name", ASKING)
def test_an_absent_package_names_the_pip_line(name, unloaded, monkeypatch):
    package, (ask, install) = name.partition(",")[0], ASKING[name]
    if package == "onnxruntime":
        pytest.importorskip("onnx")
    unloaded(package)
    monkeypatch.setitem(sys.modules, package, None)
    assert found(ask) == f"needs {package}, which is not installed: pip install '{install}'"


@pytest.mark.parametrize("name", ASKING)
def test_a_package_that_does_not_import_is_told_too(name, unloaded, monkeypatch, tmp_path):
    package, (ask, install) = name.partition(",")[0], ASKING[name]
    if package == "onnxruntime":
        pytest.importorskip("onnx")
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise RuntimeError('no operator nms')")
    unloaded(package)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    message = found(ask)
    assert (
        f"{package}, which is installed and cannot be imported (RuntimeError: no operator nms)"
        in message
    )
    assert message.endswith(f"pip install '{install}'")


def test_what_a_package_lacks_is_named(monkeypatch, tmp_path):
    (tmp_path / "raykd_test_lacking.py").write_text("import raykd_test_absent.part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        InputError, match=r"^k: needs raykd_test_lacking, which lacks .* raykd_test_absent: pip"
    ):
        load_package("raykd_test_lacking", install="raykd[x]", key="k")


def test_optuna_is_asked_for_before_anything_starts(tiny_recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    tiny_recipe["search"] = {
        "metric": "accuracy",
        "trials": 4,
        "searcher": {"type": "optuna"},
        "scheduler": {"type": "none"},
        "parameters": {"student.model.width": {"space": "uniform", "lower": 0.1, "upper": 0.5}},
    }
    with pytest.raises(InputError) as caught:
        check_search(load_config(tiny_recipe))
    assert {p.key: p.message for p in caught.value.problems} == {
        "search.searcher.type": "optuna is not installed; pip install 'raykd[optuna]', or use random"
    }
