"""Everything that is wrong is found before a cluster starts, each problem under its key."""

from __future__ import annotations

import importlib
import linecache
import sys
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from raykd.config import load_config
from raykd.ensemble import fit_temperature
from raykd.errors import InputError
from raykd.models.weights import save_weights
from raykd.pipeline import preparation
from raykd.pipeline.fits import student_fits, teacher_fit
from raykd.pipeline.placement import Placement, choose_mode, make_placement, target_mode, threads_of
from raykd.pipeline.preparation import prepare, vary
from raykd.pipeline.teacher_validation import TeacherValidation, temperatures
from raykd.runtime import Resources
from raykd.train.fit import build_module, build_network

LOCAL = Resources(cpus=2, gpus=0, local=True)
REMOTE = Resources(cpus=4, gpus=1, local=False)


@pytest.fixture
def tree(tiny_recipe):
    return tiny_recipe


@pytest.fixture
def cnn(tree):
    """With a student that has maps."""
    tree["student"]["model"] = {"type": "cnn", "width": 0.25, "depth": 2}
    return tree


def problems(tree, *overrides):
    with pytest.raises(InputError) as caught:
        prepare(load_config(tree, overrides))
    return {problem.key: problem.message for problem in caught.value.problems}


def factory(name, **given):
    return {
        "name": "mine",
        "model": {"type": "factory", "path": f"raykd_test_models:{name}"},
        **given,
    }


def term(**given):
    return [{"loss": {"type": "attention"}, "teacher": "conv", "student_tap": "blocks.0",
             "teacher_tap": "blocks.0", **given}]  # fmt: skip


def test_a_recipe_that_works(tree):
    prepared = prepare(load_config(tree))
    assert set(prepared.teachers) == {"wide", "conv"}
    assert len(prepared.samples.labelled_rows("train")) == 200
    assert all(candidate.weights is None for candidate in prepared.teachers.values())
    assert prepare(load_config(tree)).data == prepared.data


@pytest.mark.parametrize(
    "change", ["seed=1", "data.labels=150", "data.views.policy.0.pixels=2", "data.splits.test=0.3"]
)
def test_the_fingerprint_of_the_data_changes_with_what_a_fit_sees(tree, change):
    assert prepare(load_config(tree, [change])).data != prepare(load_config(tree)).data


def test_preparing_leaves_the_random_state_and_draws_the_same_models(tree):
    factory_teacher = {**tree, "teachers": [factory("ten_outputs")], "evaluate": {"controls": []}}
    one = prepare(load_config(factory_teacher)).teachers["mine"].weights
    torch.manual_seed(99)
    other = prepare(load_config(factory_teacher)).teachers["mine"].weights
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_problems_of_all_models_at_once(tree, tmp_path):
    tree["teachers"] += [
        factory("four_outputs"),
        {"name": "gone", "model": "mlp", "weights": str(tmp_path / "none.safetensors")},
        {"name": "lost", "outputs": str(tmp_path / "none.csv")},
    ]
    tree["data"]["views"] = {"count": 1, "policy": []}
    found = problems(tree, "student.limits.parameters=10", "student.limits.size_mb=0.00001")
    assert set(found) == {
        "teachers.mine.model", "teachers.gone.weights", "teachers.lost.outputs",
        "student.limits.parameters", "student.limits.size_mb",
    }  # fmt: skip
    assert "answers [4] per sample; the data has 10" in found["teachers.mine.model"]
    assert "none.safetensors" in found["teachers.gone.weights"]


