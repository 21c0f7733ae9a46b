"""What is left out of an answer, what that costs, and who may not read it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raykd.config import load_config
from raykd.config.check_targets import needed_temperatures, top_k_problems
from raykd.ensemble.sparse import mixture
from raykd.errors import InputError, TargetError
from raykd.losses import LOSSES
from raykd.losses.sparse import kl
from raykd.pipeline.preparation import prepare
from raykd.targets import EntryKey, codec
from raykd.targets.packing import Packing, encode_few, packed_shape
from raykd.targets.shards import map_shard, write_shard
from raykd.teachers.model import Recorded, TeacherModel, host
from raykd.top_k import dense, take, tempered

TOP = Packing(top_k=32, temperatures=(1.0, 4.0))
ROWS = 4096


def logits_of(rows=256, classes=1000, scale=4.0, seed=0):
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * scale


def read(logits, temperature, packing=TOP):
    return codec.decode(codec.encode(logits, {}, packing=packing), temperature).values_NC


def softmax(logits, temperature):
    return (logits.double() / temperature).softmax(1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("scale", [0.1, 4.0, 40.0])
@pytest.mark.parametrize("classes", [40, 1000, 70_000])
def test_the_kept_are_right_and_the_rest_is_even(classes, scale, temperature):
    logits = logits_of(16, classes, scale)
    full = softmax(codec.decode(codec.encode(logits, {})).values_NC, temperature)
    read_NC = read(logits, temperature)
    found = softmax(read_NC, temperature)
    kept_NK = logits.topk(32).indices
    torch.testing.assert_close(
        found.gather(1, kept_NK), full.gather(1, kept_NK), rtol=2e-5, atol=1e-7
    )
    rest = found.scatter(1, kept_NK, 0.0)
    torch.testing.assert_close(
        rest.sum(1), full.scatter(1, kept_NK, 0.0).sum(1), rtol=1e-4, atol=1e-9
    )
    spread = rest.amax(1) / rest.sum(1).clamp(min=1e-300) * (classes - 32)
    assert (spread[rest.sum(1) > 1e-12] < 1.01).all()
    assert torch.equal(read_NC.argmax(1), logits.argmax(1))


def test_a_small_rest_keeps_its_digits():
    logits = torch.full((1, 1000), -20.0)
    logits[0, :32] = torch.arange(32.0, 0, -1)
    rest = softmax(read(logits, 1.0), 1.0)[0, 32:].sum()
    expected = softmax(codec.decode(codec.encode(logits, {})).values_NC, 1.0)[0, 32:].sum()
    assert expected < 1e-18
    assert rest.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("classes", "dtype"), [(1000, "uint16"), (65_536, "uint16"), (65_537, "uint32")]
)
def test_classes_are_numbered_in_as_few_bytes_as_will_do(classes, dtype):
    logits = torch.zeros(1, classes)
    logits[0, -1] = 3.0
    arrays = codec.encode(logits, {}, packing=TOP)
    assert arrays[f"class_of.{classes}"].dtype == dtype
    assert codec.decode(arrays).values_NC.argmax() == classes - 1


def test_a_student_s_loss_and_gradient_are_nearly_those_of_all_classes():
    """At T = 4 with 6 % of the mass left out: KL's gradient is right on every kept class."""
    teacher, student = logits_of(scale=6.0), logits_of(seed=1).requires_grad_()
    rest = 1 - softmax(teacher, 4.0).topk(32).values.sum(1)
    gradients = {}
    for name, target in (("all", teacher), ("kept", read(teacher, 4.0))):
        LOSSES["kl"](student, target, temperature=4.0).mean().backward()
        gradients[name], student.grad = student.grad, None
    away = (gradients["all"] - gradients["kept"]).abs() * len(teacher)
    kept_NK = teacher.topk(32).indices
    assert away.gather(1, kept_NK).max() < 2e-3, "float16 rounding"
    assert (away.sum(1) <= 4.0 * 2 * rest + 0.05).all(), "no more than the rest, moved"


