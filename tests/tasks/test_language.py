"""Texts learnt token by token: chunks, units of a batch, ragged answers, weights, and what is refused; no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests_tasks_data import text_data

from raykd.config import load_config
from raykd.config.data import Data
from raykd.config.models import GruLmModel, NgramModel
from raykd.config.objective import Objective
from raykd.config.training import Training
from raykd.data import Samples
from raykd.data.chunks import BytesAsTokens, Vocabulary, cut_documents
from raykd.data.samples import build_samples
from raykd.data.texts import encode_texts
from raykd.ensemble import WEIGHTINGS
from raykd.errors import InputError, PreemptedError, TargetError
from raykd.folders import RunFolder
from raykd.models.preprocess import Preprocess, preprocessing_for
from raykd.models.units import buckets
from raykd.models.weights import load_weights
from raykd.models.zoo.ngram import ngram_examples
from raykd.objective import DistillObjective, TeacherInfo, reduce_terms
from raykd.objective.rule import OUTPUT
from raykd.pipeline.model_checks import data_problems
from raykd.targets import Ticket, codec
from raykd.targets.entries import EntryKey, TeacherKeys, append
from raykd.targets.packing import PLAIN, Packing
from raykd.targets.ragged import joined, samples_in, taken
from raykd.targets.shards import write_shard
from raykd.targets.sizes import shard_bytes
from raykd.targets.store import TargetStore
from raykd.targets.stored import StoredTargets
from raykd.tasks import find_task
from raykd.tasks.language.metrics import METRICS, language_metrics
from raykd.teachers.model import Spec, TeacherModel
from raykd.top_k import take
from raykd.train import Fit, FolderReporter, Plan, World, train
from raykd.train.feed import parts_of
from raykd.types import CHUNKS, ORIGINAL_VIEW, Batch, Dense, TeacherOutputs, TopK

SOURCE = {"type": "factory", "path": "tests_tasks_data:text_data"}
RULE = find_task("language").rule


def samples_of(length: int = 24, **tokens) -> Samples:
    data = Data.model_validate(
        {
            "source": SOURCE,
            "splits": {"validation": 8, "test": 8},
            "tokens": {"length": length, **tokens},
        }
    )
    return build_samples(data, seed=0, task="language")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return samples_of()


def teacher_of(samples: Samples, *, seed: int = 0, batch_size: int = 4) -> TeacherModel:
    """A recurrent model with random weights."""
    preprocessing = preprocessing_for(Preprocess(), samples, key="p")
    torch.manual_seed(seed)
    spec = Spec(
        name=f"t{seed}",
        key="t",
        model=GruLmModel(width=0.0625),
        weights={},
        preprocessing=preprocessing,
        input_shape=samples.input_shape,
        outputs=256,
        classes=256,
        label_map=None,
        kind="logits",
        dtype="float32",
        batch_size=batch_size,
    )
    from raykd.models import build_model

    shape = preprocessing.output_shape(samples.input_shape)
    built = build_model(spec.model, input_shape=shape, classes=256, key="t")
    return TeacherModel(replace(spec, weights=built.state_dict()))


# --- documents and chunks ---


def test_no_chunk_reaches_over_the_end_of_a_document():
    texts = ["abcdefg", "hi", "x", ""]
    chunks = cut_documents(encode_texts(texts, 10), Vocabulary(BytesAsTokens(), 3))
    said = ["".join(map(chr, one[0][one[0] > 0])) for one in chunks.tokens]
    assert said == ["abc", "def", "hi"], "one letter alone predicts nothing"
    assert chunks.document.tolist() == [0, 0, 1]
    assert chunks.number.tolist() == [0, 1, 0]
    assert (chunks.tokens[:, 1, 0] == 0).all(), "nothing stands before a chunk's first token"


def test_a_prompt_is_given_and_not_predicted():
    texts = encode_texts(["question answer", "all of it is given"], 30)
    chunks = cut_documents(texts, Vocabulary(BytesAsTokens(), 16), np.array([9, 100]))
    (one,) = chunks.tokens
    assert "".join(map(chr, one[0][one[1] > 0])) == "answer"
    with pytest.raises(InputError, match="no document has a token to be predicted"):
        cut_documents(texts, Vocabulary(BytesAsTokens(), 16), np.array([100, 100]))


def test_all_chunks_of_a_document_are_of_one_part(samples):
    document = np.array([one.rpartition(":")[0] for one in samples.named(np.arange(len(samples)))])
    parts = [set(document[rows].tolist()) for rows in samples.splits.values()]
    assert len(parts[0] | parts[1] | parts[2]) == sum(map(len, parts))


def test_a_pool_leaves_the_rest_to_teachers():
    samples = samples_of(pool=0.5)
    train, every = samples.splits["train"], samples.labelled_rows("train", "all")
    assert 0 < len(train) < len(every)
    assert np.array_equal(every, np.union1d(train, samples.splits["rest"]))
    assert set(samples.labels[train].tolist()) == {0, 1}


def test_labels_of_units_say_token_bytes_domain_and_chunk(samples):
    rows = samples.splits["train"][:3]
    batch = samples.batch(rows, ORIGINAL_VIEW)
    tokens = batch.inputs[CHUNKS]
    assert batch.unit_offsets.tolist()[-1] == len(batch.labels) == int(tokens[:, 1].sum())
    assert torch.equal(batch.labels[:, 0], tokens[:, 0][tokens[:, 1] > 0])
    assert (batch.labels[:, 1] == 1).all()
    assert torch.equal(batch.labels[:, 3], torch.from_numpy(rows.copy())[batch.sample_of_N])
    assert np.array_equal(batch.labels.numpy(), samples.unit_labels(rows))


def test_pieces_of_words_have_all_bytes_of_their_text():
    pytest.importorskip("tokenizers")
    samples = samples_of(tokenizer={"type": "bpe", "size": 280}, length=400)
    assert samples.class_count == 280
    rows = samples.splits["train"][:5]
    labels, tokens = samples.unit_labels(rows), samples.inputs[CHUNKS][rows]
    sizes = np.array(samples.vocabulary.tokenizer.sizes)
    texts = [samples.vocabulary.tokenizer.text(one[0][: 1 + one[1].sum()]) for one in tokens]
    counted = [labels[labels[:, 3] == row, 1].sum() for row in rows]
    assert counted == [
        len(text) - sizes[one[0, 0]] for text, one in zip(texts, tokens, strict=True)
    ]
    assert all(text.isascii() and b" " in text for text in texts)


# --- units of a batch ---


def answers_to(samples: Samples, batch: Batch, names: Sequence[str]) -> TeacherOutputs:
    """Made up, a pure function of teacher, token and its place."""
    found = {}
    for number, name in enumerate(names):
        generator = torch.Generator().manual_seed(number)
        table = torch.randn(256, 256, generator=generator)
        before = batch.inputs[CHUNKS][:, 0, :-1][batch.inputs[CHUNKS][:, 1, 1:] > 0]
        values = table[before] + 3 * torch.nn.functional.one_hot(batch.labels[:, 0], 256)
        valid = (batch.labels[:, 3] + number) % 5 != 0
        found[name] = Dense(kind="logits", values_NC=values, valid_N=valid)
    return found


def step(
    samples: Samples, workers: Sequence[Batch], objective: dict, kept: int | None = None
) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one step whose batch is shared by workers; of all of them together."""
    names = ("a", "b")
    teaching = DistillObjective(
        Objective.model_validate(objective),
        [TeacherInfo("a", domains=(0,)), TeacherInfo("b", domains=(1,))],
        rule=RULE,
        student_shapes={OUTPUT: (256,)},
        teacher_shapes={(name, OUTPUT): (256,) for name in names},
        domain_weights_D=torch.tensor([0.5, 1.5]) if objective.get("mean") == "domains" else None,
    )
    network = teacher_of(samples, seed=3).network.float().requires_grad_()
    terms = []
    for batch in workers:
        answers = answers_to(samples, batch, names)
        if kept is not None:
            temperature = objective["soft_targets"].get("temperature", 1.0)
            answers = {
                name: replace(
                    take(answer.values_NC, kept, temperatures=[temperature]), valid_N=answer.valid_N
                )
                for name, answer in answers.items()
            }
        terms.append(teaching(network(batch.inputs), {}, batch, answers)[0])
    counts = sum(torch.stack([t.valid_N.float().sum() for t in own.values()]) for own in terms)
    losses = [reduce_terms(own, lambda _: counts, 1) for own in terms]
    total = sum(one.total for one in losses)
    gradients = torch.autograd.grad(total, list(network.parameters()))
    return float(total.detach()), torch.cat([one.flatten() for one in gradients])