@pytest.mark.parametrize(
    ("teacher", "key"),
    [
        (factory("no_such_model"), "teachers.mine.model.path"),
        (factory("ten_outputs", label_map=[0, 1]), "teachers.mine.label_map"),
        (factory("ten_outputs", label_map=[10, 1, 2, 3, 4, 5, 6, 7, 8, 9]), "teachers.mine.label_map"),
        (factory("raising"), "teachers.mine.model"),
        ({"name": "mine", "model": "mlp", "fit": {"lr_factors": {"haed": 0.1}}}, "teachers.mine.fit.lr_factors"),
        (factory("ten_outputs", fit={"freeze": ["linaer"]}), "teachers.mine.fit.freeze"),
        (factory("ten_outputs", fit={"freeze": ["linear"]}), "teachers.mine.fit.freeze"),
        ({"name": "mine", "model": "mlp", "fit": {}, "preprocess": {"channels": 3, "crop": 99}},
         "teachers.mine.preprocess.crop"),
    ],
)  # fmt: skip
def test_a_teacher_that_cannot_work(tree, teacher, key):
    tree["teachers"] = [teacher]
    assert key in problems(tree)


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"teacher_tap": "blocks.9"}, "objective.features.0.teacher_tap", "did you mean"),
        ({"student_tap": "block.0"}, "objective.features.0.student_tap", "did you mean"),
        ({"teacher_tap": "pool"}, "objective.features.0", "maps [C, H, W]"),
    ],
)
def test_impossible_taps(cnn, change, key, words):
    cnn["objective"] = {"features": term(**change)}
    found = problems(cnn)
    assert key in found
    assert words in found[key] or "blocks.0" in found[key]


def test_truncated_weights(tree, tmp_path):
    prepared = prepare(load_config(tree))
    fit = teacher_fit(prepared, prepared.teachers["wide"].settings)

    path = tmp_path / "wide.safetensors"
    save_weights(build_network(fit, prepared.samples), path)
    tree["teachers"][0] = {
        "name": "wide",
        "model": tree["teachers"][0]["model"],
        "weights": str(path),
    }
    assert prepare(load_config(tree)).teachers["wide"].weights is not None
    path.write_bytes(path.read_bytes()[:-20])
    assert "damaged" in problems(tree)["teachers.wide.weights"]


def fits_of(tree, best="wide"):
    prepared = prepare(load_config(tree))
    return prepared, {fit.fit_id: fit for fit in fits_with(prepared, best)}


def fits_with(prepared, best="wide"):
    fingerprints = {name: f"print of {name}" for name in prepared.teachers}
    # Their answers are read only where a weighting or loss needs the teachers' errors.
    validation = SimpleNamespace(teachers=dict.fromkeys(fingerprints), labels_N=None, ids_N=None)
    teachers = TeacherValidation(
        None, validation, None, fingerprints, {"wide": 1.0, "conv": 2.5}, best
    )
    return student_fits(prepared, teachers)


def with_heads(tree, path, **given):
    """A recipe whose second teacher has weights in a file, and a term that asks its head."""
    tree["student"]["model"] = {"type": "cnn", "width": 0.25, "depth": 2}
    tree["objective"] = {
        "features": [{**term()[0], "loss": {"type": "srrl"}, "teacher_tap": "blocks.1", **given}]
    }
    tree["evaluate"] = {"controls": ["labels"]}
    (conv,) = [teacher for teacher in tree["teachers"] if teacher["name"] == "conv"]
    conv["head"] = "head"
    prepared = prepare(load_config(tree))
    fit = teacher_fit(prepared, prepared.teachers["conv"].settings)
    save_weights(build_network(fit, prepared.samples), path)
    return conv


def test_the_head_of_a_teacher_goes_to_the_fits_whose_terms_ask_it(tree, tmp_path):
    path = tmp_path / "conv.safetensors"
    conv = with_heads(tree, path)
    prepared, fits = fits_of(tree)
    rows, width = prepared.teachers["conv"].head_shape
    assert rows == 10
    unfitted = fits["student/replica0"]
    assert torch.equal(unfitted.heads["conv"].weight, torch.zeros(rows, width))
    del conv["fit"]
    conv["weights"] = str(path)
    prepared, fits = fits_of(tree)
    fit, weights = fits["student/replica0"], prepared.teachers["conv"].weights
    assert torch.equal(fit.heads["conv"].weight, weights["head.weight"])
    assert torch.equal(fit.heads["conv"].bias, weights["head.bias"])
    assert fits["labels/replica0"].heads == {}
    assert fit.identity != replace(fit, heads={}).identity
    assert fit.identity != replace(fit, heads=unfitted.heads).identity
    (part,) = build_module(fit, prepared.samples).objective.features
    assert torch.equal(part.head_weight, weights["head.weight"])


