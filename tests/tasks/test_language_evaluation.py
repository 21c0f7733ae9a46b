"""What evaluation keeps of a language model's answers, held against references over all tokens in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raykd.config.data import Data
from raykd.config.models import GruLmModel
from raykd.config.roles import Expect, Preprocess
from raykd.data.chunks import BYTES, DOMAIN, TOKEN, BytesAsTokens
from raykd.data.samples import build_samples
from raykd.ensemble import mean_probabilities
from raykd.errors import InputError, TeacherError
from raykd.evaluate import Evaluation, SplitOutputs
from raykd.evaluate.closeness import fidelity
from raykd.evaluate.ranking import rank_teachers
from raykd.export.predictions import evaluation_table
from raykd.models.network import Network
from raykd.models.preprocess import preprocessing_for
from raykd.pipeline.kept_answers import StoredAnswers, keep_stored, kept_of, teachers_beside
from raykd.report import tables
from raykd.targets.entries import EntryKey, TeacherKeys, append
from raykd.targets.shards import write_shard
from raykd.tasks.language import metrics as language
from raykd.tasks.language.figures import samples_of_text
from raykd.tasks.language.metrics import KL, LOG_P, METRICS, TOP
from raykd.teachers.model import Spec, TeacherModel
from raykd.train import validation
from raykd.train.validation import predict
from raykd.types import ORIGINAL_VIEW

NAMES = ("a", "b", "c")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def samples():
    data = {
        "source": {"type": "factory", "path": "tests_tasks_data:text_data"},
        "splits": {"validation": 8, "test": 8},
        "tokens": {"length": 24},
    }
    return build_samples(Data.model_validate(data), seed=0, task="language")


def network_of(samples, seed):
    from raykd.models import build_model

    preprocessing = preprocessing_for(Preprocess(), samples, key="p")
    torch.manual_seed(seed)
    shape = preprocessing.output_shape(samples.input_shape)
    model = build_model(GruLmModel(width=0.0625), input_shape=shape, classes=256, key="t")
    with torch.no_grad():  # sharper than fresh weights are, so that models part
        model.get_parameter("head.weight").mul_(20)
    return model, preprocessing


@pytest.fixture(scope="module")
def stored(samples, tmp_path_factory):
    """Three teachers, and their answers to all untransformed samples in two shards."""
    root, keys = tmp_path_factory.mktemp("store"), {}
    every = np.arange(len(samples))
    for seed, name in enumerate(NAMES):
        model, preprocessing = network_of(samples, seed)
        spec = Spec(
            name=name, key="t", model=GruLmModel(width=0.0625), weights=model.state_dict(),
            preprocessing=preprocessing, input_shape=samples.input_shape, outputs=256, classes=256,
            label_map=None, kind="logits", dtype="float32", batch_size=4,
        )  # fmt: skip
        teacher, key = TeacherModel(spec), EntryKey(spec.fingerprint, "original")
        for some in (every[:11], every[11:]):
            arrays = teacher.score(samples, some, np.full(len(some), ORIGINAL_VIEW))
            ids = {"ids": samples.ids[some], "hashes": samples.content_hash(some)}
            shard = write_shard(root / key.folder, ORIGINAL_VIEW, {**ids, **arrays}, key.to_json())
            append(root, key, [shard])
        keys[name] = TeacherKeys(key, key)
    return StoredAnswers(root, keys, None)


@pytest.fixture
def a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(validation, "_COMPARED", 3 * 24 * 256)
    monkeypatch.setattr(language, "_DOUBLES", 7 * 256)


def dense(samples, stored, rows):
    """Log-probabilities of the teachers and of their mean over all tokens, and labels; in float64."""
    outputs = stored.open(samples).gather(rows, ORIGINAL_VIEW)
    teachers = {name: outputs[name].values_NC.double().log_softmax(1) for name in NAMES}
    ensemble = torch.stack(list(teachers.values())).exp().mean(0).log()
    return teachers, ensemble, torch.from_numpy(samples.unit_labels(rows))


def bits_per_byte(log_probs, labels):
    """By domain, by hand."""
    found = []
    for domain in labels[:, DOMAIN].unique():
        own = labels[:, DOMAIN] == domain
        nats = -log_probs[own].gather(1, labels[own, TOKEN, None]).sum()
        found.append(float(nats / labels[own, BYTES].sum()) / math.log(2))
    return found


def numbers_of(log_probs, labels):
    own = log_probs.gather(1, labels[:, TOKEN, None])
    by_domain = bits_per_byte(log_probs, labels)
    return {
        "bits_per_byte": sum(by_domain) / len(by_domain),
        **{f"bits_per_byte.{number}": value for number, value in enumerate(by_domain)},
        "nll": -float(own.mean()),
        "perplexity": math.exp(-float(own.mean())),
        "token_accuracy": float((log_probs.argmax(1) == labels[:, TOKEN]).double().mean()),
    }


@pytest.mark.usefixtures("a_few_at_a_time")
def test_teachers_and_ensemble_have_the_numbers_of_all_tokens(samples, stored):
    rows = samples.splits["test"]
    teachers, ensemble, labels = dense(samples, stored, rows)
    kept = keep_stored(samples, stored, rows)
    assert list(kept.teachers) == list(NAMES)
    for name, log_probs in teachers.items():
        assert METRICS.numbers(kept.teachers[name], labels) == pytest.approx(
            numbers_of(log_probs, labels), rel=1e-6
        )
    assert METRICS.numbers(kept.ensemble, labels) == pytest.approx(
        numbers_of(ensemble, labels), rel=1e-6
    )
    at_once = kept_of(samples, rows, stored.open(samples).gather(rows, ORIGINAL_VIEW))
    assert torch.equal(at_once.ensemble, kept.ensemble), "parts change no bit"


@pytest.mark.usefixtures("a_few_at_a_time")
def test_a_student_is_held_against_its_teachers_in_parts(samples, stored):
    """The closeness over all tokens, and the divergence from each teacher."""
    rows = samples.splits["test"]
    teachers, ensemble, labels = dense(samples, stored, rows)
    model, preprocessing = network_of(samples, 0)
    with torch.no_grad():  # near to one of its teachers
        head = model.get_parameter("head.weight")
        head.add_(torch.randn(head.shape) * head.std() / 4)
    network = Network(model, preprocessing)
    found = predict(network, samples, rows, CPU, teachers_beside(samples, stored))
    assert found.shape == (len(labels), KL + 1 + len(NAMES))
    alone = predict(network, samples, rows, CPU)
    assert torch.equal(found[:, :KL], alone)
    with torch.inference_mode():
        inputs = samples.batch(rows, ORIGINAL_VIEW).inputs
        student = network(inputs).double().log_softmax(1)
    kept = keep_stored(samples, stored, rows)
    said = METRICS.fidelity(found, kept.ensemble, kept.teachers)
    expected = fidelity(student, ensemble, teachers)
    each = said.pop("kl_nats")
    assert said.pop("agreement") == pytest.approx(expected.pop("agreement"))
    assert said == pytest.approx(expected, rel=1e-6)
    assert list(each) == list(NAMES)
    for name, log_p in teachers.items():
        by_hand = (log_p.exp() * (log_p - student)).sum(1).mean()
        assert each[name] == pytest.approx(float(by_hand), rel=1e-6)
    assert 0 < said["agreement_ensemble"] < 1
    apart = METRICS.difference(found, kept.ensemble) > -torch.inf
    assert torch.equal(apart, student.argmax(1) != ensemble.argmax(1))


def test_a_token_that_a_teacher_rules_out_adds_nothing():
    log_p = torch.tensor([[0.5, 0.5, 0.0]]).log()
    log_q = torch.tensor([[0.25, 0.25, 0.5]]).log()
    found = language.divergences(log_q, log_p, [log_q])
    torch.testing.assert_close(found, torch.tensor([[math.log(2), 0.0]]))


def test_teachers_are_ranked_by_what_is_kept(samples, stored):
    rows = samples.splits["validation"]
    teachers, ensemble, labels = dense(samples, stored, rows)
    kept = keep_stored(samples, stored, rows)
    split = SplitOutputs(
        labels_N=labels, ids_N=torch.zeros(len(labels)), teachers=kept.teachers, ensemble=kept.ensemble,
        students={}, task="language",
    )  # fmt: skip
    found = rank_teachers(METRICS, split)
    assert found["ensemble"] == pytest.approx(numbers_of(ensemble, labels), rel=1e-6)
    last = [one["teacher"] for one in found["greedy"]]
    assert sorted(last) == sorted(NAMES)
    pair = torch.stack([teachers[name] for name in last[:2]])
    mixed = mean_probabilities(pair, torch.full(pair.shape[:2], 0.5))
    assert found["greedy"][1]["bits_per_byte"] == pytest.approx(
        numbers_of(mixed, labels)["bits_per_byte"], rel=1e-6
    )
    assert found["greedy"][-1]["nll"] == pytest.approx(
        numbers_of(ensemble, labels)["nll"], rel=1e-6
    )
    top = {name: log_probs.argmax(1) for name, log_probs in teachers.items()}
    share = float((top["a"] == top["b"]).double().mean())
    assert found["alike"]["a"]["b"] == pytest.approx(share)


def test_a_weak_teacher_is_refused_by_what_is_kept():
    labels = torch.tensor([[0, 1, 0, 0], [1, 1, 0, 0]])
    even = METRICS.kept(torch.full((2, 4), -math.log(4)), labels)
    check = METRICS.columns.check
    with pytest.raises(TeacherError, match=r"'w' needs 2\.000 bits per byte .* \(2\.000\)"):
        check("w", even, labels, Expect(), 4)
    assert check("w", even, labels, Expect(bits_per_byte=3), 4) == pytest.approx(2.0)
    with pytest.raises(TeacherError, match=r"expect\.bits_per_byte=1"):
        check("w", even, labels, Expect(bits_per_byte=1), 4)


def evaluation_of(samples, stored, width=KL):
    rows = samples.splits["test"]
    kept = keep_stored(samples, stored, rows)
    extra = torch.zeros(len(kept.ensemble), width - KL)
    split = SplitOutputs(
        labels_N=torch.from_numpy(samples.unit_labels(rows)),
        ids_N=torch.from_numpy(samples.per_unit(rows, samples.ids[rows]).copy()),
        user_ids=tuple(samples.named(samples.per_unit(rows, rows))),
        teachers={name: torch.cat([one, extra], 1) for name, one in kept.teachers.items()},
        ensemble=torch.cat([kept.ensemble, extra], 1),
        students={"student": kept.teachers["a"][None]},
        task="language",
    )
    return Evaluation(splits={"test": split}, task="language", classes=samples.classes)


def test_the_table_of_predictions_has_the_likeliest_tokens(samples, stored):
    evaluation = evaluation_of(samples, stored)
    table = evaluation_table(evaluation, None).to_pydict()
    test = evaluation.splits["test"]
    assert table["ensemble"] == [str(int(top)) for top in test.ensemble[:, TOP]]
    assert table["label"] == [str(token) for token in test.labels_N[:, TOKEN].tolist()]
    assert set(table) == {"id", "split", "label", "student", "ensemble", *(f"teachers.{n}" for n in NAMES)}  # fmt: skip


def test_what_an_earlier_version_kept_is_told(samples, stored, tmp_path, monkeypatch):
    """Answers over all tokens are not taken for columns."""
    evaluation = evaluation_of(samples, stored)
    evaluation.save(tmp_path / "own.safetensors")
    again = Evaluation.load(tmp_path / "own.safetensors").splits["test"]
    assert torch.equal(again.teachers["b"], evaluation.splits["test"].teachers["b"])
    with pytest.raises(ValueError, match="3 columns are kept of each unit, found 256"):
        evaluation_of(samples, stored, width=256)
    monkeypatch.setattr("raykd.evaluate.outputs._check_columns", lambda *_: None)
    evaluation_of(samples, stored, width=256).save(tmp_path / "old.safetensors")
    monkeypatch.undo()
    with pytest.raises(InputError, match="as an earlier version kept them"):
        Evaluation.load(tmp_path / "old.safetensors")


class Doubled(BytesAsTokens):
    """Every token stands for its byte twice."""

    def text(self, ids):
        return bytes(one for token in ids for one in (token, token))


def test_the_report_shows_pieces_of_text_as_the_tokenizer_spells_them(samples, stored):
    run = SimpleNamespace(evaluation=evaluation_of(samples, stored), tokenizer=Doubled())
    rows = samples_of_text(run).rows
    letters = "".join(row[0] for row in rows).replace(" ", "")
    assert letters
    assert all(one == other for one, other in zip(letters[::2], letters[1::2], strict=True))
    assert samples_of_text(SimpleNamespace(evaluation=run.evaluation, tokenizer=None)) is None


def test_log_p_is_that_of_the_token_itself(samples, stored):
    evaluation = evaluation_of(samples, stored)
    teachers, _, labels = dense(samples, stored, samples.splits["test"])
    own = teachers["c"].gather(1, labels[:, TOKEN, None])[:, 0]
    torch.testing.assert_close(evaluation.splits["test"].teachers["c"][:, LOG_P].double(), own)


def test_the_report_tells_how_far_the_student_is_from_each_teacher():
    value = {"mean": 0.5, "std": 0.1, "n": 2, "values": [0.4, 0.6]}
    told = {"agreement_ensemble": value, "kl_ensemble_nats": value, "agreement": {"a": value}}
    told["gap_recovered"] = {"ensemble": value, "best_teacher": value}
    run = SimpleNamespace(summary={"task": "language", "fidelity": {**told, "kl_nats": {"a": value}}})  # fmt: skip
    rows = {name: mean for name, mean, _ in tables.fidelity(run).rows}
    assert rows["KL(teacher ‖ student), nats per token, of a"] == "0.500"
    before = SimpleNamespace(summary={"task": "language", "fidelity": told})
    assert len(tables.fidelity(before).rows) == len(rows) - 1