OBJECTIVES = [
    {"soft_targets": {"temperature": 2.0}},
    {"soft_targets": {"temperature": 1.0, "loss": {"type": "reverse_kl"}, "combine": "losses"}},
    {"soft_targets": {"temperature": 1.0, "loss": {"type": "skew_kl"}, "combine": "losses"}},
    {"soft_targets": {"temperature": 1.0, "loss": {"type": "js"}}, "mean": "domains"},
    {"weighting": {"type": "bayesian", "forgetting": 0.9}, "soft_targets": {"temperature": 1.0}},
    {"weighting": {"type": "entropy"}, "soft_targets": {"temperature": 1.0}},
    {"weighting": {"type": "routed"}, "soft_targets": {"temperature": 1.0}},
    {"labels": {"weight": 0.0}, "soft_targets": {"temperature": 1.0, "hard_share": 1.0}},
]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradient_depend_on_the_samples_alone(samples, objective):
    """Neither padding, nor order, nor the number of workers, nor how unequally they share units changes them."""
    rows = samples.splits["train"][[0, 5, 9, 14, 21, 30]]
    whole = samples.batch(rows, ORIGINAL_VIEW)
    expected = step(samples, [whole], objective)
    assert float(expected[1].abs().max()) > 1e-4
    tokens = whole.inputs[CHUNKS]
    padded = replace(whole, inputs={CHUNKS: torch.nn.functional.pad(tokens, (0, 9))})
    mixed = samples.batch(rows[::-1].copy(), ORIGINAL_VIEW)
    absent = samples.batch(
        np.append(rows, rows[0]), ORIGINAL_VIEW, present=np.array([True] * 6 + [False])
    )
    shared = parts_of(absent, [1, 4, 2])
    for batches in ([padded], [mixed], [absent], shared):
        loss, gradient = step(samples, batches, objective)
        assert loss == pytest.approx(expected[0], rel=1e-6, abs=1e-6)
        torch.testing.assert_close(gradient, expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "objective", [one for one in OBJECTIVES if one.get("weighting", {}).get("type") != "entropy"]
)
def test_all_classes_kept_are_the_whole_answer(samples, objective):
    """And of few classes loss and gradient are as independent of the batch as of all."""
    rows = samples.splits["train"][[0, 5, 9, 14]]
    whole = samples.batch(rows, ORIGINAL_VIEW)
    dense, gradient = step(samples, [whole], objective)
    few, its = step(samples, [whole], objective, kept=256)
    assert few == pytest.approx(dense, rel=1e-5)
    torch.testing.assert_close(its, gradient, rtol=1e-3, atol=1e-5)
    one = step(samples, [whole], objective, kept=8)
    shared = step(samples, parts_of(whole, [1, 3]), objective, kept=8)
    assert shared[0] == pytest.approx(one[0], rel=1e-6, abs=1e-6)
    torch.testing.assert_close(shared[1], one[1], rtol=1e-4, atol=1e-6)
    assert torch.isfinite(one[1]).all()


