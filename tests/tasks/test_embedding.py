"""Embeddings: how they are judged, what is learnt from several of unequal lengths, which data will do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.linear_model import RidgeClassifier

from raykd.config import load_config
from raykd.config.data import Data, Splits
from raykd.config.objective import Objective
from raykd.config.roles import Expect
from raykd.config.sources import DigitsSource, FactorySource
from raykd.config.variants import ablation, fold_recipes, method_variants
from raykd.data import Dataset
from raykd.data.check import check_data
from raykd.data.draw import draw_classes
from raykd.data.samples import build_samples, samples_of
from raykd.ensemble import effective_teachers_per_unit
from raykd.errors import InputError, TeacherError
from raykd.evaluate import Evaluation, SplitOutputs
from raykd.evaluate.external_baselines import external_baseline_numbers
from raykd.evaluate.folds import over_folds
from raykd.evaluate.outputs import best_teacher
from raykd.losses import LOSSES
from raykd.losses.relational import RELATIONS, mean_of_relations
from raykd.models.network import Network
from raykd.objective import Context, DistillObjective, TeacherInfo
from raykd.objective.rule import OUTPUT
from raykd.pipeline import Options
from raykd.pipeline.ablating import make_students
from raykd.pipeline.evaluation import external_baseline_specs, predict_baseline
from raykd.pipeline.preparation import prepare, with_external_baselines
from raykd.pipeline.runs import empty_summary
from raykd.report.folds import folds_verdict
from raykd.tasks import find_task
from raykd.tasks.embedding.metrics import (
    average_precisions,
    has_pairs,
    joined,
    retrieval_fidelity,
    retrieval_metrics,
)
from raykd.tasks.embedding.selftest import check_vectors
from raykd.teachers.recorded import load_outputs
from raykd.train import World
from raykd.train.validation import _gathered, validate
from raykd.types import Batch, Dense

GENERATOR = torch.Generator().manual_seed(0)
WIDTHS = (7, 3)


def vectors(count: int = 40, width: int = 5, spread: float = 1.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(count + width)
    labels = torch.arange(count) % 4
    centres = torch.randn(4, width, generator=generator)
    return centres[labels] + spread * torch.randn(count, width, generator=generator), labels


def by_hand(embedding, labels, nearest: int = 10) -> dict[str, float]:
    """Written as the definitions are, sample by sample."""
    unit = embedding.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    known = np.flatnonzero(labels.numpy() >= 0)
    found = {"map_10": [], "recall_1": [], "recall_10": []}
    for asks in known:
        others = [other for other in known if other != asks]
        order = sorted(others, key=lambda other: -float(unit[asks] @ unit[other]))
        right = [labels[other] == labels[asks] for other in order]
        if not any(right):
            continue
        precisions = [np.mean(right[: i + 1]) for i in range(nearest) if right[i]]
        found["map_10"].append(np.sum(precisions) / min(nearest, np.sum(right)))
        found["recall_1"].append(right[0])
        found["recall_10"].append(any(right[:nearest]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_retrieval_is_what_the_definitions_say():
    embedding, labels = vectors(80)  # more of a class than are looked at
    labels = labels.clone()
    labels[::7] = -1  # neither asks nor is found
    labels[1] = 4  # has no other of its class: does not ask, but stands in the way
    numbers = retrieval_metrics(embedding, labels)
    for name, value in by_hand(embedding, labels).items():
        assert numbers[name] == pytest.approx(value, abs=1e-12), name
    each = average_precisions(embedding, labels)
    assert float(each.mean()) == pytest.approx(numbers["map_10"])
    assert len(each) == int((labels >= 0).sum()) - 1
    assert 0.3 < numbers["map_10"] < 0.95


def test_retrieval_does_not_depend_on_scale_or_rotation():
    embedding, labels = vectors()
    turn = torch.linalg.qr(torch.randn(5, 5, generator=GENERATOR).double())[0].float()
    plain, turned = (
        retrieval_metrics(embedding, labels),
        retrieval_metrics(3 * embedding @ turn, labels),
    )
    for name in ("map_10", "recall_1", "recall_10"):
        assert turned[name] == pytest.approx(plain[name], abs=1e-6)
    perfect = retrieval_metrics(torch.eye(4)[labels], labels)
    assert perfect == {"map_10": 1.0, "recall_1": 1.0, "recall_10": 1.0, "knn": 1.0, "probe": 1.0}


def test_the_probe_leaves_each_sample_out():
    embedding, labels = vectors(spread=1.5)
    unit = torch.nn.functional.normalize(embedding.double(), dim=1).numpy()
    penalty = 1e-2 * ((unit - unit.mean(axis=0)) ** 2).sum(axis=0).mean()
    right = []
    for out in range(len(unit)):
        rest = np.delete(np.arange(len(unit)), out)
        model = RidgeClassifier(alpha=penalty).fit(unit[rest] - unit.mean(axis=0), labels[rest])
        right.append(model.predict(unit[out : out + 1] - unit.mean(axis=0))[0] == int(labels[out]))
    assert retrieval_metrics(embedding, labels)["probe"] == pytest.approx(np.mean(right), abs=0.03)
    assert retrieval_metrics(torch.randn(40, 30, generator=GENERATOR), labels)["probe"] < 0.6


def test_nothing_to_find():
    assert not has_pairs(torch.tensor([-1, -1]))
    assert not has_pairs(torch.tensor([0, 1, -1]))
    assert has_pairs(torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match="no two labelled samples"):
        retrieval_metrics(torch.randn(3, 2), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"vectors \[N, D\] and labels \[N\] are needed"):
        retrieval_metrics(torch.randn(3, 2), torch.tensor([0, 1]))


def test_fidelity_compares_relations_of_any_lengths():
    embedding, _ = vectors()
    turn = torch.linalg.qr(torch.randn(5, 5, generator=GENERATOR).double())[0].float()
    found = retrieval_fidelity(embedding, 2 * embedding @ turn, {"other": torch.randn(40, 9)})
    assert found["spearman_ensemble"] == pytest.approx(1.0)
    assert found["overlap_ensemble"] == pytest.approx(1.0)
    assert abs(found["spearman"]["other"]) < 0.3
    flat = retrieval_fidelity(torch.ones(40, 2), embedding, {})
    assert np.isnan(flat["spearman_ensemble"])


def test_an_ensemble_s_cosine_is_the_mean_of_its_teachers():
    parts = [vectors(width=width)[0] for width in WIDTHS]
    whole = torch.nn.functional.normalize(joined(parts), dim=1)
    cosines = [torch.nn.functional.normalize(one, dim=1) for one in parts]
    mean = sum(one @ one.T for one in cosines) / 2
    torch.testing.assert_close(whole @ whole.T, mean)
    assert find_task("embedding").metrics.ensemble(parts).shape == (40, 10)


@pytest.mark.parametrize("name", sorted(RELATIONS))
def test_relations_are_averaged(name):
    student = torch.randn(6, 4, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    teachers = [torch.randn(6, w, generator=GENERATOR, dtype=torch.float64) for w in WIDTHS]
    half = torch.full((2, 6), 0.5, dtype=torch.float64)
    one = torch.tensor([[1.0], [0.0]], dtype=torch.float64).expand(2, 6)
    alone = LOSSES[name](student, teachers[0])
    torch.testing.assert_close(mean_of_relations(name, student, teachers, one), alone)
    mixed = mean_of_relations(name, student, teachers, half)
    turned = mean_of_relations(name, student, teachers[::-1], half)
    torch.testing.assert_close(mixed, turned)
    same = mean_of_relations(name, student, [student.detach()] * 2, half)
    assert same.abs().max() < 1e-6
    assert torch.autograd.gradcheck(
        lambda x: mean_of_relations(name, x, teachers, half), (student,), atol=1e-5
    )
    if name in ("similarity", "pkt"):  # the mean has the gradient of the sum of losses
        (found,) = torch.autograd.grad(mixed.sum(), student)
        each = sum(LOSSES[name](student, teacher).sum() for teacher in teachers) / 2
        torch.testing.assert_close(
            found, torch.autograd.grad(each, student)[0], rtol=1e-4, atol=1e-8
        )
    with pytest.raises(ValueError, match="teachers"):
        mean_of_relations(name, student, [teachers[0][:5]], one[:1])


def batch_of(count: int) -> Batch:
    return Batch(
        ids=torch.arange(count),
        rows=torch.arange(count),
        view_B=torch.full((count,), -1),
        inputs={"inputs": torch.zeros(count, 2)},
        labels=torch.arange(count) % 3,
        present_B=torch.ones(count, dtype=torch.bool),
    )


def objective(soft: dict, names=("a", "b"), **more):
    torch.manual_seed(0)
    settings = Objective.model_validate(
        {
            "labels": {"weight": 0.0},
            "soft_targets": {"weight": 1.0, "temperature": 1.0, **soft},
            **more,
        }
    )
    widths = dict(zip(("a", "b"), WIDTHS, strict=True))
    return DistillObjective(
        settings,
        [TeacherInfo(name) for name in names],
        rule=find_task("embedding").rule,
        student_shapes={OUTPUT: (4,)},
        teacher_shapes={(name, OUTPUT): (widths[name],) for name in names},
    )


def said(count: int = 8) -> tuple[torch.Tensor, dict[str, Dense]]:
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(count, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    valid = torch.ones(count, dtype=torch.bool)
    answers = {
        name: Dense(
            kind="embedding",
            values_NC=torch.randn(count, width, generator=generator, dtype=torch.float64),
            valid_N=valid,
        )
        for name, width in zip(("a", "b"), WIDTHS, strict=True)
    }
    return student, answers


def test_each_teacher_has_a_projector_of_its_own():
    taught = objective({"loss": {"type": "cosine", "standardise": False}})
    student, targets = said()
    terms, weights_TN = taught(student, {}, batch_of(8), targets)
    projected = [projector(student.float()) for projector in taught.projectors]
    wanted = [
        1 - torch.nn.functional.cosine_similarity(one.double(), targets[name].values_NC)
        for one, name in zip(projected, "ab", strict=True)
    ]
    torch.testing.assert_close(
        terms["soft_targets"].loss_N.double(), (wanted[0] + wanted[1]) / 2, rtol=1e-5, atol=1e-6
    )
    assert [tuple(one.shape) for one in projected] == [(8, 7), (8, 3)]
    assert weights_TN.tolist() == [[0.5] * 8] * 2
    assert effective_teachers_per_unit(weights_TN).tolist() == pytest.approx([2.0] * 8)
    assert not terms["labels"].valid_N.any()
    assert terms["labels"].weight == 0
    terms["soft_targets"].loss_N.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in taught.parameters())


@pytest.mark.parametrize(
    "loss", ["mse", "smooth_l1", "cosine", "similarity", "rkd_angle", "itrd", "itrd_mutual"]
)
def test_a_teacher_that_is_left_out_counts_nowhere(loss):
    """It answers zeros, of another one's length."""
    student, targets = said()
    gone = Dense(
        kind="embedding",
        values_NC=torch.zeros_like(targets["a"].values_NC),
        valid_N=torch.zeros(8, dtype=torch.bool),
    )
    soft = {"loss": {"type": loss}}
    both, _ = objective(soft).eval()(
        student.float(), {}, batch_of(8), {"a": targets["a"], "b": gone}
    )
    alone, _ = objective(soft, ("a",)).eval()(student.float(), {}, batch_of(8), {"a": targets["a"]})
    torch.testing.assert_close(both["soft_targets"].loss_N, alone["soft_targets"].loss_N)
    assert both["soft_targets"].valid_N.all()


