"""A frozen teacher in-process: its answers are a pure function of (sample, view)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from raykd.errors import TeacherError
from raykd.targets import codec
from raykd.targets.codec import decode
from raykd.teachers.actor import device_of
from raykd.teachers.model import Recorded, TeacherModel, host

MODELS = ["mlp", "cnn", "batch"]


def same(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


def ask(teacher, samples, rows, view=0):
    rows = np.asarray(rows)
    return teacher.score(samples, rows, np.broadcast_to(np.asarray(view), rows.shape))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_answer_does_not_depend_on_who_asked_with_whom(samples, make_spec, model, dtype):
    teacher = TeacherModel(make_spec(model, taps=("blocks.0",), dtype=dtype))
    rng = np.random.default_rng(0)
    rows, views = np.arange(50), rng.integers(0, 4, 50)
    whole = ask(teacher, samples, rows, views)
    order = rng.permutation(50)
    shuffled = ask(teacher, samples, rows[order], views[order])
    assert same({n: a[order] for n, a in whole.items()}, shuffled)
    for size in (1, 3, 8, 17):
        parts = [
            ask(teacher, samples, rows[i : i + size], views[i : i + size])
            for i in range(0, 50, size)
        ]
        assert same(whole, {n: np.concatenate([p[n] for p in parts]) for n in whole})


def test_every_forward_pass_has_the_one_shape(samples, make_spec):
    teacher = TeacherModel(make_spec(batch_size=8))
    shapes = []
    teacher.network.register_forward_pre_hook(
        lambda module, args: shapes.append(len(next(iter(args[0].values()))))
    )
    for count in (1, 8, 19):
        assert len(ask(teacher, samples, range(count))["values"]) == count
    assert shapes == [8] * (1 + 1 + 3)


def test_views_differ_and_originals_are_untransformed(samples, make_spec):
    teacher = TeacherModel(make_spec("raykd_test_models:linear", dtype="float32"))
    rows = np.arange(20)
    by_view = [decode(ask(teacher, samples, rows, view)).values_NC for view in (-1, 0, 1)]
    assert not torch.equal(by_view[0], by_view[1])
    assert not torch.equal(by_view[1], by_view[2])
    inputs = teacher.spec.preprocessing(torch.from_numpy(samples.inputs["inputs"][rows].copy()))
    expected = teacher.network.model(inputs).detach()
    torch.testing.assert_close(by_view[0], expected, rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("model", MODELS)
def test_frozen(samples, make_spec, model):
    teacher = TeacherModel(make_spec(model))
    before = {n: t.clone() for n, t in teacher.network.state_dict().items()}
    ask(teacher, samples, range(40))
    assert not any(module.training for module in teacher.network.modules())
    assert not any(p.requires_grad for p in teacher.network.parameters())
    after = teacher.network.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before), (
        "scoring moves no batch statistics"
    )


def test_the_weights_are_the_spec_s(samples, make_spec):
    one, other = make_spec(seed=1), make_spec(seed=2)
    rows = range(10)
    assert not same(ask(TeacherModel(one), samples, rows), ask(TeacherModel(other), samples, rows))
    torch.manual_seed(77)
    swapped = replace(one, weights=other.weights)
    assert same(ask(TeacherModel(swapped), samples, rows), ask(TeacherModel(other), samples, rows))


def test_features_are_those_of_the_tapped_module(samples, make_spec):
    teacher = TeacherModel(make_spec("cnn", taps=("blocks.0", "blocks.1")))
    arrays = ask(teacher, samples, range(11))
    assert arrays["feature.blocks.0"].shape == (11, 8, 8, 8)
    assert arrays["feature.blocks.1"].shape == (11, 16, 4, 4)
    inputs = samples.batch(np.arange(8), 0).inputs
    with torch.no_grad():
        prepared = teacher.spec.preprocessing(inputs["inputs"])
        feature = teacher.network.model.blocks[0](prepared)
    np.testing.assert_array_equal(arrays["feature.blocks.0"][:8], feature.half().numpy())


def test_probabilities_become_logits(samples, make_spec):
    rows = range(30)
    logits = decode(
        ask(TeacherModel(make_spec("raykd_test_models:linear")), samples, rows)
    ).values_NC
    spec = make_spec("raykd_test_models:probabilities", kind="probabilities")
    probs = decode(ask(TeacherModel(spec), samples, rows)).values_NC
    torch.testing.assert_close(probs.softmax(1), logits.softmax(1), rtol=5e-3, atol=1e-4)
    assert torch.isfinite(probs).all(), "a probability of 0 must not become minus infinity"


@pytest.mark.parametrize(
    ("label_map", "outputs"), [((2, 0, 1), 3), ((0, 1, 1, 2, 0), 5), ((2, 1, 0, 0, 0, 2), 6)]
)
def test_label_map(samples, make_spec, label_map, outputs):
    """Own classes in another order, or several of them for one of the data's."""
    spec = make_spec("mlp", outputs=outputs)
    raw = TeacherModel(replace(spec, classes=outputs))
    mapped = TeacherModel(replace(spec, label_map=label_map))
    z = decode(ask(raw, samples, range(20))).values_NC.double().numpy()
    found = decode(ask(mapped, samples, range(20))).values_NC.double().numpy()
    places = np.array(label_map)
    expected = np.stack([logsumexp(z[:, places == c], axis=1) for c in range(3)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=5e-3)


def test_nan_in_one_class_names_teacher_and_class(samples, make_spec):
    """At 7d0af11 the class was not named."""
    spec = make_spec("mlp")
    last = next(name for name in reversed(list(spec.weights)) if name.endswith("bias"))
    spec.weights[last][2] = float("nan")
    with pytest.raises(
        TeacherError, match=r"'wide' answered NaN or infinity for its output 2 \(from 0"
    ):
        ask(TeacherModel(spec), samples, range(3))


def test_a_teacher_that_answers_nan(samples, make_spec):
    with pytest.raises(TeacherError, match="'wide' answered NaN or infinity for every class"):
        ask(TeacherModel(make_spec("raykd_test_models:broken")), samples, range(3))


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: replace(spec, weights={n: t + 1e-6 for n, t in spec.weights.items()}),
        lambda spec: replace(spec, label_map=(0, 2, 1)),
        lambda spec: replace(spec, dtype="bfloat16"),
        lambda spec: replace(spec, kind="probabilities"),
        lambda spec: replace(spec, batch_size=16),
        lambda spec: replace(spec, device="cuda"),
        lambda spec: replace(spec, preprocessing=replace(spec.preprocessing, scale=2.0)),
        lambda spec: replace(spec, model=spec.model.model_copy(update={"depth": 2})),
    ],
)
def test_the_fingerprint_changes_with_all_that_an_answer_depends_on(make_spec, change):
    spec = make_spec()
    assert change(spec).fingerprint != spec.fingerprint
    assert replace(spec, name="other", key="k", taps=("blocks.0",)).fingerprint == spec.fingerprint