def test_without_its_tail_an_answer_is_another_one(samples):
    batch = samples.batch(samples.splits["train"][:4], ORIGINAL_VIEW)
    kept, lost = (
        step(samples, [batch], {"soft_targets": {"temperature": 1.0, "tail": tail}}, kept=4)
        for tail in (True, False)
    )
    assert lost[0] > kept[0]
    assert torch.isfinite(lost[1]).all()
    assert not torch.allclose(lost[1], kept[1], rtol=1e-2)


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("kept", [None, 12])
def test_a_student_may_learn_from_fewer_tokens_than_are_kept(samples, tail, kept):
    """What the others amount to is the same, wherever it was left out."""
    batch = samples.batch(samples.splits["train"][:4], ORIGINAL_VIEW)
    soft = {"temperature": 2.0, "tail": tail}
    for weighting in ("uniform", "bayesian", "routed"):
        objective = {"soft_targets": soft, "weighting": {"type": weighting}}
        expected = step(samples, [batch], objective, kept=5)
        found = step(
            samples, [batch], {**objective, "soft_targets": {**soft, "top_k": 5}}, kept=kept
        )
        assert found[0] == pytest.approx(expected[0], rel=1e-5)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-6)
    whole = step(samples, [batch], objective, kept=kept)
    assert found[0] != pytest.approx(whole[0], rel=1e-3)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("objective.soft_targets={top_k: 256}", "objective.soft_targets.top_k"),
        ("objective.soft_targets={tail: false}", "objective.soft_targets.tail"),
        ("objective.soft_targets={top_k: 8, combine: logits}", "objective.soft_targets.combine"),
        ("objective={soft_targets: {top_k: 8}, weighting: {type: entropy}}", "objective.weighting.type"),
    ],
)  # fmt: skip
def test_what_few_tokens_do_not_tell_is_refused(samples, override, key):
    found = data_problems([load_config(RECIPE, [override])], samples)
    assert [problem.key for problem in found] == [key]
    assert "objective.soft_targets.top_k" in str(found[0])