def test_bytes_of_a_thousand_classes(tmp_path):
    """Top-32: below a twelfth of full. Full: at most 1.02 of its float16 numbers."""
    ids, hashes = np.arange(ROWS), np.arange(ROWS, dtype=np.uint64)
    sizes = {}
    for name, packing in (("full", codec.PLAIN), ("top", TOP)):
        arrays = codec.encode(logits_of(ROWS), {}, packing=packing)
        shard = write_shard(tmp_path, 0, {"ids": ids, "hashes": hashes, **arrays}, {"teacher": "a"})
        sizes[name] = (tmp_path / shard.file).stat().st_size
        mapped = map_shard(tmp_path, shard)
        assert all(
            np.array_equal(mapped[n], a) and mapped[n].dtype == a.dtype for n, a in arrays.items()
        )
    assert sizes["top"] <= sizes["full"] / 12
    assert sizes["full"] <= 1.02 * ROWS * 1000 * 2


@pytest.mark.parametrize("mass", [None, 0.9])
def test_the_few_are_read_without_making_all_classes(mass):
    """What is read equals what is read with all classes, at every temperature that is kept."""
    packing = Packing(top_k=32, temperatures=(1.0, 4.0), mass=mass)
    arrays = codec.encode(logits_of(50, 700), {"a": torch.ones(50, 3)}, packing=packing)
    few = codec.decode_few(arrays)
    assert few.features["a"].shape == (50, 3)
    for temperature in packing.temperatures:
        spread = dense(tempered(few, temperature)).exp()
        read = softmax(codec.decode(arrays, temperature).values_NC, temperature)
        torch.testing.assert_close(spread.double(), read, rtol=1e-4, atol=1e-7)
    counts = (few.log_probs_NK > -torch.inf).sum(1)
    assert (counts == 32).all() if mass is None else (1 <= counts.min() < counts.max() <= 32)
    if mass is not None:
        enough = few.log_probs_NK.exp().sum(1) >= mass
        assert (enough | (counts == 32)).all()
        assert enough.any()


def test_the_few_are_those_of_the_logits():
    arrays = codec.encode(logits_of(50, 700), {}, packing=TOP)
    exact = take(logits_of(50, 700), 32, temperatures=(4.0,))
    found = codec.decode_few(arrays)
    assert torch.equal(found.ids_NK, exact.ids_NK)
    torch.testing.assert_close(found.log_probs_NK, exact.log_probs_NK, rtol=0, atol=0.02)
    for temperature, tail_N in exact.tail.items():
        torch.testing.assert_close(found.tail[temperature], tail_N, rtol=0, atol=0.01)


def test_the_few_of_a_shard_without_temperature_one_are_refused():
    arrays = codec.encode(logits_of(2), {}, packing=Packing(2, (4.0,)))
    with pytest.raises(TargetError, match="at temperature 4, not at 1"):
        codec.decode_few(arrays)


@pytest.mark.parametrize(("rows", "classes"), [(50, 700), (17, 70_000)])
def test_in_chunks_the_bits_are_those_of_all_rows_at_once(rows, classes):
    logits = logits_of(rows, classes).round()  # with ties
    arrays = codec.encode(logits, {}, packing=TOP)
    shifted = (logits - logits.amax(1)[:, None]).half()
    kept_NK = logits.topk(32, dim=1).indices
    assert np.array_equal(arrays["kept"], shifted.gather(1, kept_NK).numpy())
    assert np.array_equal(arrays[f"class_of.{classes}"], kept_NK.numpy())
    others = shifted.double().scatter_(1, kept_NK, -torch.inf)
    for temperature in TOP.temperatures:
        tail = (others / temperature).logsumexp(1).float().numpy()
        assert np.array_equal(arrays[f"tail.{temperature:g}"], tail)


def test_another_temperature_is_refused():
    with pytest.raises(
        TargetError, match=r"at temperature 1, 4, not at 3; list it under targets\.temp"
    ):
        read(logits_of(2), 3.0)
    assert read(logits_of(2), 0.1 * 3, Packing(2, (0.3,))).shape == (2, 1000)