def test_relations_need_no_projector_and_know_no_basis():
    taught = objective({"loss": {"type": "rkd_distance"}})
    assert not list(taught.parameters())
    student, targets = said()
    turn = torch.linalg.qr(torch.randn(4, 4, generator=GENERATOR).double())[0]
    plain, _ = taught(student, {}, batch_of(8), targets)
    turned, _ = taught(5 * student @ turn, {}, batch_of(8), targets)
    torch.testing.assert_close(turned["soft_targets"].loss_N, plain["soft_targets"].loss_N)
    pair = [targets[name].values_NC for name in "ab"]
    half = torch.full((2, 8), 0.5, dtype=torch.float64)
    mean = mean_of_relations("rkd_distance", student, pair, half)
    torch.testing.assert_close(plain["soft_targets"].loss_N, mean)
    weighting = {"type": "fixed", "weights": {"a": 3.0, "b": 0.0}}
    first, _ = objective({"loss": {"type": "rkd_distance"}}, weighting=weighting)(
        student, {}, batch_of(8), targets
    )
    alone = LOSSES["rkd_distance"](student, pair[0])
    torch.testing.assert_close(first["soft_targets"].loss_N, alone)
    summed = objective({"loss": {"type": "rkd_distance"}, "combine": "losses"})
    each, _ = summed(student.float(), {}, batch_of(8), targets)
    losses = [LOSSES["rkd_distance"](student.float(), targets[n].values_NC.float()) for n in "ab"]
    torch.testing.assert_close(
        each["soft_targets"].loss_N.float(), (losses[0] + losses[1]) / 2, rtol=1e-4, atol=1e-6
    )