def test_few_tokens_of_many_are_no_fault(samples):
    fine = ["objective.soft_targets={top_k: 8, tail: false}", "targets.temperatures=[3]"]
    assert data_problems([load_config(RECIPE, fine)], samples) == []


def test_parts_of_a_batch_have_their_own_units(samples):
    whole = samples.batch(samples.splits["train"][:6], ORIGINAL_VIEW)
    parts = parts_of(whole, [2, 3, 1])
    for part, rows in zip(parts, (slice(0, 2), slice(2, 5), slice(5, 6)), strict=True):
        alone = samples.batch(samples.splits["train"][:6][rows], ORIGINAL_VIEW)
        assert torch.equal(part.labels, alone.labels)
        assert torch.equal(part.unit_offsets, alone.unit_offsets)
    assert whole.units_of([2, 3, 1]) == [len(part.labels) for part in parts]


def test_only_the_past_weighs_a_teacher(samples):
    """What the token itself is does not change its own weights, only those of later ones."""
    weigh = WEIGHTINGS["bayesian"]
    logits = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    labels, offsets = torch.tensor([0, 1, 2, 3, 4, 0, 1]), torch.tensor([0, 4, 7])
    weights = weigh(logits, labels, offsets=offsets)
    other = labels.clone()
    other[1] = 3
    changed = (weigh(logits, other, offsets=offsets) != weights).any(dim=0)
    assert changed.tolist() == [False, False, True, True, False, False, False]
    torch.testing.assert_close(weights[:, [0, 4]], torch.full((2, 2), 0.5))


# --- ragged answers ---


def test_ragged_arrays_are_taken_and_joined_by_sample():
    arrays = {"values": np.arange(12).reshape(6, 2), "offsets": np.array([0, 1, 4, 6])}
    some = taken(arrays, np.array([2, 0, 2]))
    assert some["offsets"].tolist() == [0, 2, 3, 5]
    assert some["values"][:, 0].tolist() == [8, 10, 0, 8, 10]
    assert samples_in(some) == 3
    again = joined([taken(arrays, np.array([n])) for n in range(3)])
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("packing", [PLAIN, Packing(draws=6)])
def test_a_teacher_answers_a_chunk_the_same_in_any_company(samples, packing):
    """Bit for bit: the shape of a forward pass, and what is drawn, follow from the chunk alone."""
    teacher, rows = teacher_of(samples), np.sort(samples.splits["train"])[:17]
    teacher.spec = replace(teacher.spec, packing=packing)
    view = np.zeros(len(rows), np.int64)
    whole = teacher.score(samples, rows, view)
    assert len(set(buckets(samples.inputs[CHUNKS][rows]).tolist())) > 1
    for order in (np.arange(17)[::-1], np.array([3]), np.array([16, 2, 9])):
        some = teacher.score(samples, rows[order], view[order])
        expected = taken(whole, order)
        assert all(np.array_equal(some[name], expected[name]) for name in expected)


