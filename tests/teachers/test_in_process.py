"""Teachers in the student's own process: the bits of the plain scoring function, and what they cannot do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from raykd.config import load_config
from raykd.config.models import FactoryModel
from raykd.config.optimizers import with_training_settings
from raykd.errors import InputError, TeacherError
from raykd.pipeline.placement import make_placement
from raykd.report.cost import in_students
from raykd.runtime import Resources
from raykd.targets.codec import decode
from raykd.targets.packing import Packing
from raykd.targets.shared import SharedSource
from raykd.teachers import InProcess, Recorded, TeacherModel
from raykd.teachers.actor import device_of
from raykd.teachers.quarantine import Tolerance
from raykd.types import ORIGINAL_VIEW

CPU = torch.device("cpu")
FORMS = ("raw", "pooled", "int8")


def hosting(specs, samples, heard, tolerance=None):
    specs = {spec.name: spec for spec in specs}
    return InProcess(specs, dict.fromkeys(specs, CPU), samples, heard, tolerance)


def collected(source, batch):
    return source.collect(source.submit(batch), 60)


def plain(spec, samples, batch):
    rows, view = batch.rows.numpy(), batch.view_B.numpy()
    return decode(TeacherModel(spec).score(samples, rows, view))


def same(one, other):
    return (
        one.values_NC.equal(other.values_NC)
        and one.valid_N.equal(other.valid_N)
        and one.features.keys() == other.features.keys()
        and all(one.features[tap].equal(other.features[tap]) for tap in one.features)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mixes", [False, True])
def test_the_bits_of_the_plain_scoring_function(make_samples, make_spec, heard, form, mixes):
    policy = [{"type": "shift", "pixels": 1}, *([{"type": "mixup", "alpha": 0.4}] * mixes)]
    samples = make_samples(*policy, count=4)
    packing = Packing(features=form)
    specs = [
        make_spec("mlp", data=samples),
        make_spec("cnn", data=samples, name="conv", taps=("blocks.0", "blocks.1"), packing=packing),
    ]
    source, rng = hosting(specs, samples, heard), np.random.default_rng(0)
    for size in (1, 8, 21):  # batches of the teachers are of 8
        rows = rng.permutation(samples.splits["train"])[:size]
        batch = samples.batch(rows, rng.integers(0, 4, size))
        answers = collected(source, batch)
        assert list(answers) == ["wide", "conv"]
        for spec in specs:
            assert same(answers[spec.name], plain(spec, samples, batch))
    held_out = samples.batch(samples.splits["test"][:5], ORIGINAL_VIEW)
    assert same(collected(source, held_out)["wide"], plain(specs[0], samples, held_out))


def test_a_student_can_learn_from_features_that_never_left_the_device(samples, make_spec, heard):
    source = hosting([make_spec("cnn", taps=("blocks.0",))], samples, heard)
    answer = collected(source, samples.batch(samples.splits["train"][:9], 0))["wide"]
    feature = answer.features["blocks.0"]
    assert not feature.is_inference(), "autograd keeps no inference tensors"
    student = torch.zeros_like(feature).requires_grad_()
    ((student - feature) * feature).sum().backward()
    assert student.grad.equal(feature)


def test_recorded_outputs_and_few_of_many_classes(samples, make_spec, heard):
    logits = np.random.default_rng(0).normal(size=(len(samples), 3)).astype(np.float32)
    few = make_spec("mlp", packing=Packing(2, (1.0,)))
    known = Recorded(name="known", logits_NC=logits)
    plainly = replace(samples, policy=())
    batch = plainly.batch(samples.splits["train"][:5], 0)
    answers = collected(hosting([known, few], plainly, heard), batch)
    said = torch.from_numpy(logits)[batch.rows]
    assert answers["known"].values_NC.sub(said).abs().max() < 4e-3, "float16"
    assert same(answers["wide"], plain(few, plainly, batch))


def test_nothing_is_computed_before_it_is_collected(samples, make_spec, heard, tmp_path):
    seen = tmp_path / "seen"
    kwargs = {"folder": str(seen), "classes": 3, "inputs": 64}
    spec = make_spec(FactoryModel(path="raykd_test_models:recorder", kwargs=kwargs))
    seen.mkdir(exist_ok=True)
    source = hosting([spec], samples, heard)
    tickets = [source.submit(samples.batch(samples.splits["train"][:3], view)) for view in (0, 1)]
    assert not list(seen.iterdir())
    for ticket in tickets:
        source.collect(ticket, 60)
    assert list(seen.iterdir())


def test_the_load_is_counted_and_shared_by_several_fits(samples, make_spec, heard):
    specs = [make_spec("mlp"), make_spec("cnn", name="conv")]
    shared = SharedSource(hosting(specs, samples, heard))
    first, second = shared.listener(0), shared.listener(1)
    assert first.exact
    assert second.exact
    shared.join(0)
    shared.join(1)
    for view in (0, 1, 2):
        batch = samples.batch(samples.splits["train"][:5], view)
        assert same(collected(first, batch)["wide"], collected(second, batch)["wide"])
    counters = np.array(first.counters())
    load = first.describe((2 * counters).tolist(), 1.0)  # two workers that did as much
    assert load["teacher_samples_scored"] == {"wide": 2 * 15, "conv": 2 * 15}, "once for both fits"
    busy, work = load["teacher_busy_fraction"]["conv"], load["teacher_work_s_per_step"]["conv"]
    assert work > 0
    assert busy == pytest.approx(work * 3 / 2), "three steps, two workers"
    assert load["teacher_batch_fill"] == {"wide": 5 / 8, "conv": 5 / 8}
    assert not any(first.counters()[:3])


def poisoned(make_spec):
    return make_spec(
        FactoryModel(path="raykd_test_models:poisoned", kwargs={"how": "raise"}), batch_size=32
    )


def test_a_sample_that_breaks_a_teacher_is_searched_for_and_answered_as_absent(
    samples, make_spec, heard, tmp_path
):
    rows = samples.splits["train"][:21]
    bad = rows[[4, 13]]
    images = samples.inputs["inputs"].copy()
    images[bad, :, 4, 4] = 1e4
    samples = replace(samples, inputs={"inputs": images}, policy=())
    spec, other = poisoned(make_spec), make_spec("cnn", name="conv", taps=("blocks.0",))
    tolerance = Tolerance(samples, 0.02, {"wide": tmp_path, "conv": tmp_path / "conv"})
    tapped = replace(spec, taps=("linear",))
    source = hosting([tapped, other], samples, heard, tolerance)
    answers = collected(source, samples.batch(rows, 0))
    assert (~answers["wide"].valid_N).nonzero().flatten().tolist() == [4, 13]
    assert answers["conv"].valid_N.all()
    good = np.delete(np.arange(21), [4, 13])
    alone = plain(tapped, samples, samples.batch(rows[good], 0))
    assert answers["wide"].values_NC[good].equal(alone.values_NC)
    assert answers["wide"].features["linear"][good].equal(alone.features["linear"])
    assert not answers["wide"].features["linear"][[4, 13]].any()
    assert heard.decisions() == ["quarantine"] * 2
    again = collected(hosting([spec], samples, heard, tolerance), samples.batch(rows, 0))
    assert (~again["wide"].valid_N).sum() == 2
    assert len(heard) == 2, "it was written down, and nobody looked for it again"
    strict = Tolerance(samples, 0.01)
    with pytest.raises(TeacherError, match="breaks on 2 of 144"):
        collected(hosting([spec], samples, heard, strict), samples.batch(rows, 0))
    with pytest.raises(TeacherError, match="'wide' failed"):
        collected(hosting([spec], samples, heard), samples.batch(rows, 0))


def test_a_full_device_is_no_fault_of_a_sample(samples, make_spec, heard, monkeypatch):
    source = hosting([make_spec("mlp")], samples, heard, Tolerance(samples, 0.5))

    def full(*_):
        raise torch.OutOfMemoryError("64 GiB")

    monkeypatch.setattr(TeacherModel, "here", full)
    with pytest.raises(TeacherError, match=r"lower teachers\.wide\.resources\.batch_size"):
        collected(source, samples.batch(samples.splits["train"][:9], 0))
    assert not heard


def test_a_teacher_of_a_gpu_is_not_hosted_without_one(make_spec):
    with pytest.raises(TeacherError, match="placed on a GPU"):
        device_of(make_spec("mlp", device="cuda"), 0)


INSIDE = "cluster.teachers.where=student"


@pytest.mark.parametrize(
    ("override", "key", "why"),
    [
        ("cluster.teachers.replicas=2", "cluster.teachers.replicas", "every teacher once"),
        ("cluster.teachers.gpus=1", "cluster.teachers.gpus", "cluster.student"),
        ("cluster.teachers.cpus=0.5", "cluster.teachers.cpus", "cluster.student"),
        ("cluster.teachers.on_failure=renormalise", "cluster.teachers.on_failure", "fails with"),
        ("teachers.wide.resources={replicas: 2}", "teachers.wide.resources.replicas", "every teacher once"),
        ("teachers.wide.resources={gpus: 1}", "teachers.wide.resources.gpus", "cluster.student"),
        ("teachers.wide.resources={runtime_env: {pip: [x]}}", "teachers.wide.resources.runtime_env", "one environment"),
        ("targets.mode=stored", "targets.mode", "answer live"),
        ("targets.mode=write_through", "targets.mode", "answer live"),
    ],
)  # fmt: skip
def test_what_needs_processes_of_its_own_is_refused(tiny_recipe, override, key, why):
    with pytest.raises(InputError) as caught:
        load_config(tiny_recipe, [INSIDE, override])
    told = {problem.key: problem.message for problem in caught.value.problems}
    assert set(told) == {key}
    assert why in told[key]
    assert "cluster.teachers.where to actor" in told[key]
    load_config(tiny_recipe, [override])


def test_engines_and_students_that_write_need_actors():
    engine = "{name: big, model: {type: engine, path: openai, url: 'http://x/v1', model: big, same_tokenizer: true}}"
    with pytest.raises(InputError) as caught:
        load_config(
            "lm_domains", [INSIDE, "objective.on_policy={share: 0.5}", f"teachers=[{engine}]"]
        )
    told = {problem.key: problem.message for problem in caught.value.problems}
    assert "only actors" in told["objective.on_policy"]
    assert "connection of its own" in told["teachers.big.model.type"]


def test_placement(tiny_recipe):
    config = load_config(tiny_recipe, [INSIDE, "cluster.student.gpus=1", "cluster.student.cpus=2"])
    one_card = Resources(8, 1, local=True)
    placement = make_placement(config, one_card)
    assert (placement.mode, placement.with_student) == ("live", True)
    assert "on its own device" in placement.reason
    assert {(t.replicas, t.cpus, t.gpus) for t in placement.teachers.values()} == {(1, 2, 0.5)}
    assert placement.lanes == 1, "as many as there are cards"
    without = make_placement(load_config(tiny_recipe, [INSIDE]), Resources(4, 0, local=True))
    assert without.lanes == 4, "no process of a teacher stands beside them"
    assert without.seats == 4, "which is where validation and test are scored before"
    with pytest.raises(InputError, match=r"cluster\.student\.cpus"):
        make_placement(config, Resources(3, 1, local=False))
    assert config.cluster.hosting.gpus == 1
    auto = load_config(
        tiny_recipe, [INSIDE, "cluster.student.gpus=1", "teachers.wide.fit.precision=auto"]
    )
    assert with_training_settings(auto).teachers[0].fit.precision == "bfloat16", (
        "it has a card, too"
    )


def test_the_report_says_where_they_computed():
    summary = {"targets": {"teachers_in": "student", "teacher_samples_scored": 1234}}
    (said,) = in_students(summary)
    assert "in the students' own processes" in said
    assert "1.23 k samples" in said
    assert not in_students({"targets": {}})
