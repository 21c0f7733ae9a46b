"""Students that write themselves: rounds, batches, resume, what is asked and how often; no Ray."""

from __future__ import annotations

import io
import json
import os
import signal
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import ray
import torch

from raykd.config.data import Data
from raykd.config.models import GruLmModel
from raykd.config.objective import Objective
from raykd.config.root import TeacherCluster
from raykd.config.training import Training
from raykd.data import Dataset, encode_texts
from raykd.data.samples import samples_of
from raykd.ensemble.sequences import bayesian_mixture
from raykd.errors import CheckpointError, PreemptedError, TargetError
from raykd.folders import RunFolder
from raykd.models import build_model
from raykd.models.preprocess import Preprocess, preprocessing_for
from raykd.models.weights import load_weights
from raykd.objective import TeacherInfo
from raykd.targets import EntryKey, Ticket, codec
from raykd.targets.packing import Packing
from raykd.targets.written import MANIFEST, TEXTS, read_texts
from raykd.teachers import ActorFleet, LiveTargets, TeacherResources
from raykd.teachers.client import Client
from raykd.teachers.model import Spec, TeacherModel
from raykd.teachers.on_policy import AskedBeside
from raykd.train import Fit, FolderReporter, Plan, World, on_policy, train
from raykd.train.fit import build_module, build_network
from raykd.train.mixed_batches import MixedBatches
from raykd.train.writing import written_texts
from raykd.types import CHUNKS, Dense, joined_batches

LENGTH, NAMES = 16, ("a", "b")
TOP = Packing(top_k=8, temperatures=(1.0,))


class Killed(BaseException):
    """Nothing may catch it."""


@pytest.fixture(scope="module")
def samples():
    texts = [f"{'lorem ipsum' if n % 2 else 'do re mi fa'} {n:03}" for n in range(40)]
    dataset = Dataset(
        {"text": encode_texts(texts, 40)},
        np.arange(40) % 2,
        splits={"validation": np.arange(30, 35), "test": np.arange(35, 40)},
        classes=("latin", "music"),
        task="language",
    )
    data = Data.model_validate(
        {"source": {"type": "corpora"}, "tokens": {"length": LENGTH}, "splits": {}}
    )
    return samples_of(dataset, data, seed=0, columns=())


@pytest.fixture(scope="module")
def teachers(samples):
    """Name -> a recurrent model with random weights."""
    preprocessing = preprocessing_for(Preprocess(), samples, key="p")
    shape = preprocessing.output_shape(samples.input_shape)

    def make(seed, packing):
        torch.manual_seed(seed)
        model = GruLmModel(width=0.0625)
        built = build_model(model, input_shape=shape, classes=256, key="t")
        spec = Spec(
            name=NAMES[seed], key="t", model=model, weights=built.state_dict(), preprocessing=preprocessing,
            input_shape=samples.input_shape, outputs=256, classes=256, label_map=None, kind="logits",
            dtype="float32", batch_size=8, packing=packing,
        )  # fmt: skip
        return TeacherModel(spec)

    return {
        packing: {name: make(seed, packing) for seed, name in enumerate(NAMES)}
        for packing in (Packing(), TOP)
    }


@pytest.fixture
def make_fit(samples):
    def make(epochs=4, batch_size=8, every=2, training=None, **given):
        rows = samples.splits["train"]
        objective = {
            "labels": {"weight": 0.5},
            "soft_targets": {"temperature": 1.0},
            "weighting": {"type": "bayesian"},
            "on_policy": {"every": every, "prompt": 4, **given},
        }
        optimizer = {"type": "adamw", "lr": 0.02}
        settings = {"epochs": epochs, "batch_size": batch_size, "optimizer": optimizer}
        return Fit(
            fit_id="student/replica0",
            stage="student",
            key="student.model",
            model=GruLmModel(width=0.0625, dropout=0.1, depth=2),
            preprocessing=preprocessing_for(Preprocess(), samples, key="p"),
            weights=None,
            objective=Objective.model_validate(objective),
            teacher_infos=tuple(map(TeacherInfo, NAMES)),
            student_shapes={},
            teacher_shapes={},
            training=Training.model_validate({**settings, **(training or {})}),
            plan=Plan(rows=rows, epoch_rows=len(rows), batch_size=batch_size, seed=5, views=0),
            seed=11,
            labels="budget",
            data="digest",
        )

    return make