def test_only_units_that_all_answered_are_related():
    taught = objective({"loss": {"type": "similarity"}})
    student, targets = said()
    valid = torch.ones(8, dtype=torch.bool)
    valid[2] = False
    partly = {
        **targets,
        "b": Dense(kind="embedding", values_NC=targets["b"].values_NC, valid_N=valid),
    }
    terms, _ = taught(student, {}, batch_of(8), partly)
    assert terms["soft_targets"].valid_N.tolist() == valid.tolist()
    kept = valid.nonzero()[:, 0]
    few = {
        name: Dense(kind="embedding", values_NC=one.values_NC[kept], valid_N=valid[kept])
        for name, one in targets.items()
    }
    alone, _ = taught(student[kept], {}, batch_of(7), few)
    torch.testing.assert_close(terms["soft_targets"].loss_N[kept], alone["soft_targets"].loss_N)


def test_relations_of_two_workers_are_those_of_one():
    taught = objective({"loss": {"type": "pkt"}})
    student, targets = said()
    whole, _ = taught(student, {}, batch_of(8), targets)
    parts = []
    for rows in (slice(0, 3), slice(3, 8)):
        every = {
            one.shape[1]: shrunk(one) for one in (student, *(t.values_NC for t in targets.values()))
        }

        def gathering(count, every=every):
            return lambda local: every[local.shape[1]]

        some = {
            name: Dense(kind="embedding", values_NC=one.values_NC[rows], valid_N=one.valid_N[rows])
            for name, one in targets.items()
        }
        count = rows.stop - rows.start
        terms, _ = taught(student[rows], {}, batch_of(count), some, Context(gathering=gathering))
        parts.append(terms["soft_targets"].loss_N)
    torch.testing.assert_close(torch.cat(parts), whole["soft_targets"].loss_N)


