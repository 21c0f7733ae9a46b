"""Every wrong recipe is refused with its dotted key, all errors at once."""

from __future__ import annotations

import pytest

from raykd.config import load_config
from raykd.errors import InputError


@pytest.fixture
def tree(tiny_recipe):
    return tiny_recipe


def problems(tree, *overrides):
    with pytest.raises(InputError) as caught:
        load_config(tree, overrides)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_all_errors_at_once(tree):
    found = problems(
        tree,
        "train.epoch=3",
        "train.batch_size=0",
        "train.optimizer.type=sdg",
        "teachers.wide.fit.epochs=many",
        "teachers.conv.labels=some",
        "objective.soft_targets.temperature=-1",
        "cluster.teachers.on_failure=carry_on",
        "evaluate.controls=[labels, hrad]",
        "data.source.type=digit",
    )
    assert set(found) == {
        "train.epoch",
        "train.batch_size",
        "train.optimizer",
        "teachers.wide.fit.epochs",
        "teachers.conv.labels",
        "objective.soft_targets.temperature",
        "cluster.teachers.on_failure",
        "evaluate.controls.1",
        "data.source",
    }
    assert "did you mean 'epochs'" in found["train.epoch"]
    assert "did you mean 'sgd'" in found["train.optimizer"]
    assert "did you mean 'hard'" in found["evaluate.controls.1"]
    assert "did you mean 'digits'" in found["data.source"]
    assert "-1" in found["objective.soft_targets.temperature"]


@pytest.mark.parametrize(
    "key",
    ["sede", "data.veiws", "data.views.polcy", "student.modell", "objective.labels.wieght",
     "targets.mod", "cluster.student.worker", "evaluate.control", "tracking.wandb.projct",
     "teachers.wide.expect.acuracy", "teachers.conv.resources.cpu"],
)  # fmt: skip
def test_an_unknown_key_is_refused_everywhere_with_its_near_name(tree, key):
    found = problems(tree, f"{key}=1")
    assert set(found) == {key}
    assert "unknown key; did you mean" in found[key]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=true", "seed"),
        ("seed=-1", "seed"),
        ("seeds=1.5", "seeds"),
        ("data.labels=-3", "data.labels"),
        ("data.labels=1.5", "data.labels"),
        ("data.views.count=0", "data.views.count"),
        ("train.ema=1.0", "train.ema"),
        ("train.optimizer.lr=.nan", "train.optimizer.lr"),
        ("train.optimizer.lr=.inf", "train.optimizer.lr"),
        ("train.precision=float8", "train.precision"),
        ("student.model.path=os.system", "student.model.path"),
        ("teachers.wide.name=a b", "teachers.a b.name"),
        ("teachers.wide.name=../up", "teachers.../up.name"),
        ("teachers=[]", "teachers"),
        ("evaluate.require=[accuracy is good]", "evaluate.require.0"),
        ("cluster.student.workers=0", "cluster.student.workers"),
        ("cluster.student.workers=[2,1]", "cluster.student.workers"),
        ("cluster.student.workers=[1]", "cluster.student.workers"),
        ("cluster.student.workers=[true,2]", "cluster.student.workers"),
    ],
)
def test_values_out_of_range(tree, override, key):
    if override.startswith("student.model.path"):
        tree["student"]["model"] = {"type": "factory", "path": "a:b"}
    assert key in problems(tree, override)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["teachers.conv.name=wide"], "teachers.wide"),
        (["teachers.wide.fit=null"], "teachers.wide"),
        (["teachers.wide.kind=probabilities"], "teachers.wide.kind"),
        (["teachers.wide.label_map=[0, 1]"], "teachers.wide.label_map"),
        (["teachers.wide.fit.freeze=[linear]"], "teachers.wide.fit.freeze"),
        (["teachers.wide.outputs=a.csv"], "teachers.wide.fit"),
        (["teachers.wide.model=null"], "teachers.wide.model"),
        (["student.model={type: resnet, depth: 9}"], "student.model.depth"),
        (["student.model={type: wrn, depth: 8}"], "student.model.depth"),
        (["objective.labels.weight=0", "objective.soft_targets=null"], "objective"),
        (["objective.weighting={type: fixed, weights: {wide: 1}}"], "objective.weighting.weights.conv"),
        (["objective.weighting={type: fixed, weights: {wide: 1, conv: 1, x: 1}}"],
         "objective.weighting.weights.x"),
        (["objective.weighting={type: fixed, weights: {wide: 0, conv: 0}}"], "objective.weighting.weights"),
        (["objective.features=[{loss: {type: hint}, teacher: wied, student_tap: a, teacher_tap: b}]"],
         "objective.features.0.teacher"),
        (["train.batch_size=1", "cluster.student.workers=2"], "train.batch_size"),
        (["train.batch_size=2", "cluster.student.workers=[1,3]"], "train.batch_size"),
        (["data.views.count=null", "targets.mode=stored"], "targets.mode"),
        (["data.views.count=null", "targets.mode=write_through"], "targets.mode"),
        (["cluster.student.workers=2", "targets.mode=write_through"], "targets.mode"),
        (["data.views.policy=[]"], "data.views.count"),
        (["teachers.wide={name: wide, outputs: a.csv}"], "teachers.wide.outputs"),
    ],
)  # fmt: skip
def test_combinations_that_cannot_work(tree, overrides, key):
    assert key in problems(tree, *overrides)