def test_a_head_that_cannot_be_asked_is_refused(tree, tmp_path):
    conv = with_heads(tree, tmp_path / "conv.safetensors")
    conv["head"] = "blocks.1"
    found = problems(tree)["teachers.conv.head"]
    assert "not a linear layer" in found
    assert "head" in found
    conv["head"] = "classifier"
    assert "no module" in problems(tree)["teachers.conv.head"]
    conv["head"] = "head"
    tree["objective"]["features"][0]["teacher_tap"] = "blocks.0"
    found = problems(tree)["objective.features.0.teacher_tap"]
    assert "tap what stands in front of it" in found


def test_each_replica_of_a_stage_teaches_the_replica_of_its_number(tree, monkeypatch):
    own = [{**tree["teachers"][0], "name": f"wide-{r}", "stage": "first", "teaches": r} for r in range(2)]  # fmt: skip
    tree |= {"teachers": [*own, tree["teachers"][1]], "seeds": 2}
    tree["evaluate"] = {"controls": ["best_teacher", "hard"]}
    best_of = {("wide-0", "conv"): "conv", ("wide-1", "conv"): "wide-1"}
    monkeypatch.setattr(TeacherValidation, "best_of", lambda _self, names: best_of[tuple(names)])
    _, fits = fits_of(tree, best="wide-1")
    heard = {name: [one.name for one in fit.teacher_infos] for name, fit in fits.items()}
    assert heard == {
        "student/replica0": ["wide-0", "conv"],
        "student/replica1": ["wide-1", "conv"],
        "hard/replica0": ["wide-0", "conv"],
        "hard/replica1": ["wide-1", "conv"],
        "best_teacher/replica0": ["conv"],
        "best_teacher/replica1": ["wide-1"],
    }
    assert set(fits["student/replica0"].teachers) == {"wide-0", "conv"}


def test_student_and_controls_are_paired(tree):
    tree["evaluate"] = {"controls": ["labels", "best_teacher", "hard"]}
    tree["seeds"] = 2
    prepared, fits = fits_of(tree)
    roles = ("student", "labels", "best_teacher", "hard")
    assert list(fits) == [f"{role}/replica{r}" for r in range(2) for role in roles]
    for replica in range(2):
        group = [fits[f"{role}/replica{replica}"] for role in roles]
        assert len({fit.seed for fit in group}) == 1, "the same initialisation"
        assert len({fit.plan.seed for fit in group}) == 1
        assert len({fit.plan.steps_per_epoch for fit in group}) == 1
        assert len({fit.training for fit in group if not fit.training.model_extra}) == 1
        assert len({fit.identity for fit in group}) == len(roles)
    assert fits["student/replica0"].seed != fits["student/replica1"].seed
    labelled = prepared.samples.labelled_rows("train").tolist()
    assert fits["labels/replica0"].plan.rows.tolist() == labelled
    assert fits["labels/replica0"].teacher_infos == ()
    train = prepared.samples.splits["train"].tolist()
    assert all(
        fits[f"{role}/replica0"].plan.rows.tolist() == train
        for role in ("student", "best_teacher", "hard")
    )
    assert [(v.name, v.temperature) for v in fits["student/replica0"].teacher_infos] == [
        ("wide", 1.0),
        ("conv", 2.5),
    ]
    assert fits["student/replica0"].teachers == {"wide": "print of wide", "conv": "print of conv"}
    assert fits["best_teacher/replica0"].teachers == {"wide": "print of wide"}
    assert fits["labels/replica0"].teachers == {}