def test_encodings_never_mix():
    packings = [
        codec.PLAIN,
        TOP,
        Packing(16, (1.0, 4.0)),
        Packing(32, (1.0,)),
        Packing(32, (1.0, 2.0)),
        Packing(32, (1.0, 2.0), mass=0.9),
    ]
    names = {codec.version("logits", packing) for packing in packings}
    assert len(names) == len({EntryKey("a", "b", codec=n).folder for n in names}) == len(packings)
    forms = [Packing(features=form) for form in ("raw", "pooled", "int8")]
    assert len({codec.feature_version(packing) for packing in forms}) == len(forms)


def test_live_and_in_any_company_the_same_bits(samples, make_spec):
    """One codec for actors, the store and this process; untransformed samples keep all classes."""
    packing = Packing(top_k=2, temperatures=(1.0, 4.0), features="int8")
    teacher = TeacherModel(make_spec("cnn", taps=("blocks.0",), packing=packing))
    rows = np.arange(50)
    whole = teacher.score(samples, rows, np.full(50, 1))
    order = np.random.default_rng(0).permutation(50)
    shuffled = teacher.score(samples, order, np.full(50, 1))
    assert whole.keys() == {
        "kept", "offset", "class_of.3", "tail.1", "tail.4", "feature.blocks.0", "scale.blocks.0"
    }  # fmt: skip
    assert all(np.array_equal(whole[n][order], shuffled[n]) for n in whole)
    original = teacher.score(samples, rows, np.full(50, -1))
    assert {"values", "offset"} < original.keys()


def test_recorded_outputs_go_through_it_too(make_samples):
    samples = make_samples()
    said = torch.randn(len(samples), 3).numpy()
    teacher = host(Recorded(name="known", logits_NC=said, packing=Packing(2, (1.0,))))
    rows = np.arange(5)
    assert "kept" in teacher.score(samples, rows, np.zeros(5, np.int64))
    assert "values" in teacher.score(samples, rows, np.full(5, -1))


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e6])
def test_int8_is_right_to_half_a_step(scale):
    feature = torch.randn(8, 3, 4, 4) * scale
    arrays = codec.encode(torch.zeros(8, 2), {"a": feature}, packing=Packing(features="int8"))
    assert arrays["feature.a"].dtype == np.int8
    kept = codec.decode(arrays).features["a"]
    step = feature.flatten(1).abs().amax(1).view(-1, 1, 1, 1) / 127
    assert ((kept - feature).abs() <= step * 0.5001).all()
    assert arrays["feature.a"].nbytes + arrays["scale.a"].nbytes <= 0.55 * feature.numel() * 2


@pytest.mark.parametrize(("shape", "dims"), [((5, 4, 3), (2, 3)), ((7, 5), (1,)), ((5,), ())])
def test_pooled_is_the_mean_over_positions(shape, dims):
    feature = torch.randn(6, *shape)
    arrays = codec.encode(torch.zeros(6, 2), {"a": feature}, packing=Packing(features="pooled"))
    expected = feature.mean(dims) if dims else feature
    assert arrays["feature.a"].shape == (6, *packed_shape(shape, "pooled")) == (6, 5)
    torch.testing.assert_close(codec.decode(arrays).features["a"], expected, rtol=1e-3, atol=1e-4)


def test_by_mass_as_few_are_kept_as_have_it():
    logits, packing = logits_of(64, 100), Packing(top_k=32, temperatures=(1.0,), mass=0.9)
    found = codec.decode_few(codec.encode(logits, {}, packing=packing))
    expected = take(logits.double(), 32, mass=0.9)
    assert torch.equal(found.ids_NK, expected.ids_NK)
    assert (found.log_probs_NK == -torch.inf).any(), "some need fewer than 32"
    torch.testing.assert_close(
        found.log_probs_NK.exp(), expected.log_probs_NK.exp().float(), rtol=2e-3, atol=1e-6
    )
    assert codec.version("logits", packing) == "logits16-top32-mass0.9-at-1-v1"
    cut = encode_few(take(logits, 32), packing)
    assert (cut["kept"] > -np.inf).sum() == (found.log_probs_NK > -torch.inf).sum()


DRAWN = Packing(draws=12)


def shares(arrays, rows, classes):
    answer = codec.decode_few(arrays)
    assert answer.tail is None
    spread = torch.zeros(rows, classes)
    return spread.scatter_add_(1, answer.ids_NK, answer.log_probs_NK.exp())