def test_the_near_name_of_a_teacher(tree):
    term = "{loss: {type: hint}, teacher: wied, student_tap: a, teacher_tap: b}"
    found = problems(tree, f"objective.features=[{term}]")
    assert "did you mean 'wide'" in found["objective.features.0.teacher"]


def test_errors_are_picklable(tree):
    import pickle

    with pytest.raises(InputError) as caught:
        load_config(tree, ["seed=-1"])
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - its own bytes
    assert again.problems == caught.value.problems


def test_without_labels_nothing_is_to_be_learnt_from_them():
    tree = {
        "data": {"source": {"type": "digits"}, "labels": 0},
        "teachers": [
            {"name": "own", "model": "mlp", "fit": {}},
            {"name": "all", "model": "mlp", "fit": {}, "labels": "all"},
            {"name": "trees", "model": "sklearn:sklearn.ensemble:ExtraTreesClassifier"},
        ],
        "student": {"model": "mlp"},
        "evaluate": {
            "controls": ["labels", "best_teacher", "hard"],
            "compare": ["sklearn:sklearn.svm:SVC"],
        },
    }
    with pytest.raises(InputError) as caught:
        load_config(tree)
    told = {problem.key: problem.message for problem in caught.value.problems}
    assert set(told) == {
        "evaluate.controls", "evaluate.compare.SVC.model.type",
        "teachers.own.labels", "teachers.trees.labels",
    }  # fmt: skip
    assert "set it to [best_teacher, hard]" in told["evaluate.controls"]
    tree["teachers"] = tree["teachers"][1:2]
    tree["evaluate"] = {"controls": ["hard"]}
    assert load_config(tree).data.labels == 0
    tree["task"] = "regression"
    with pytest.raises(InputError, match=r"data\.labels: is 0; the labelled training values"):
        load_config(tree)


def test_several_workers_cannot_share_a_gpu(tree):
    found = problems(tree, "cluster.student.gpus=0.5", "cluster.student.workers=2")
    assert "a GPU for each" in found["cluster.student.gpus"]
    assert load_config(tree, ["cluster.student.gpus=0.5"]).cluster.student.gpus == 0.5


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{a: 2020-01-02}", "datetime.date(2020, 1, 2)"),
        ("{a: [.nan]}", "holds nan"),
        ("{a: {0: x}}", "write '0'"),
    ],
)
def test_kwargs_hold_what_a_run_that_goes_on_reads_again(tree, value, words):
    """At 7d0af11 accepted: the run's config.json then had a text, null, or the key "0" in their place."""
    model = "student.model={type: factory, path: 'raykd_test_models:chance', kwargs: {}}"
    found = problems(tree, model, f"student.model.kwargs={value}")
    assert words in found["student.model.kwargs.a"]