def test_a_factor_for_each_class(tree):
    found = problems(tree, "objective.labels.class_weights=[1, 2]")
    assert found["objective.labels.class_weights"].startswith(
        "has 2 factors; the data has 10 classes"
    )
    prepare(load_config(tree, ["objective.labels.class_weights=[1,2,3,4,5,6,7,8,9,10]"]))


def test_batch_norm_gets_no_batch_of_one(tree):
    tree["student"] = {"model": "raykd_test_models:normed"}
    tree["teachers"] = [factory("normed", fit={"epochs": 1, "batch_size": 199})]
    rows = len(
        prepare(load_config(tree, ["teachers.mine.fit.batch_size=100"])).samples.splits["train"]
    )
    found = problems(tree, f"train.batch_size={rows - 1}")
    assert set(found) == {"teachers.mine.fit.batch_size", "train.batch_size"}
    one = found["teachers.mine.fit.batch_size"]
    assert "is 199, which leaves 1 of 200 samples" in one
    assert "set it to 200" in one
    three = [f"train.batch_size={rows - 3}", "teachers.mine.fit.batch_size=100"]
    prepare(load_config(tree, three))
    assert "leaves 3 of" in problems(tree, *three, "cluster.student.workers=2")["train.batch_size"]


def test_a_fit_is_known_by_the_code_of_its_own_model(tree, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    tree["teachers"] = [{"name": "own", "model": "raykd_edited:make", "fit": {"epochs": 1}}]
    tree["student"] = {"model": "raykd_edited:make"}
    code = """from torch import nn

class Own(nn.Sequential):
    def forward(self, x):
        return super().forward(x{})

def make():
    return Own(nn.Flatten(), nn.Linear(64, 10))

def other():
    {}
"""

    def identities(*written):
        (tmp_path / "raykd_edited.py").write_text(code.format(*written))
        linecache.clearcache()
        sys.modules.pop("raykd_edited", None)
        importlib.invalidate_caches()
        prepared, fits = fits_of(tree, best="own")
        return teacher_fit(prepared, prepared.config.teachers[0]).identity, fits[
            "student/replica0"
        ].identity

    first = identities("", "pass")
    assert identities("", "return 'what no model calls'") == first
    assert all(a != b for a, b in zip(identities(" * 3", "pass"), first, strict=True))
    assert identities("", "pass") == first


@pytest.mark.parametrize(
    ("labels", "fitted"),
    [([0, 1, 2, 0], None), ([0, 1, 2, 1], True), ([0, -1, -1, -1], None), ([-1] * 4, None)],
    ids=["all right", "one wrong", "one label", "none"],
)
def test_a_temperature_is_fitted_where_labels_allow(labels, fitted, heard):
    """Without a wrong answer the loss has no minimum: T would be 0.01 and every target one-hot."""
    logits = 6 * torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0, 1, 1]), 3).float()
    samples = SimpleNamespace(
        task="classification",
        labels=np.array([*labels, 2, 1]),  # the last two are of the half that chooses
        ids=np.array([3, 4, 5, 7, 0, 1]),
        splits={"validation": np.arange(6)},
        class_count=3,
        per_unit=lambda _, values: values,
    )
    samples.unit_labels = lambda rows: samples.labels[rows]
    wide = SimpleNamespace(settings=SimpleNamespace(temperature="fit"), known=None)
    prepared = SimpleNamespace(samples=samples, teachers={"wide": wide})
    found = temperatures(prepared, {"wide": SimpleNamespace(values_NC=logits)}, heard)["wide"]
    told = [event.values["text"] for event in heard]
    if fitted:
        assert found == fit_temperature(logits[:4], torch.tensor(labels)) > 1
        assert told == []
    else:
        assert found == 1.0
        assert [text.partition(":")[0] for text in told] == ["teachers.wide.temperature is 1"]


def test_the_order_of_replicas_differs(tree):
    tree["seeds"] = 2
    _, fits = fits_of(tree)
    one, other = (fits[f"student/replica{r}"].plan.batch(0, 0)[0] for r in range(2))
    assert one.tolist() != other.tolist()


