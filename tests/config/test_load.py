"""From YAML, layers and overrides to one frozen recipe."""

from __future__ import annotations

import json

import pytest
import yaml
from pydantic import ValidationError

from raykd.config import Config, load_config
from raykd.config.load import merge, read_recipe, recipe_names
from raykd.config.optimizers import DEFAULTS, default_optimizer
from raykd.errors import InputError

# design.md's recipe, without the keys that no stage reads yet.
DESIGN = """
task: classification
seed: 0
seeds: 5
data:
  source: {type: digits}
  splits: {validation: 0.15, test: 0.2}
  classes: null
  labels: 200
  views: {count: 4, policy: [{type: shift, pixels: 1}]}
teachers:
  - {name: wide, model: {type: resnet, width: 2.0, depth: 14}, fit: {epochs: 12, optimizer: {type: adamw, lr: 3.0e-3}}, labels: budget}
  - {name: mine, model: {type: factory, path: "my_models:make", kwargs: {}}, weights: mine.safetensors, temperature: 2.0, label_map: null, expect: {accuracy: 0.8}}
student:
  limits: {parameters: null, size_mb: null}
  model: {type: cnn, width: 0.25, depth: 3}
objective:
  labels: {weight: 0.1, smoothing: 0.0}
  soft_targets: {loss: {type: kl}, temperature: 4.0, weight: 0.9, combine: probabilities}
  weighting: {type: fixed, weights: {wide: 0.7, mine: 0.3}}
  features:
    - {loss: {type: attention}, teacher: wide, student_tap: layer2, teacher_tap: layer3, weight: 100.0}
targets: {mode: auto, store: null, depth: 2}
train: {epochs: 30, batch_size: 128, optimizer: {type: sgd, lr: 0.05, momentum: 0.9, weight_decay: 5.0e-4}, schedule: {type: cosine, warmup_epochs: 1}, precision: float32}
cluster: {student: {workers: 1, cpus: 1, gpus: 0}, teachers: {replicas: 1, cpus: 1, gpus: 0, request_timeout_s: 30, start_timeout_s: 120, on_failure: stop}}
evaluate: {controls: [labels, best_teacher, hard], require: ["student.test.accuracy >= 0.9"]}
tracking: {wandb: {mode: offline, project: raykd}}
"""


@pytest.fixture
def tree():
    return yaml.safe_load(DESIGN)


@pytest.fixture
def smallest():
    return {
        "data": {"source": {"type": "digits"}},
        "teachers": [{"name": "a", "model": "mlp", "fit": {}}],
        "student": {"model": "mlp"},
    }


def problems(tree, overrides=()):
    with pytest.raises(InputError) as caught:
        load_config(tree, overrides)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_recipe_of_the_design_says_what_it_says(tree):
    config = load_config(tree)
    assert config.teachers[0].fit.optimizer.lr == 3e-3
    assert config.teachers[1].temperature == 2.0
    assert config.objective.weighting.weights == {"wide": 0.7, "mine": 0.3}
    assert config.objective.features[0].teacher_tap == "layer3"
    assert config.cluster.teachers.request_timeout_s == 30


def test_outputs_teacher_without_a_model(tree):
    tree["teachers"] = [{"name": "known", "outputs": "outputs.safetensors"}]
    tree["objective"] = {}
    tree["data"]["views"] = {"count": 1, "policy": []}
    assert load_config(tree).teachers[0].outputs == "outputs.safetensors"


def test_everything_but_source_teachers_and_student_has_a_default(smallest):
    assert load_config(smallest).student.model.type == "mlp"
    for key in ("data", "teachers", "student"):
        assert problems({k: v for k, v in smallest.items() if k != key}) == {
            key: "is required and missing"
        }


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_loads(name):
    assert isinstance(load_config(name), Config)