def shrunk(rows: torch.Tensor) -> torch.Tensor:
    """What PKT gathers: rows of length almost 1."""
    return rows / (rows.norm(dim=1, keepdim=True) + 1e-7)


def data(**given) -> Data:
    source = FactorySource(path="nowhere:to_be_found")
    return Data.model_validate(
        {"source": source, "splits": Splits(validation=20, test=20), **given}
    )


def test_labels_are_not_needed():
    inputs = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    samples = samples_of(Dataset(inputs, task="embedding"), data(), seed=0)
    assert {name: len(rows) for name, rows in samples.splits.items()} == {
        "train": 60,
        "validation": 20,
        "test": 20,
    }
    assert (samples.class_count, len(samples.labelled_rows("validation"))) == (0, 0)
    report = "\n".join(check_data(samples).lines())
    assert "validation" in report
    assert "largest class" not in report
    with pytest.raises(InputError, match="no labels, so there are no classes to draw"):
        draw_classes(samples, "never-written.png")
    labels = np.where(np.arange(100) < 50, np.arange(100) % 2, -1)
    some = samples_of(Dataset(inputs, labels, task="embedding"), data(labels=10), seed=0)
    assert len(some.labelled_rows("train")) == 10
    assert len(some.labelled_rows("test")) == 10  # in proportion
    apart = {"validation": np.arange(0, 40, 4)}
    alone = Dataset(inputs, np.arange(100) // 4, task="embedding", splits=apart)
    with pytest.raises(
        InputError, match=r"validation: has 10 labelled samples, no two of one class"
    ):
        samples_of(alone, data(), seed=0)


def test_classes_of_any_source_tell_what_is_alike():
    source = Data(source=DigitsSource(), splits=Splits(validation=100, test=100))
    samples = build_samples(source, seed=0, task="embedding")
    assert (samples.task, samples.class_count) == ("embedding", 10)
    assert np.bincount(samples.labels[samples.splits["test"]]).tolist() == pytest.approx(
        [10] * 10, abs=1
    )


RECIPE = {
    "task": "embedding",
    "data": {
        "source": {"type": "digits"},
        "labels": 100,
        "splits": {"validation": 100, "test": 100},
    },
    "teachers": [
        {"name": "deep", "model": "cnn", "fit": {"epochs": 1}, "embedding": "pool"},
        {"name": "flat", "model": "mlp", "fit": {"epochs": 1}, "embedding": "blocks.0"},
    ],
    "student": {"model": {"type": "mlp", "width": 0.25}, "dimension": 6},
    "tracking": {"wandb": {"mode": "disabled"}},
}


def test_teachers_are_classifiers_of_which_a_module_is_the_embedding():
    from raykd.pipeline.fits import teacher_fit

    prepared = prepare(load_config(RECIPE))
    assert {name: one.answers for name, one in prepared.teachers.items()} == {
        "deep": 128,
        "flat": 64,
    }
    assert {one.outputs for one in prepared.teachers.values()} == {10}
    fit = teacher_fit(prepared, prepared.teachers["deep"].settings)
    assert (fit.task, fit.outputs, len(fit.plan.rows)) == ("classification", None, 100)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teachers.deep.embedding=blocks.1", r"deep.embedding: blocks.1 puts out \[64, 4, 4\]"),
        ("teachers.deep.embedding=pol", "deep.embedding: .*pool"),
    ],
)
def test_a_module_that_is_no_vector(override, message):
    with pytest.raises(InputError, match=message):
        prepare(load_config(RECIPE, [override]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.soft_targets.loss={type: kl}", "allowed are cosine, mse, smooth_l1"),
        ("objective.soft_targets.combine=relations", "with the loss cosine allowed are losses"),
        ("objective.labels.weight=0.1", "labels.weight: means nothing"),
        ("evaluate.controls=[hard]", "controls.0: found hard; .* best_teacher, untrained"),
        ("student.dimension=null", "student.dimension: is required"),
        ("teachers.deep.embedding=null", "deep.embedding: is required: which module"),
        ("teachers.deep.fit.select=map_10", "deep.fit.select: found map_10; .* accuracy, nll"),
        ("teachers.deep.expect={accuracy: 0.5}", "deep.expect: found accuracy"),
        ("teachers.deep.temperature=2", "deep.temperature: means nothing"),
        ("objective.weighting={type: entropy}", "allowed are uniform, fixed"),
        ("train.select=accuracy", "allowed are map_10, recall_1"),
        ("teachers.deep.model=sklearn:sklearn.svm:SVC", "answers classes, no vectors"),
        (
            "evaluate.compare=['sklearn:sklearn.svm:SVC']",
            "compare.SVC.model.type: sklearn answers classes",
        ),
        (
            "evaluate.compare=[{name: a, model: 'onnx:a.onnx', label_map: [0]}]",
            "a.label_map: means nothing",
        ),
        ("evaluate.slices=[{class: '3'}]", "evaluate.slices: means nothing with `task: embedding`"),
    ],
)
def test_what_embeddings_do_not_know(override, message):
    with pytest.raises(InputError, match=message):
        load_config(RECIPE, [override])