def test_modes():
    assert target_mode(load_config("digits"))[0] == "stored"
    assert target_mode(load_config("digits", ["data.views.count=null"]))[0] == "live"
    assert target_mode(load_config("digits", ["targets.mode=live"]))[0] == "live"


@pytest.mark.parametrize(
    ("overrides", "cpus", "overlaps"),
    [
        ([], 3, True),
        ([], 2, False),
        (["cluster.teachers.cpus=0.5"], 2, True),
        (["cluster.student.cpus=2"], 3, False),
        (["cluster.student.workers=2"], 8, False),
        (["targets.mode=stored"], 8, False),
        (["targets.mode=live"], 8, False),
    ],
)
def test_whether_teachers_can_work_beside_the_first_student(tree, overrides, cpus, overlaps):
    placement = make_placement(load_config(tree, overrides), Resources(cpus, 0, local=False))
    assert placement.overlaps is overlaps
    here = make_placement(load_config(tree, overrides), Resources(cpus, 0, local=True))
    assert not here.overlaps, "on one machine all cores fill the store first"
    assert here.seats == (0 if "targets.mode=live" in overrides else cpus)


def test_teachers_answer_in_turns_where_they_ask_for_more_cpus_than_there_are(tree):
    four = [{**tree["teachers"][0], "name": f"t{k}"} for k in range(4)]
    place = make_placement(load_config({**tree, "teachers": four}), Resources(2, 0, local=False))
    assert (place.seats, place.shared) == (2, True)
    enough = make_placement(load_config({**tree, "teachers": four}), Resources(4, 0, local=False))
    assert enough.seats == 0, "each has an actor of its own"
    for special in ("replicas=2", "cpus=1.5"):
        with pytest.raises(InputError, match=r"cluster.teachers.cpus"):
            make_placement(
                load_config({**tree, "teachers": four}, [f"cluster.teachers.{special}"]),
                Resources(2, 0, local=False),
            )


@pytest.mark.parametrize(
    ("samples", "overlaps", "mode", "said"),
    [
        (2_900, True, "stored", "teacher 'conv' about 29 s (2,900 samples at 100 a second), less than 30 s"),
        (3_100, True, "write_through", "scoring takes teacher 'conv' about 31 s (3,100 samples at 100 a"),
        (3_100, False, "stored", "because"),
        (0, True, "stored", "because"),
    ],
)  # fmt: skip
def test_whether_the_store_is_filled_ahead(samples, overlaps, mode, said):
    placement = Placement("stored", "because", {}, overlaps=overlaps)
    lacking = {"wide": samples, "conv": samples} if samples else {}
    found, why = choose_mode(placement, lacking, {"wide": 1e4, "conv": 100})
    assert found == mode
    assert said in why


def test_what_was_asked_for_is_done_whatever_it_takes():
    slow = ({"wide": 10**6}, {"wide": 1.0})
    for mode in ("write_through", "live"):
        assert choose_mode(Placement(mode, "asked", {}), *slow) == (mode, "asked")


def test_a_local_cluster_shares_its_cores_among_the_teachers(tree):
    config = load_config(tree, ["cluster.teachers.replicas=2"])
    places = make_placement(config, LOCAL).teachers
    assert sum(p.replicas * p.cpus for p in places.values()) <= 2
    assert places["wide"].cpus == pytest.approx(0.5)
    for mode in ("live", "write_through"):
        live = make_placement(load_config(tree, [f"targets.mode={mode}"]), LOCAL).teachers
        assert sum(p.replicas * p.cpus for p in live.values()) <= 1, "the student's core is its own"