def test_drawn_classes_have_their_probability_in_the_mean():
    """So has the gradient of a KL from a mean of teachers; that of the likeliest classes alone has not."""
    rows, classes = 20_000, 9
    one, other = logits_of(2, classes, 2.0)[:, None].expand(2, rows, classes)
    p = 0.5 * (softmax(one, 1.0) + softmax(other, 1.0))
    drawn = [
        codec.encode(values, {}, packing=DRAWN, numbers_N=np.arange(rows, dtype=np.uint64) + 10**9 * k)
        for k, values in enumerate((one, other))
    ]  # fmt: skip
    answers = [tempered(codec.decode_few(arrays)) for arrays in drawn]
    mixed = mixture(answers, torch.full((2, rows), 0.5))
    student = torch.zeros(rows, classes, dtype=torch.float64, requires_grad=True)
    kl(student, mixed).sum().backward()
    expected = student.detach().softmax(1) - p
    deviation = (student.grad - expected).std(0) / rows**0.5
    assert ((student.grad - expected).mean(0).abs() < 5 * deviation + 1e-12).all()
    assert deviation.min() > 0


def test_draws_are_those_of_the_unit_whatever_the_batch():
    logits, numbers = logits_of(40, 300), np.arange(40, dtype=np.uint64) * 77
    whole = codec.encode(logits, {}, packing=DRAWN, numbers_N=numbers)
    assert codec.version("logits", DRAWN) == "draws12-v1"
    assert whole["drawn_of.300"].dtype == np.uint16
    assert whole["drawn_of.300"].nbytes == 40 * 12 * 2
    order = np.random.default_rng(0).permutation(40)[:11]
    part = codec.encode(logits[order], {}, packing=DRAWN, numbers_N=numbers[order])
    assert np.array_equal(part["drawn_of.300"], whole["drawn_of.300"][order])
    found = shares(whole, 40, 300)
    torch.testing.assert_close(found.sum(1), torch.ones(40))
    torch.testing.assert_close(found * 12, (found * 12).round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("objective.weighting={type: bayesian}", "objective.weighting.type"),
        ("objective.weighting={type: agreement}", "objective.weighting.type"),
        ("objective.soft_targets.loss.type=reverse_kl", "objective.soft_targets.loss.type"),
        ("objective.soft_targets.temperature=2", "objective.soft_targets.temperature"),
        ("objective.soft_targets.top_k=3", "objective.soft_targets.top_k"),
        ("objective.soft_targets.tail=false", "objective.soft_targets.tail"),
        ("objective.soft_targets.sharpen=0.5", "objective.soft_targets.sharpen"),
        ("evaluate.controls=[hard]", "evaluate.controls"),
        ("targets.mass=0.9", "targets.mass"),
    ],
)
def test_what_is_not_linear_in_the_probabilities_is_refused_of_draws(override, key):
    given = ["targets.draws=12", "evaluate.controls=[]", "objective.weighting={type: uniform}"]
    load_config("lm_domains", given)
    with pytest.raises(InputError, match="draws=12") as caught:
        load_config("lm_domains", [*given, override])
    assert key in {problem.key for problem in caught.value.problems}


def test_only_tokens_are_drawn():
    with pytest.raises(InputError, match=r"targets.draws: found 5 with `task: classification`"):
        load_config("digits", ["targets.draws=5"])


def problems(*overrides, recipe="digits"):
    config = load_config(recipe, [*overrides, "targets.full_up_to=5", "targets.top_k=3"])
    return {problem.key: str(problem) for problem in top_k_problems(config, 10)}