def test_json_round_trip_is_the_same_recipe(tree):
    config = load_config(tree)
    again = load_config(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert again == config


def test_frozen(tree):
    config = load_config(tree)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3
    with pytest.raises(ValidationError, match="frozen"):
        config.teachers[0].name = "other"


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("seeds=2", lambda c: c.seeds, 2),
        ("teachers.1.temperature=3", lambda c: c.teachers[1].temperature, 3.0),
        ("teachers.mine.temperature=fit", lambda c: c.teachers[1].temperature, "fit"),
        ("teachers.wide.fit.optimizer.lr=1e-2", lambda c: c.teachers[0].fit.optimizer.lr, 0.01),
        ("data.labels=0.5", lambda c: c.data.labels, 0.5),
        ("data.labels=null", lambda c: c.data.labels, None),
        ("data.labels=", lambda c: c.data.labels, None),
        ("objective.features=[]", lambda c: c.objective.features, ()),
        ("objective.features.0.weight=3", lambda c: c.objective.features[0].weight, 3.0),
        ("evaluate.controls=[hard]", lambda c: c.evaluate.controls, ("hard",)),
        ("cluster.student.workers=2", lambda c: c.cluster.student.workers, 2),
        ("cluster.student.workers=[1,3]", lambda c: c.cluster.student.workers, (1, 3)),
        ("cluster.student.workers=[1,3]", lambda c: c.cluster.student.fewest, 1),
        ("cluster.student.workers=[1,3]", lambda c: c.cluster.student.most, 3),
    ],
)
def test_overrides(tree, override, get, value):
    assert get(load_config(tree, [override])) == value


def test_another_type_starts_the_entry_anew(tree):
    config = load_config(tree, ["train.optimizer.type=adamw", "student.model.type=mlp"])
    assert config.train.optimizer.betas == (0.9, 0.999)
    assert config.train.optimizer == DEFAULTS["mlp"], "sgd's learning rate must not leak into adamw"
    assert config.student.model.depth == 2


def test_naming_the_same_type_keeps_the_rest(tree):
    assert load_config(tree, ["train.optimizer.type=sgd"]).train.optimizer.lr == 0.05


def test_anchors_and_merged_keys_are_read(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(
        "a: &fit {epochs: 3, batch_size: 8}\nb: {<<: *fit, epochs: 5}\nc: {<<: [*fit, {x: 1}]}"
    )
    found = read_recipe(path)
    assert found["b"] == {"epochs": 5, "batch_size": 8}
    assert found["c"] == {"epochs": 3, "batch_size": 8, "x": 1}


@pytest.mark.parametrize(
    "text", ["a: 1\nb: 2\na: 3", "t: {x: 1, x: 1}", "l: [{y: 1, z: 2, y: 3}]", "? [1]\n: 2"]
)
def test_keys_given_twice_or_that_are_lists_are_refused(tmp_path, text):
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"is given twice|unhashable key"):
        read_recipe(path)


def test_later_layers_win_and_leave_the_earlier_ones_as_they_were(tmp_path, tree):
    base, more = tmp_path / "base.yaml", tmp_path / "more.yaml"
    base.write_text(DESIGN)
    more.write_text(
        "seeds: 2\ntrain: {epochs: 3, optimizer: {type: adamw}}\ndata: {views: {count: 7}}"
    )
    config = load_config([base, more])
    assert (config.seeds, config.train.epochs, config.train.batch_size) == (2, 3, 128)
    assert config.data.views.count == 7
    assert config.data.views.policy[0].pixels == 1
    assert config.train.optimizer == default_optimizer(config.student.model)
    before = json.dumps(tree)
    merge(tree, {"train": {"epochs": 3}})
    load_config(tree, ["teachers.wide.fit.epochs=1"])
    assert json.dumps(tree) == before


def test_shorthand_of_models(tree):
    config = load_config(tree, ["student.model=vit", "objective.features=[]"])
    assert config.student.model.type == "vit"
    config = load_config(tree, ["student.model=my_models:small", "objective.features=[]"])
    assert config.student.model.path == "my_models:small"
    config = load_config(tree, ["student.model=resnet", "student.model.depth=14"])
    assert config.student.model.depth == 14


def test_a_missing_recipe_names_the_packaged_ones():
    with pytest.raises(InputError, match="did you mean 'digits'"):
        load_config("digit")


@pytest.mark.parametrize("text", ["[1, 2]", "a: [1", "just words"])
def test_a_file_that_is_no_recipe(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml"):
        load_config(path)


def test_recipes_are_data(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"seed: !!python/object/apply:os.system ['touch {tmp_path}/ran']")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "override", ["seeds", "=3", "teachers.wied.temperature=1", "teachers.7.name=a", "seed.sub=1"]
)
def test_overrides_that_lead_nowhere(tree, override):
    with pytest.raises(InputError):
        load_config(tree, [override])


def test_an_unknown_teacher_in_an_override_gets_the_near_name(tree):
    with pytest.raises(InputError, match="did you mean 'wide'"):
        load_config(tree, ["teachers.wied.temperature=1"])