@pytest.fixture
def store(samples, tmp_path):
    """What a teacher says of most training samples, in two shards; and the teacher."""
    teacher, rows = teacher_of(samples), samples.splits["train"]
    key = EntryKey(teacher.spec.fingerprint, samples.view_key)
    for some in (rows[:11], rows[11:-2]):
        arrays = teacher.score(samples, some, np.zeros(len(some), np.int64))
        keys = {"ids": samples.ids[some], "hashes": samples.content_hash(some)}
        shard = write_shard(tmp_path / key.folder, 0, {**keys, **arrays}, key.to_json())
        append(tmp_path, key, [shard])
    hashes = samples.content_hash(np.arange(len(samples)))
    keys = {"t0": TeacherKeys(key, EntryKey(key.teacher, "original"))}
    return TargetStore.open(tmp_path, keys, samples.ids, hashes), teacher


def test_teachers_draw_independently_of_each_other(samples):
    rows, drawn = samples.splits["train"][:4], []
    for name in ("t0", "t1"):
        same = teacher_of(samples)
        one = TeacherModel(replace(same.spec, name=name, packing=Packing(draws=6)))
        (array,) = [a for n, a in one.score(samples, rows, np.zeros(4, np.int64)).items() if n.startswith("drawn")]  # fmt: skip
        drawn.append(array)
    assert (drawn[0] != drawn[1]).mean() > 0.5


def test_few_classes_of_tokens_stay_few(samples):
    """No row of all of a teacher's classes is made where a student is taught."""
    teacher, rows = teacher_of(samples), samples.splits["train"][:4]
    teacher.spec = replace(teacher.spec, packing=Packing(top_k=5, temperatures=(1.0,)))
    batch = samples.batch(rows, 0)
    arrays = teacher.score(samples, rows, np.zeros(4, np.int64))
    answer = codec.assemble([(np.arange(4), arrays)], 4, offsets=batch.unit_offsets)
    assert isinstance(answer, TopK)
    assert answer.ids_NK.shape == (len(batch.labels), 5)
    assert torch.equal(answer.offsets, batch.unit_offsets)
    part = codec.assemble(
        [(np.array([2]), taken(arrays, np.array([2])))], 4, offsets=batch.unit_offsets
    )
    assert torch.equal(part.valid_N, batch.sample_of_N == 2)
    assert torch.equal(part.ids_NK[part.valid_N], answer.ids_NK[part.valid_N])


def test_stored_answers_are_live_ones_bit_for_bit(samples, store):
    opened, teacher = store
    rows = samples.splits["train"][[12, 3, 20, 0, 3]]
    batch = samples.batch(rows, 0)
    found = StoredTargets(opened).collect(Ticket(batch), 60.0)["t0"]
    view = np.zeros(len(rows), np.int64)
    live = codec.assemble([(np.arange(5), teacher.score(samples, rows, view))], 5)
    assert torch.equal(found.values_NC, live.values_NC)
    assert torch.equal(found.offsets, batch.unit_offsets)
    assert bool(found.valid_N.all())
    gathered = opened.gather(rows, 0)["t0"]
    assert torch.equal(gathered.values_NC, live.values_NC)
    assert torch.equal(gathered.offsets, batch.unit_offsets)
    with pytest.raises(TargetError, match="has no answer for 1 of 1 rows"):
        opened.gather(samples.splits["train"][-1:], 0)
    assert opened.verify().problems == ()


def test_the_size_of_ragged_shards_is_known_beforehand(samples, store):
    opened, teacher = store
    (entry,) = opened.entries.values()
    rows = samples.splits["train"][:1]
    one = taken(teacher.score(samples, rows, np.zeros(1, np.int64)), np.array([0]))
    unit = {name: array[:1] for name, array in one.items() if name != "offsets"}
    shards = sorted(entry.shards, key=lambda shard: shard.rows)
    parts = (samples.splits["train"][:11], samples.splits["train"][11:-2])
    for shard, some in zip(shards, parts, strict=True):
        units = len(samples.per_unit(some, some))
        expected = shard_bytes(entry.key, 0, len(some), unit, units)
        assert (entry.folder / shard.file).stat().st_size == expected