class Pool:
    """Teachers in this process that answer for the data."""

    at_once = True

    def __init__(self, samples, models):
        self.samples, self.models, self.rows = samples, models, Counter()

    def submit(self, batch):
        assert batch.generated_B is None
        self.rows.update(batch.rows.tolist())
        return Ticket(batch)

    def collect(self, ticket, timeout_s):
        given = self.samples, ticket.batch.rows.numpy(), ticket.batch.view_B.numpy() + 1
        return {n: codec.decode_learnt(one.score(*given)) for n, one in self.models.items()}


class Beside:
    """The same teachers, asked about what a student writes; the process may end at an answer, a teacher may be lost."""

    def __init__(self, samples, models, *, kill_at=None, lost=()):
        self.pool, self.models, self.temperatures = Pool(samples, models), models, {}
        packing = models["a"].spec.packing
        self.keys = {
            name: EntryKey(f"fingerprint-{name}", "none", codec=codec.version("logits", packing))
            for name in models
        }
        self.kill_at, self.lost, self.answered, self.tokens = kill_at, lost, 0, Counter()

    def ask(self, name, inputs):
        return inputs

    def answer(self, name, inputs):
        if self.answered == self.kill_at:
            raise Killed
        self.answered += 1
        if name in self.lost:
            return None
        arrays = self.models[name].score_inputs(inputs, whole=False)
        self.tokens[name] += int(arrays["offsets"][-1])
        return arrays


class Runs:
    def __init__(self, root, samples, models):
        self.root, self.samples, self.models = root, samples, models
        self.heard = []

    def __call__(self, fit, name="run", *, beside=None, **given):
        beside = beside or Beside(self.samples, self.models)
        return train(fit, self.samples, beside, self.reporter(name), World(), **given)

    def reporter(self, name):
        return FolderReporter(RunFolder(self.root / name), self.heard.append)

    def folder(self, fit, name="run"):
        return self.reporter(name).folder(fit.fit_id).path

    def weights(self, fit, name="run"):
        return load_weights(self.reporter(name).folder(fit.fit_id).weights("last"), key="t")

    def rounds(self, fit, name="run"):
        return sorted((self.folder(fit, name) / "on_policy" / fit.identity[:16]).iterdir())


@pytest.fixture
def runs(tmp_path, samples, teachers, one_thread):
    return Runs(tmp_path, samples, teachers[Packing()])


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def told(runs):
    return [e.values["on_policy"] for e in runs.heard if e.kind == "epoch"]


# --- rounds ---


def test_each_round_is_written_and_scored_once(runs, make_fit, samples):
    fit, beside = make_fit(epochs=5, every=2, share=0.5), Beside(samples, runs.models)
    result = runs(fit, beside=beside)["on_policy"]
    manifests = [json.loads((one / MANIFEST).read_text()) for one in runs.rounds(fit)]
    assert [m["round"] for m in manifests] == [0, 1, 2]
    assert {m["fit"] for m in manifests} == {fit.fit_id}
    assert [m["epoch"] for m in manifests] == [0, 2, 4]
    assert len({m["student"] for m in manifests}) == 3, "from the weights of then"
    assert len({m["texts"] for m in manifests}) == len({m["prompts"] for m in manifests}) == 3
    sequences = fit.objective.on_policy.of_epoch(fit.plan.epoch_rows, 8)
    tokens = 3 * sequences * (LENGTH - 4)
    assert (result["rounds"], result["sequences"]) == (3, 3 * sequences)
    assert result["teacher_tokens"] == dict(beside.tokens) == dict.fromkeys(NAMES, tokens)
    assert [one["round"] for one in told(runs)] == [0, 0, 1, 1, 2]
    assert told(runs)[-1]["teacher_tokens"] == 2 * tokens
    left = [one.name for folder in runs.rounds(fit) for one in folder.iterdir()]
    assert set(left) == {MANIFEST, TEXTS}, "what teachers said is not needed any more"


def test_prompts_are_the_beginnings_of_training_texts(runs, make_fit, samples):
    fit = make_fit(epochs=1, sequences=9, tokens=7)
    runs(fit)
    texts, _ = read_texts(runs.rounds(fit)[0], fit.fit_id, fit.identity, 0)
    assert len(texts) == 9
    assert np.isin(texts.rows, samples.splits["train"]).all()
    assert np.array_equal(texts.tokens[:, 0, :4], samples.inputs[CHUNKS][texts.rows, 0, :4])
    assert (texts.tokens[:, 1] == np.isin(np.arange(LENGTH), np.arange(4, 11))).all()
    assert (texts.tokens[:, 0, 11:] == 0).all()


CONSTANT = {"schedule": {"type": "constant"}}