def test_the_fingerprint_is_the_same_whatever_computes_it(make_spec, monkeypatch):
    """A driver with a GPU and one without read the same stored targets."""
    spec = make_spec()
    found = {}
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        found[there] = (spec.fingerprint, replace(spec, device="cuda").fingerprint)
    assert found[False] == found[True]
    assert len(set(found[True])) == 2


def test_a_teacher_runs_where_its_fingerprint_says(make_spec, monkeypatch):
    spec, on_gpu = make_spec(), make_spec(device="cuda")
    recorded = Recorded(name="known", logits_NC=np.zeros((1, 3), np.float32))
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device_of(spec, gpus=1).type == "cpu"
        assert device_of(recorded, gpus=0).type == "cpu"
        with pytest.raises(TeacherError, match=r"'wide' is placed on a GPU, .* given 0"):
            device_of(on_gpu, gpus=0)
    assert device_of(on_gpu, gpus=1).type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # logical GPUs, as of cluster/local
    assert device_of(on_gpu, gpus=0).type == "cpu"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(TeacherError, match="CUDA is missing"):
        device_of(on_gpu, gpus=1)


def test_teacher_and_student_see_the_identical_pixels(samples, make_spec, tmp_path):
    """Rule 1: a teacher that records its input, against the batch that the student is given."""
    from raykd.config.models import FactoryModel
    from raykd.models.preprocess import IDENTITY

    folder = tmp_path / "seen"
    model = FactoryModel(path="raykd_test_models:recorder", kwargs={"folder": str(folder)})
    teacher = TeacherModel(make_spec(model, preprocessing=IDENTITY, batch_size=16))
    rng = np.random.default_rng(1)
    rows, views = rng.permutation(100)[:16], rng.integers(-1, 4, 16)
    for path in folder.glob("*.npy"):
        path.unlink()
    ask(teacher, samples, rows, views)
    (path,) = folder.glob("*.npy")
    student = samples.batch(rows, views).inputs["inputs"].numpy()
    np.testing.assert_array_equal(np.load(path), student)
    assert not np.array_equal(student, samples.inputs["inputs"][rows]), "views change something"


def test_recorded_outputs(make_samples):
    samples = make_samples()
    logits = np.random.default_rng(0).normal(size=(len(samples), 3)).astype(np.float32)
    teacher = host(Recorded(name="known", logits_NC=logits))
    rows = np.array([9, 0, 9])
    found = teacher.score(samples, rows, np.full(3, -1))
    assert same(found, codec.encode(torch.from_numpy(logits[rows]), {}))
    assert same(found, teacher.score(samples, rows, np.zeros(3, np.int64))), "view 0 of no policy"
    logits[4] = np.nan
    with pytest.raises(TeacherError, match=f"no outputs for sample id {samples.ids[4]}"):
        teacher.score(samples, np.array([4]), np.array([-1]))


def test_recorded_outputs_say_nothing_of_a_transformed_sample(samples):
    teacher = host(Recorded(name="known", logits_NC=np.zeros((len(samples), 3), np.float32)))
    with pytest.raises(TeacherError, match="untransformed samples only"):
        teacher.score(samples, np.arange(2), np.zeros(2, np.int64))


def test_the_fingerprint_of_recorded_outputs_is_theirs():
    logits = np.zeros((4, 3), np.float32)
    changed = logits.copy()
    changed[2, 1] = 1e-6
    one = Recorded(name="a", logits_NC=logits).fingerprint
    assert one == Recorded(name="b", logits_NC=logits.copy()).fingerprint
    assert one != Recorded(name="a", logits_NC=changed).fingerprint