def test_samples_without_an_answer_leave_their_units_invalid(samples):
    teacher, rows = teacher_of(samples), samples.splits["train"][:4]
    batch, view = samples.batch(rows, 0), np.zeros(2, np.int64)
    parts = [(np.array([3, 1]), teacher.score(samples, rows[[3, 1]], view))]
    answer = codec.assemble(parts, 4, offsets=batch.unit_offsets)
    expected = torch.isin(batch.sample_of_N, torch.tensor([1, 3]))
    assert torch.equal(answer.valid_N, expected)
    assert not answer.values_NC[~expected].any()
    with pytest.raises(TargetError, match="other numbers of units"):
        codec.assemble([(np.array([0, 1]), parts[0][1])], 4, offsets=torch.tensor([0, 1, 2, 3, 4]))


def test_other_tokens_are_other_answers(samples):
    """The key holds the tokens (content hash) and what made them (fingerprint of the preprocessing)."""
    other = samples_of(length=20)
    assert not set(samples.content_hash(np.arange(5)).tolist()) & set(
        other.content_hash(np.arange(5)).tolist()
    )
    described = preprocessing_for(Preprocess(), samples, key="p").describe()
    assert described["chunks"]["fingerprint"] == samples.vocabulary.fingerprint


# --- metrics ---


def test_bits_per_byte_of_equal_probabilities_are_eight(samples):
    labels = torch.from_numpy(samples.unit_labels(np.arange(len(samples))))
    even = torch.full((len(labels), 256), -np.log(256.0))
    columns = METRICS.kept(even, labels)
    numbers = language_metrics(columns, labels)
    assert numbers["bits_per_byte"] == pytest.approx(8.0)
    assert numbers["perplexity"] == pytest.approx(256.0)
    scores = METRICS.scores(columns, labels)
    assert len(scores) == len(samples), "chunks are drawn, not tokens"
    assert float(scores.mean()) == pytest.approx(-8.0)


# --- fits ---