def test_before_the_first_round_all_is_as_without_one(runs, make_fit, samples):
    late = make_fit(epochs=2, from_epoch=1, training=CONSTANT)
    short = make_fit(epochs=1, training=CONSTANT)
    plain = replace(short, objective=short.objective.model_copy(update={"on_policy": None}))
    train(plain, samples, Pool(samples, runs.models), runs.reporter("plain"), World())
    states = runs.folder(late) / "state.pt"

    class Stops(Beside):
        def answer(self, name, inputs):
            raise Killed

    with pytest.raises(Killed):
        runs(late, beside=Stops(samples, runs.models))
    saved = torch.load(io.BytesIO(states.read_bytes()[:-16]), weights_only=True)["module"]
    found = {n.removeprefix("network.model."): tensor for n, tensor in saved.items()}
    assert equal(found, runs.weights(plain, "plain"))
    assert "on_policy" not in runs.heard[-1].values


# --- batches ---


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_every_batch_has_its_share_and_every_pass_all(runs, make_fit, samples, share):
    fit = make_fit(epochs=4, every=4, share=share, sequences=11)
    seen: list = []
    submit = MixedBatches.submit

    def watched(self, epoch, step):
        ticket = submit(self, epoch, step)
        seen.append(ticket.batch)
        return ticket

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MixedBatches, "submit", watched)
        beside = Beside(samples, runs.models)
        assert runs(fit, beside=beside)["steps"] == 4 * fit.plan.steps_per_epoch == len(seen)
    steps = range(fit.plan.steps_per_epoch)
    sizes = [len(fit.plan.batch(epoch, step)[0]) for epoch in range(4) for step in steps]
    assert [len(batch) for batch in seen] == sizes, "as many updates of the same sizes"
    own = [0 if b.generated_B is None else int(b.generated_B.sum()) for b in seen]
    assert own == [int(share * size + 0.5) for size in sizes]
    places = [r for b in seen if b.generated_B is not None for r in b.rows[b.generated_B].tolist()]
    for start in range(0, len(places) - 11, 11):
        assert sorted(places[start : start + 11]) == list(range(11)), "each text once in a pass"
    shown = beside.pool.rows
    assert sum(shown.values()) == sum(sizes) - sum(own)
    assert not shown or max(shown.values()) - min(shown[r] for r in fit.plan.rows.tolist()) <= 1


def test_what_was_written_is_no_label(samples, make_fit):
    fit = make_fit(epochs=1)
    texts = written_texts(
        build_network(fit, samples).model, samples, fit.plan.rows, fit.objective.on_policy,
        seed=3, count=3, device=torch.device("cpu"),
    )  # fmt: skip
    pool, own = samples.batch(fit.plan.rows[:2], 0), texts.batch(np.arange(3), samples)
    both = joined_batches([pool, own])
    assert both.unit_offsets.tolist()[-1] == len(both.labels)
    assert both.generated_B.tolist() == [False, False, True, True, True]
    assert (
        own.labels[:, 2].tolist() == own.per_unit(torch.tensor(samples.labels[texts.rows])).tolist()
    )
    module = build_module(fit, samples)
    generator = torch.Generator().manual_seed(0)
    answers = {
        name: Dense(
            kind="logits",
            values_NC=torch.randn(len(both.labels), 256, generator=generator),
            valid_N=torch.ones(len(both.labels), dtype=torch.bool),
        )
        for name in NAMES
    }
    outputs = torch.randn(len(both.labels), 256, generator=generator)
    terms, weights_TN = module.objective(outputs, {}, both, answers)
    counted = terms["labels"].valid_N > 0
    assert counted.tolist() == (~both.per_unit(both.generated_B)).tolist()
    assert (terms["soft_targets"].valid_N > 0).all()
    said = torch.stack([one.values_NC.log_softmax(1) for one in answers.values()])
    said = said.gather(2, both.labels[None, :, :1].expand(2, -1, 1))[..., 0]
    expected = bayesian_mixture(said, both.unit_offsets)
    assert torch.allclose(weights_TN, expected), "teachers are weighed by what was written, too"


# --- resume ---


@pytest.mark.parametrize(
    ("packing", "points"),
    [
        pytest.param(Packing(), (1, 4, 6, 8, 13), id="dense"),  # of 16 steps, in rounds of 8
        pytest.param(TOP, (6, 12), id="top"),
    ],
)
def test_stopped_anywhere_it_ends_with_the_same_bits(
    runs, make_fit, samples, teachers, packing, points
):
    runs.models = teachers[packing]
    fit, beside = make_fit(), Beside(samples, runs.models)
    whole = runs(fit, "whole", beside=beside)
    for steps in points:
        name, asked = f"at{steps}", Counter()
        stopped = Beside(samples, runs.models)
        with pytest.raises(PreemptedError):
            runs(fit, name, beside=stopped, leaving=after(steps))
        rest = Beside(samples, runs.models)
        result = runs(fit, name, beside=rest)
        asked.update(stopped.tokens)
        asked.update(rest.tokens)
        assert {**result, "seconds": 0} == {**whole, "seconds": 0}
        assert equal(runs.weights(fit, name), runs.weights(fit, "whole"))
        assert asked == beside.tokens, "nothing was scored twice"