def test_other_tasks_have_no_dimension():
    tree = {**RECIPE, "task": "classification"}
    with pytest.raises(InputError) as caught:
        load_config(tree)
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["student.dimension", "teachers.deep.embedding", "teachers.flat.embedding"]


def test_a_teacher_must_find_more_than_chance():
    embedding, labels = vectors()
    assert check_vectors("deep", embedding, labels, Expect()) > 0.5
    with pytest.raises(TeacherError, match="no better than chance"):
        check_vectors("deep", torch.randn(40, 5, generator=GENERATOR), labels, Expect())
    with pytest.raises(TeacherError, match=r"expect.recall_1=0.99"):
        check_vectors("deep", embedding, labels, Expect(recall_1=0.99))
    assert np.isnan(check_vectors("deep", embedding[:3], torch.tensor([0, 1, 2]), Expect()))


def test_recorded_embeddings_may_have_any_length(tmp_path):
    samples = samples_of(Dataset(np.zeros((50, 2), np.float32), task="embedding"), data(), seed=0)
    given = np.random.default_rng(0).normal(size=(50, 9)).astype(np.float32)
    file = tmp_path / "e.safetensors"
    save_file({"ids": samples.ids.copy(), "embeddings": given}, file)
    found, _ = load_outputs(str(file), samples, key="k", answers="embedding")
    assert np.array_equal(found, given)
    save_file({"ids": samples.ids[1:].copy(), "embeddings": given[1:]}, file)
    with pytest.raises(InputError, match="for 1 of 50"):
        load_outputs(str(file), samples, key="k", answers="embedding")