def test_a_remote_cluster_is_taken_as_it_is(tree):
    assert make_placement(load_config(tree), REMOTE).teachers["wide"].cpus == 1.0
    with pytest.raises(
        InputError, match=r"cluster.teachers.cpus: teachers ask for 16 CPUs, 4 are free"
    ):
        make_placement(load_config(tree, ["cluster.teachers.cpus=8"]), REMOTE)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["cluster.student.workers=3"], "cluster.student.workers"),
        (["cluster.student.parallel_fits=3"], "cluster.student.parallel_fits"),
        (["cluster.student.gpus=1"], "cluster.student.gpus"),
        (["cluster.teachers.gpus=1"], "cluster.teachers.gpus"),
        (["teachers.wide.resources.gpus=0.5"], "cluster.teachers.gpus"),
    ],
)
def test_more_than_there_is(tree, overrides, key):
    with pytest.raises(InputError) as caught:
        make_placement(load_config(tree, overrides), LOCAL)
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize(
    ("multiply_adds", "cpus", "overrides", "threads"),
    [
        (0, 4, [], 1),
        (1.56e6, 4, [], 1),
        (1.57e6, 4, [], 2),
        (3.2e6, 4, [], 4),
        (3.2e6, 2, [], 2),
        (1e9, 64, [], 8),
        (1.57e6, 4, ["train.batch_size=64"], 1),
        (1e9, 4, ["cluster.student.workers=2"], 2),
        (1e9, 4, ["cluster.student.workers=[1,8]"], 1),
        (1e9, 4, ["cluster.student.parallel_fits=3"], 1),
        (1e9, 4, ["cluster.student.gpus=1"], 1),
        (1e9, 4, ["targets.mode=live"], 1),
        (1e9, 4, ["data.views.count=null"], 1),
        (1e9, 4, ["peers={type: codistillation, count: 2}"], 2),
    ],
)
def test_threads_of_a_fit_follow_from_its_work_and_the_cpus(
    tree, multiply_adds, cpus, overrides, threads
):
    config = load_config(tree, ["train.batch_size=128", *overrides])
    assert threads_of(config, multiply_adds, cpus) == threads


def test_tokens_of_recurrent_layers_follow_one_another(monkeypatch):
    monkeypatch.setattr(preparation, "multiply_adds", lambda *_: 64e6)
    inputs = {"tokens": torch.zeros(2, 64, dtype=torch.int64)}
    recurrent, all_at_once = nn.Sequential(nn.GRU(3, 5)), nn.Sequential(nn.Linear(3, 5))
    assert preparation._work_at_once(recurrent, inputs) == 1e6
    assert preparation._work_at_once(all_at_once, inputs) == 64e6


def test_a_large_student_has_several_threads_from_the_beginning_to_the_end(tree, monkeypatch):
    monkeypatch.setattr("raykd.pipeline.preparation.cpu_count", lambda: 3)
    wide = ["student.model.width=32", "student.model.depth=3"]
    small, large = load_config(tree), load_config(tree, wide)
    assert prepare(small).config.cluster.student.threads == 1
    prepared = prepare(large)
    assert prepared.config.cluster.student.cpus == 3
    assert vary(prepared, small).config.cluster.student.cpus == 3, "so that both are compared alike"
    assert prepare(large, address="auto").config.cluster.student.cpus == 1
    given = load_config(tree, [*wide, "cluster.student.cpus=1.5"])
    assert prepare(given).config.cluster.student.cpus == 1.5
    fits = fits_with(prepared)
    assert {fit.threads for fit in fits} == {3}
    alone = replace(fits[0], threads=1)
    assert fits[0].identity not in alone.identities
    assert set(alone.identities) < set(fits[0].identities), "what was kept before counts as its own"


@pytest.mark.parametrize(
    ("overrides", "resources", "lanes"),
    [
        ([], "LOCAL", 2),
        (["cluster.student.cpus=2"], "LOCAL", 1),
        (["cluster.student.workers=2"], "LOCAL", 1),
        (["cluster.student.workers=[1,2]"], "LOCAL", 1),
        (["cluster.student.parallel_fits=1"], "LOCAL", 1),
        (["targets.mode=live"], "LOCAL", 1),
        ([], "REMOTE", 1),
        (["cluster.student.parallel_fits=3"], "REMOTE", 3),
    ],
)
def test_how_many_fits_train_side_by_side(tree, overrides, resources, lanes):
    assert make_placement(load_config(tree, overrides), globals()[resources]).lanes == lanes


