"""A loss or weighting is one function and one row: settings, unions, registry and tables follow."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from raykd.config import methods
from raykd.config.methods import FeatureLoss, LabelLoss, SoftLoss, Weighting
from raykd.ensemble import WEIGHTINGS
from raykd.ensemble.common import Common
from raykd.losses import LOSSES
from raykd.methods import LOSS_ROWS, WEIGHTING_ROWS, feature_losses, soft_losses

STORED_LOSSES = {
    "kl": '{"type": "kl", "standardise": false}',
    "reverse_kl": '{"type": "reverse_kl", "standardise": false}',
    "js": '{"type": "js", "standardise": false, "beta": 0.5}',
    "skew_kl": '{"type": "skew_kl", "standardise": false, "alpha": 0.1}',
    "mse": '{"type": "mse", "standardise": false, "centred": false}',
    "dkd": '{"type": "dkd", "standardise": false, "alpha": 1.0, "beta": 8.0}',
    "dist": '{"type": "dist", "standardise": false, "beta": 2.0, "gamma": 2.0, "scope": "global"}',
    "ttm": '{"type": "ttm", "gamma": 0.1}',
    "wttm": '{"type": "wttm", "gamma": 0.1}',
    "nkd": '{"type": "nkd", "gamma": 1.5}',
    "mlkd_class": '{"type": "mlkd_class", "standardise": false, "per_sample": false, "scope": "global"}',
    "mlkd_batch": '{"type": "mlkd_batch", "standardise": false, "scope": "global"}',
    "uld": '{"type": "uld", "standardise": false}',
    "huber": '{"type": "huber", "delta": 1.0}',
    "bounded": '{"type": "bounded", "margin": 0.0}',
    "imitation": '{"type": "imitation", "alpha": 0.5, "error_range": null}',
    "bernoulli_kl": '{"type": "bernoulli_kl"}',
    "gaussian_kl": '{"type": "gaussian_kl"}',
    "huber_means": '{"type": "huber_means", "delta": 1.0}',
    "dense_boxes": '{"type": "dense_boxes", "beta": 1.0, "box_weight": 2.0, "localisation": 0.0, "edge_temperature": 10.0}',
    "fused_boxes": '{"type": "fused_boxes", "beta": 2.0, "box_weight": 2.0, "bin_weight": 0.25, "threshold": 0.3, "iou": 0.55, "suppression": "hard"}',
    "hint": '{"type": "hint"}',
    "attention": '{"type": "attention"}',
    "attention_matrix": '{"type": "attention_matrix"}',
    "nst": '{"type": "nst"}',
    "fsp": '{"type": "fsp"}',
    "vid": '{"type": "vid", "initial_variance": 5.0}',
    "cosine": '{"type": "cosine", "standardise": true, "momentum": 0.001, "flatten": false}',
    "smooth_l1": '{"type": "smooth_l1", "standardise": true, "momentum": 0.001, "beta": 1.0}',
    "cosine_smooth_l1": '{"type": "cosine_smooth_l1", "share": 0.5, "beta": 1.0}',
    "similarity": '{"type": "similarity", "scope": "global"}',
    "rkd_distance": '{"type": "rkd_distance", "scope": "global"}',
    "rkd_angle": '{"type": "rkd_angle", "scope": "global"}',
    "pkt": '{"type": "pkt", "scope": "global"}',
    "itrd": '{"type": "itrd", "alpha": 1.5, "scope": "global"}',
    "itrd_mutual": '{"type": "itrd_mutual", "scope": "global"}',
    "cwd": '{"type": "cwd", "tau": 1.0}',
    "pkd": '{"type": "pkd", "scope": "global"}',
    "token_similarity": '{"type": "token_similarity", "tau": 0.07}',
    "srrl": '{"type": "srrl", "alpha": 1.0, "beta": 5.0}',
    "simkd": '{"type": "simkd"}',
}
"""What the settings of each loss have been stored as, the oldest since 7d0af11; finished fits are found by it."""
STORED_WEIGHTINGS = {
    "uniform": '{"type": "uniform"}',
    "fixed": '{"type": "fixed", "weights": {"a": 1.0, "b": 2.0}}',
    "accuracy": '{"type": "accuracy", "power": 1.0}',
    "inverse_error": '{"type": "inverse_error"}',
    "stacking": '{"type": "stacking", "prior": 500.0}',
    "entropy": '{"type": "entropy", "temperature": 1.0, "paper_code_scale": false}',
    "confidence": '{"type": "confidence", "unlabelled": "uniform", "paper_code_scale": false}',
    "gradient": '{"type": "gradient", "tolerance": 0.6, "gram": "per_sample"}',
    "agreement": '{"type": "agreement"}',
    "bayesian": '{"type": "bayesian", "forgetting": 1.0, "prior": null}',
    "routed": '{"type": "routed"}',
    "sample": '{"type": "sample", "per": "sample", "probabilities": null}',
    "drop": '{"type": "drop", "probability": 0.5}',
}


def made(name: str) -> Any:
    """The settings of a loss or weighting with nothing given but what has to be."""
    if name in WEIGHTING_ROWS:
        given = {"weights": {"a": 1, "b": 2}} if name == "fixed" else {}
        return methods.WEIGHTINGS[name](**given)
    return methods.LOSSES[name]()


@pytest.mark.parametrize(
    ("name", "stored"), [*STORED_LOSSES.items(), *STORED_WEIGHTINGS.items()], ids=lambda x: x[:12]
)
def test_settings_are_stored_as_before(name, stored):
    assert json.dumps(made(name).model_dump(mode="json")) == stored
    assert made(name).model_dump_json() == stored.replace(": ", ":").replace(", ", ",")


def test_every_row_is_held_by_what_is_stored():
    assert set(STORED_LOSSES) == set(LOSS_ROWS)
    assert set(STORED_WEIGHTINGS) == set(WEIGHTING_ROWS)


def test_unions_have_the_rows_in_order():
    def names(union):
        return tuple(one.model_fields["type"].default for one in get_args(get_args(union)[0]))

    assert names(SoftLoss) == soft_losses()
    assert names(FeatureLoss) == feature_losses()
    assert names(Weighting) == tuple(WEIGHTING_ROWS)
    assert names(LabelLoss) == ("mse", "huber")
    assert set(soft_losses()) | set(feature_losses()) == set(LOSS_ROWS)


@pytest.mark.parametrize("name", [*LOSS_ROWS, *WEIGHTING_ROWS])
def test_a_row_is_true_of_its_function(name):
    row = LOSS_ROWS.get(name) or WEIGHTING_ROWS[name]
    function = (LOSSES | WEIGHTINGS)[name]
    module, _, own = row.path.partition(":")
    assert (function.__module__, function.__name__, own) == (module, own, name)
    parameters = inspect.signature(function).parameters
    for knob_name, knob in row.knobs.items():
        if knob.argument:
            assert parameters[knob_name].default == knob.default
    optional = set(parameters) | set(Common.__annotations__) | {"labels"}
    supplied = {*row.needs, *getattr(row, "supplied", ())}
    assert supplied <= optional
    given = supplied | set(row.knobs) | {"student", "teacher", "logits_TNC", "labels_N", "more"}
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in given]
    assert not missing, "nobody supplies it"


@pytest.mark.parametrize("name", [*LOSS_ROWS, *WEIGHTING_ROWS])
def test_bounds_and_choices_of_a_row_are_kept(name):
    row = LOSS_ROWS.get(name) or WEIGHTING_ROWS[name]
    settings = type(made(name))
    assert settings.model_fields["type"].default == name
    assert settings.__doc__ == row.about
    for knob_name, knob in row.knobs.items():
        assert settings.model_fields[knob_name].description == knob.doc
        wrong: list[Any] = ["no such text", -1e9, 1e9] if knob.choices else []
        wrong += [limit for limit in (knob.gt, knob.lt) if limit is not None]
        wrong += [knob.ge - 1e-6] if knob.ge is not None else []
        wrong += [knob.le + 1e-6] if knob.le is not None else []
        if not knob.choices and not isinstance(knob.default, bool):
            wrong.append(True)
        for value in wrong:
            with pytest.raises(ValidationError):
                settings(**{knob_name: {"a": value} if knob.per_teacher else value})


@pytest.mark.parametrize("name", [*LOSS_ROWS, *WEIGHTING_ROWS])
def test_settings_can_be_pickled(name):
    assert ForkingPickler.loads(ForkingPickler.dumps(made(name))) == made(name)


def test_rows_load_nothing_heavy():
    code = (
        "import sys, raykd.methods; "
        "print([m for m in ('torch', 'numpy', 'pydantic', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_new_method_is_one_function_and_one_row():
    script = Path(__file__).parent / "new_methods.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["dump"] == [
        {"type": "cubed", "strength": 3.0, "sign": "any"},
        {"type": "cubed_map", "strength": 2.0},
        {"type": "last", "share": 0.75},
    ]
    assert found["combine"] == "losses"
    assert found["weight"] == 7.0
    assert found["refused"] == {
        "objective.features.0.loss.strength": "input should be greater than 0; found 0",
        "objective.soft_targets.loss.strenght": "unknown key; did you mean 'strength'?; allowed here: "
        "sign, strength, type",
    }
    for term, expected in zip(found["terms"], found["expected"], strict=True):
        assert term == pytest.approx(expected)
    assert found["variant"] == "cubed+last"
    assert "| `cubed` | mean ‖s − t‖³ | nobody 1900 | 1 | yes |" in found["tables"]
    assert "| `last` | share for the last | nobody 1900 | - | yes |" in found["tables"]
    assert "CubedLoss" in found["schema"]
    assert "LastWeighting" in found["schema"]