def test_the_best_teacher_without_labels_is_the_one_the_ensemble_follows():
    embedding, labels = vectors()
    near = embedding + 0.1 * torch.randn(40, 5, generator=GENERATOR)
    teachers = {"far": torch.randn(40, 5, generator=GENERATOR), "near": near}
    given = {"ids_N": torch.arange(40), "teachers": teachers, "ensemble": embedding, "students": {}}
    none = SplitOutputs(labels_N=torch.full((40,), -1), **given, task="embedding")
    assert best_teacher(none, "embedding") == "near"
    assert (
        best_teacher(SplitOutputs(labels_N=labels, **given, task="embedding"), "embedding")
        == "near"
    )


def test_only_embeddings_may_have_lengths_of_their_own():
    given = {
        "labels_N": torch.zeros(4, dtype=torch.int64),
        "ids_N": torch.arange(4),
        "teachers": {"a": torch.zeros(4, 3)},
        "ensemble": torch.zeros(4, 5),
        "students": {"student": torch.zeros(2, 4, 6)},
    }
    assert SplitOutputs(**given, task="embedding").students["student"].shape == (2, 4, 6)
    with pytest.raises(ValueError, match="model a"):
        SplitOutputs(**given)
    with pytest.raises(ValueError, match="student"):
        SplitOutputs(**{**given, "students": {"student": torch.zeros(2, 3, 6)}}, task="embedding")


def test_losses_of_vectors_are_compared_without_taps():
    found = method_variants(load_config(RECIPE), losses=["rkd_distance", "mse"])
    names = [variant.config.objective.soft_targets.loss.type for variant in found]
    assert names == ["cosine", "rkd_distance", "mse"]
    with pytest.raises(InputError, match="is needed for hint"):
        method_variants(load_config(RECIPE), losses=["hint"])