class MadeUp:
    """Targets of `answers_to`."""

    at_once = True

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def submit(self, batch: Batch) -> Ticket:
        return Ticket(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> TeacherOutputs:
        del timeout_s
        return answers_to(self.samples, ticket.batch, ("a", "b"))


@pytest.fixture
def fit(samples) -> Fit:
    rows = samples.splits["train"]
    return Fit(
        fit_id="student/replica0",
        stage="student",
        key="student.model",
        model=GruLmModel(width=0.0625),
        preprocessing=preprocessing_for(Preprocess(), samples, key="p"),
        weights=None,
        objective=Objective.model_validate(
            {"soft_targets": {"temperature": 1.0}, "weighting": {"type": "bayesian"}}
        ),
        teacher_infos=(TeacherInfo("a"), TeacherInfo("b")),
        student_shapes={},
        teacher_shapes={},
        training=Training.model_validate(
            {"epochs": 3, "batch_size": 16, "optimizer": {"type": "adamw", "lr": 0.02}}
        ),
        plan=Plan(rows=rows, epoch_rows=len(rows), batch_size=16, seed=5, views=0),
        seed=11,
        labels="budget",
        data="digest",
    )


def test_a_stopped_fit_ends_with_the_same_bits_and_tells_the_same(samples, fit, tmp_path):
    told: dict[str, list] = {}

    def run(name, **given):
        heard = told.setdefault(name.partition("-")[0], [])

        def hear(event):
            if event.kind == "epoch":
                heard.append({k: event.values[k] for k in ("terms", "kl_nats", "text_nats")})

        reporter = FolderReporter(RunFolder(tmp_path / name), hear)
        train(fit, samples, MadeUp(samples), reporter, World(), **given)
        return load_weights(reporter.folder(fit.fit_id).weights("last"), key="t")

    whole, expected = run("whole"), told["whole"]
    assert set(expected[0]["kl_nats"]) == {"a.code", "a.prose", "b.code", "b.prose"}
    assert expected[-1]["text_nats"]["prose"] < expected[0]["text_nats"]["prose"]
    steps = 3 * fit.plan.steps_per_epoch
    for at in (1, 2, steps // 2, steps - 2, steps - 1):
        leaving = iter([*[False] * (at - 1), True])
        with pytest.raises(PreemptedError):
            run(f"s{at}", leaving=lambda leaving=leaving: next(leaving))
        again = run(f"s{at}")
        assert all(torch.equal(again[name], whole[name]) for name in whole)
        assert told[f"s{at}"] == expected


# --- recipes ---


RECIPE = {
    "task": "language",
    "data": {"source": SOURCE, "splits": {"validation": 8, "test": 8}},
    "teachers": [
        {"name": "prose", "model": {"type": "ngram", "order": 3}, "domains": ["prose"]},
        {"name": "code", "model": {"type": "ngram", "order": 3}, "domains": ["code"]},
    ],
    "student": {"model": {"type": "gru_lm", "width": 0.125}},
}


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.labels=10", "data.labels"),
        ("data.views.policy=[{type: drop_words}]", "data.views.policy"),
        ("objective.labels.mode=replace", "objective.labels.mode"),
        ("objective.labels.fill=ensemble", "objective.labels.fill"),
        ("objective.choose={}", "objective.choose"),
        ("objective.soft_targets.loss.type=mse", "objective.soft_targets.loss.type"),
        ("objective.soft_targets.sharpen=0.5", "objective.soft_targets.sharpen"),
        ("objective.soft_targets={tail: false, loss: {type: js}}", "objective.soft_targets.tail"),
        ("objective.weighting.type=confidence", "objective.weighting.type"),
        ("student.model=mlp", "student.model.type"),
        ("student.dimension=8", "student.dimension"),
        ("folds=3", "folds"),
        ("evaluate.controls=[untrained]", "evaluate.controls.0"),
    ],
)
def test_what_means_nothing_is_refused_by_its_key(override, key):
    with pytest.raises(InputError) as caught:
        load_config(RECIPE, [override])
    assert key in [problem.key for problem in caught.value.problems], caught.value


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"data": {"source": {"type": "digits"}, "tokens": {}}}, "data.tokens"),
        ({"objective": {"weighting": {"type": "bayesian"}}}, "objective.weighting.type"),
        ({"objective": {"mean": "domains"}}, "objective.mean"),
        ({"objective": {"soft_targets": {"tail": False}}}, "objective.soft_targets.tail"),
        ({"objective": {"soft_targets": {"top_k": 4}}}, "objective.soft_targets.top_k"),
    ],
)
def test_other_tasks_know_no_tokens(change, key):
    digits = {
        "data": {"source": {"type": "digits"}},
        "teachers": [{"name": "one", "model": "mlp", "fit": {}}],
        "student": {"model": "mlp"},
    }
    with pytest.raises(InputError) as caught:
        load_config({**digits, **change})
    assert [problem.key for problem in caught.value.problems] == [key]


def test_a_domain_has_one_teacher_that_its_tokens_go_to():
    routed = {**RECIPE, "objective": {"weighting": {"type": "routed"}}}
    assert load_config(routed)
    both = [{**one, "domains": ["prose"]} for one in RECIPE["teachers"]]
    with pytest.raises(InputError, match="each domain has one teacher"):
        load_config({**routed, "teachers": both})


def test_an_ngram_is_counted_on_its_own_domains_text(samples):
    from raykd.pipeline.teachers import examples
    from raykd.pipeline.texts import domain_numbers

    config = load_config(RECIPE)
    teacher = config.teachers[0]
    found = examples(config, teacher, preprocessing_for(Preprocess(), samples, key="p"), samples)
    rows = samples.labelled_rows("train", "all")
    rows = rows[samples.labels[rows] == samples.classes.index("prose")]
    tokens = torch.from_numpy(samples.inputs[CHUNKS][rows])
    lengths = (tokens[:, 1] > 0).sum(1) + 1
    expected = ngram_examples(NgramModel(order=3), tokens[:, 0], lengths, vocabulary=256)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    wrong = teacher.model_copy(update={"domains": ("verse",)})
    with pytest.raises(InputError, match="found 'verse'; the data has code, prose"):
        domain_numbers(samples, wrong)


def test_the_made_up_texts_have_two_domains():
    assert text_data().classes == ("code", "prose")