@pytest.mark.parametrize(
    ("workers", "overrides", "resources", "placed", "says"),
    [
        ("[1,2]", [], "LOCAL", (1, 2), None),
        ("[1,8]", [], "LOCAL", (1, 2), "1 to 8, there is room for 2 of them"),
        ("[1,8]", ["targets.mode=live"], "LOCAL", (1, 1), "room for 1 of them"),
        ("[2,8]", [], "REMOTE", (2, 8), "2 to 8, there is room for 4 of them now"),
        ("[2,8]", ["targets.mode=live"], "REMOTE", (2, 8), "room for 2 of them now"),
        ("[2,2]", [], "REMOTE", (2, 2), None),
    ],
)
def test_a_varying_number_of_workers_needs_room_for_the_fewest(
    tree, workers, overrides, resources, placed, says
):
    config = load_config(tree, [f"cluster.student.workers={workers}", *overrides])
    placement = make_placement(config, globals()[resources])
    assert (placement.student.fewest, placement.student.most) == placed
    assert (placement.note is None) == (says is None)
    assert says is None or says in placement.note
    with pytest.raises(InputError, match=r"cluster\.student\.workers: 9 workers of 1 CPUs"):
        make_placement(load_config(tree, ["cluster.student.workers=[9,10]"]), globals()[resources])


def test_a_teacher_s_own_resources_override(tree):
    overrides = ["teachers.wide.resources.replicas=3", "teachers.wide.resources.cpus=0.25"]
    found = make_placement(load_config(tree, overrides), REMOTE).teachers
    assert (found["wide"].replicas, found["wide"].cpus) == (3, 0.25)
    assert (found["conv"].replicas, found["conv"].cpus) == (1, 1.0)


def test_a_teacher_s_fit_sees_the_labels_it_may(tree):
    tree = deepcopy(tree)
    tree["teachers"][1]["labels"] = "all"
    prepared = prepare(load_config(tree))
    budget, every = (teacher_fit(prepared, prepared.teachers[n].settings) for n in ("wide", "conv"))
    assert len(budget.plan.rows) == 200
    assert len(every.plan.rows) == len(prepared.samples.splits["train"])
    assert (budget.labels, every.labels) == ("budget", "all")
    assert budget.seed != every.seed
    assert teacher_fit(prepared, prepared.teachers["wide"].settings).identity == budget.identity


def test_a_store_that_the_disk_has_no_room_for(tree, monkeypatch, tmp_path):
    """Asked for it is refused beforehand; left to us, teachers are served live."""
    from raykd.pipeline import recipe_store

    monkeypatch.setenv("RAYKD_HOME", str(tmp_path))
    prepared = prepare(load_config(tree))
    needed = recipe_store.RecipeStore(prepared).whole_bytes()
    splits, views = prepared.samples.splits, prepared.config.data.views.count
    rows = views * len(splits["train"]) + len(splits["validation"]) + len(splits["test"])
    assert needed == len(prepared.teachers) * rows * (10 * 2 + 4 + 16)
    usage = SimpleNamespace(free=2 * needed)
    monkeypatch.setattr(recipe_store.shutil, "disk_usage", lambda path: usage)
    assert recipe_store.RecipeStore(prepared).shortage() is None
    usage.free = needed // 2
    why = recipe_store.RecipeStore(prepared).shortage()
    assert f"has room for {0.95 * usage.free / 1e9:,.2f} GB" in why
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "view+00000-0.safetensors").write_bytes(bytes(needed))
    assert recipe_store.RecipeStore(prepared).shortage() is None, "it may be these targets"
    placement = make_placement(prepared.config, REMOTE, why)
    assert (placement.mode, placement.reason) == ("live", why)
    with pytest.raises(InputError, match=r"targets.store: the targets take .* another disk"):
        make_placement(load_config(tree, ["targets.mode=stored"]), REMOTE, why)