@dataclasses.dataclass
class Worker:
    """One of several, without the others."""

    rank: int
    workers: int
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    sharing: None = None

    def all_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


@pytest.mark.parametrize("count", [1, 7])
def test_each_worker_answers_for_its_share_of_validation(count):
    source = Data(source=DigitsSource(), splits=Splits(validation=100, test=100))
    samples = build_samples(source, seed=0, task="embedding")
    rows = samples.splits["validation"][:count]
    network = Network(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)))
    task = find_task("embedding").metrics
    shares = [_gathered(network, samples, rows, Worker(rank, 2), task) for rank in (0, 1)]
    whole = _gathered(network, samples, rows, Worker(0, 1), task)
    assert whole.shape == (count, 3)
    torch.testing.assert_close(shares[0] + shares[1], whole)
    inputs = torch.from_numpy(samples.inputs["inputs"][rows])
    torch.testing.assert_close(whole, network({"inputs": inputs}).detach(), rtol=1e-5, atol=1e-6)


def test_without_labels_of_validation_there_is_nothing_to_choose_by():
    samples = samples_of(Dataset(np.ones((100, 3), np.float32), task="embedding"), data(), seed=0)
    assert (
        validate(torch.nn.Identity(), samples, samples.labelled_rows("validation"), World()) == {}
    )


def test_a_model_of_today_is_held_against_the_student():
    """Its vectors come from a module and have a length of their own; samples are neither right nor wrong."""
    today = "{name: today, model: {type: factory, path: 'tests_tasks_data:encoder', kwargs: {length: 5, inputs: 64}}}"
    prepared = with_external_baselines(
        prepare(load_config(RECIPE, [f"evaluate.compare=[{today}]"]))
    )
    rows = prepared.samples.splits["test"]
    spec = external_baseline_specs(prepared)["today"]
    answers = predict_baseline(prepared.samples, spec, {"test": rows})["test"]
    assert answers.shape == (100, 5)
    whole = empty_summary(prepared)
    assert set(whole["compare"]) == {"today"}
    labels = torch.from_numpy(prepared.samples.labels[rows])
    split = SplitOutputs(
        labels_N=labels, ids_N=torch.from_numpy(prepared.samples.ids[rows]), task="embedding",
        teachers={"deep": answers}, ensemble=answers, rivals={"today": answers},
        students={"student": torch.nn.functional.one_hot(labels, 10).float()[None]},
    )  # fmt: skip
    found = external_baseline_numbers(Evaluation(splits={"test": split}, task="embedding"), "today")
    assert found["mcnemar"] is None
    assert found["gain"]["mean"] == pytest.approx(1 - found["test"]["map_10"])
    keep = torch.arange(100) < 50
    assert (split.only(keep).task, split.only(keep).rivals["today"].shape) == ("embedding", (50, 5))


def test_over_folds_the_student_is_held_against_no_training():
    config = load_config(RECIPE, ["folds=3"])
    parts = [prepare(recipe) for recipe in fold_recipes(config)]
    tested = np.concatenate([one.samples.splits["test"] for one in parts])
    assert np.array_equal(np.sort(tested), np.arange(1797))
    sizes = [{name: len(rows) for name, rows in one.samples.splits.items()} for one in parts]
    summary = {**over_folds([empty_summary(one) for one in parts], sizes), "brought": []}
    assert set(summary["gains"]) == {"best_teacher", "untrained"}
    first = folds_verdict(summary)[0]
    assert "the same network before training" in first
    assert "a test mAP@10 of" in first


def test_every_teacher_of_an_embedding_can_be_left_out():
    found = ablation(load_config(RECIPE))
    assert [part.name for part in found.parts] == ["teacher.deep", "teacher.flat"]
    assert "soft targets: it is the only term" in found.kept
    _, students = make_students(found, Options())
    assert set(students.every) == {"whole", "teacher.deep", "teacher.flat"}
    assert set(students.stored["teacher.deep"].teachers) == {"flat"}