@pytest.mark.parametrize(("answers", "every"), [(0, 1), (2, 1), (3, 4)])
def test_killed_while_teachers_score_what_is_there_is_kept(
    runs, make_fit, samples, answers, every, monkeypatch
):
    monkeypatch.setattr(on_policy, "_PIECE", 4)
    fit = make_fit(training={"checkpoint_every_epochs": every})
    beside = Beside(samples, runs.models)
    whole = runs(fit, "whole", beside=beside)
    pieces = beside.answered // 2
    killed = Beside(samples, runs.models, kill_at=pieces + answers)  # within the second round
    with pytest.raises(Killed):
        runs(fit, beside=killed)
    rest = Beside(samples, runs.models)
    result = runs(fit, beside=rest)
    assert {**result, "seconds": 0} == {**whole, "seconds": 0}
    assert equal(runs.weights(fit), runs.weights(fit, "whole"))
    assert killed.tokens + rest.tokens == beside.tokens
    assert killed.answered + rest.answered == beside.answered


def test_a_lost_teacher_is_absent_and_asked_again_by_whoever_goes_on(runs, make_fit, samples):
    fit = make_fit(epochs=2, every=2)
    with pytest.raises(PreemptedError):
        runs(fit, beside=Beside(samples, runs.models, lost=("b",)), leaving=after(3))
    (folder,) = runs.rounds(fit)
    assert list(json.loads((folder / MANIFEST).read_text())["teachers"]) == ["a"]
    rest = Beside(samples, runs.models)
    result = runs(fit, beside=rest)["on_policy"]
    assert set(rest.tokens) == {"b"}
    assert result["teacher_tokens"]["a"] == result["teacher_tokens"]["b"]


def test_what_cannot_be_written_again_or_is_damaged_is_said(runs, make_fit):
    fit = make_fit()
    with pytest.raises(PreemptedError):
        runs(fit, leaving=after(6))
    (folder,) = runs.rounds(fit)
    texts = folder / TEXTS
    whole = texts.read_bytes()
    path = next(one for one in folder.glob("*/*.safetensors"))
    texts.write_bytes(
        whole.replace(b'"round": 0', b'"round": 7').replace(b'\\"round\\": 0', b'\\"round\\": 7')
    )
    with pytest.raises(TargetError, match="round 7, not of student/replica0, round 0"):
        runs(fit)
    texts.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TargetError, match=r"texts.safetensors is damaged"):
        runs(fit)
    texts.write_bytes(whole)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TargetError, match="is damaged"):
        runs(fit)
    texts.unlink()
    with pytest.raises(CheckpointError, match="is gone: what the student wrote"):
        runs(fit)


# --- a fleet ---


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_teacher_killed_while_it_scores_costs_nothing(
    runs, make_fit, samples, heard, monkeypatch
):
    monkeypatch.setattr(on_policy, "_PIECE", 4)
    fit = make_fit()
    whole = runs(fit, "whole")
    specs = {name: one.spec for name, one in runs.models.items()}
    settings = TeacherCluster(request_timeout_s=20, start_timeout_s=60)
    places = dict.fromkeys(specs, TeacherResources(1, 0.5, 0))
    with ActorFleet(specs, places, ray.put(samples), settings, heard) as fleet:
        process = {n: ray.get(one.ready.remote(), timeout=60) for n, (one,) in fleet.actors.items()}

        class Killing(AskedBeside):
            def ask(self, name, inputs):
                asked = super().ask(name, inputs)
                if name == "b" and (pid := process.pop("b", None)):
                    os.kill(pid, signal.SIGKILL)
                return asked

        client = Client(fleet.actors, settings, heard)
        keys = Beside(samples, runs.models).keys
        beside = Killing(LiveTargets(client, NAMES), client, keys, {})
        result = runs(fit, beside=beside)
        scored = {n: int(s["samples_scored"]) for n, s in fleet.statistics().items()}
    assert {"retry", "restart"} & set(heard.decisions())
    assert result["on_policy"] == whole["on_policy"]
    assert equal(runs.weights(fit), runs.weights(fit, "whole")), "live and killed, the same bits"
    assert scored["a"] >= result["on_policy"]["sequences"]


def after(steps):
    """Says after so many steps that the machine is about to be taken away."""
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None