@pytest.mark.parametrize(
    ("overrides", "key", "says"),
    [
        (["objective.soft_targets.loss.type=mse"], "objective.soft_targets.loss", "mse needs every"),
        (["objective.soft_targets.loss.type=dist"], "objective.soft_targets.loss", "use kl, js"),
        (["objective.soft_targets.loss.type=reverse_kl"], "objective.soft_targets.loss", "reverse_kl"),
        (["objective.soft_targets.loss={type: kl, standardise: true}"], "objective.soft_targets.loss",
         "standardised logits"),
        (["objective.soft_targets.combine=logits"], "objective.soft_targets.combine", "probabilities"),
        (["objective.soft_targets.combine=probabilities_then_temper"], "objective.soft_targets.combine",
         "losses"),
        (["objective.soft_targets.temperature={type: linear, from: 8, to: 2, epochs: 3}"],
         "objective.soft_targets.temperature", "goes through 2, 8"),
        (["objective.phases=[{until_epoch: 2, soft_targets: {temperature: 9}}]"],
         "objective.soft_targets.temperature", "goes through 4, 9"),
        (["objective.weighting={type: entropy}"], "objective.weighting.type", "entropy needs"),
        (["objective.weighting={type: confidence}"], "objective.weighting.type", "temperature 1"),
        (["objective.soft_targets.disagreement={type: discount}"],
         "objective.soft_targets.disagreement", "temperature=1"),
        (["objective.labels.fill=ensemble"], "objective.labels.fill", "temperature=1"),
        (["teachers.0.temperature=fit"], "teachers.", "found fit"),
        (["targets.temperatures=[2]"], "targets.temperatures", "lacks 4"),
    ],
)  # fmt: skip
def test_what_needs_every_class_is_refused(overrides, key, says):
    found = problems("objective.soft_targets.temperature=4", *overrides)
    (name,) = [name for name in found if name.startswith(key)]
    assert says in found[name]
    assert "full_up_to" in found[name]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["objective.soft_targets.loss.type=dkd", "objective.soft_targets.combine=null"],
        ["objective.soft_targets.loss.type=js", "objective.soft_targets.combine=null"],
        ["objective.weighting={type: gradient}"],
        ["objective.weighting={type: agreement}"],
        ["objective.weighting={type: confidence}", "objective.soft_targets.temperature=1"],
        ["objective.labels.fill=ensemble", "objective.soft_targets.temperature=1"],
        ["objective.soft_targets=null", "objective.labels.fill=ensemble"],
        ["targets.temperatures=[2, 4]", "objective.soft_targets.temperature=2"],
        ["objective.soft_targets.temperature={type: constant, value: 3}"],
    ],
)
def test_what_the_largest_logits_are_enough_for(overrides):
    assert problems(*overrides) == {}


def test_all_temperatures_of_an_objective_are_kept():
    config = load_config(
        "digits", ["objective.soft_targets.temperature=4", "teachers.0.temperature=1.5"]
    )
    needed = [needed_temperatures(config, [config.objective], t) for t in config.teachers]
    assert needed[0] == {6.0, 1.5}
    assert needed[1] == {4.0, 1.0}


def test_pooled_features_are_refused_where_a_loss_compares_positions():
    term = "{loss: {type: %s}, teacher: wide, student_tap: blocks.0, teacher_tap: layer2}"
    for loss, refused in (
        ("attention", True),
        ("nst", True),
        ("hint", False),
        ("similarity", False),
    ):
        overrides = [f"objective.features=[{term % loss}]", "targets.features=pooled"]
        try:
            load_config("digits", overrides)
            found = ""
        except InputError as error:
            found = str(error)
        assert ("targets.features=pooled keeps the mean alone" in found) == refused, loss


def test_a_recipe_is_refused_before_anything_starts(tiny_recipe):
    """How many classes there are is known once the data is read; every problem is named at once."""
    few = ["targets.full_up_to=5", "targets.top_k=3", "objective.soft_targets.temperature=4"]
    wrong = [*few, "objective.soft_targets.loss.type=mse", "teachers.wide.temperature=fit"]
    with pytest.raises(InputError) as caught:
        prepare(load_config(tiny_recipe, wrong))
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {"objective.soft_targets.loss", "teachers.wide.temperature"}
    prepared = prepare(load_config(tiny_recipe, few))
    assert prepared.teachers["wide"].packing == Packing(3, (1.0, 4.0))
    assert prepare(load_config(tiny_recipe)).teachers["wide"].packing == codec.PLAIN
    answer = prepared.teachers["wide"].empty_answer(prepared.samples)
    assert sum(array.nbytes for array in answer.values()) == 3 * (2 + 2) + 4 + 2 * 4
