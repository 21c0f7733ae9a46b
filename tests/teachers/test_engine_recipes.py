"""Recipes with an engine as a teacher: what is refused, what is kept of its answers, and a server that is not there."""

from __future__ import annotations

import json
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
import yaml
from raykd_engine_server import byte_bigrams, serving

from raykd.config import load_config
from raykd.config.load import check_search
from raykd.config.trusting import named_code
from raykd.ensemble.sparse import mixture
from raykd.errors import InputError, TeacherError
from raykd.folders import home
from raykd.forecast.planning import plan
from raykd.forecast.preflight import judge_ready_teachers
from raykd.forecast.timing import sample_s
from raykd.pipeline.preparation import prepare, with_external_baselines
from raykd.pipeline.recipe_store import refuse_unreachable, store_keys
from raykd.pipeline.teacher_validation import score_probes
from raykd.targets import codec
from raykd.targets.codec import decode_few
from raykd.targets.packing import Packing, encode_few, encode_top
from raykd.teachers.model import host
from raykd.teachers.selftest import check_repeatable
from raykd.top_k import dense, renumbered, take, tempered
from raykd.types import CHUNKS, ORIGINAL_VIEW

LIMIT = 20


def recipe(server, **model):
    port = server if isinstance(server, int) else server.server_address[1]
    url = f"http://127.0.0.1:{port}/v1"
    asked = {"type": "engine", "path": "openai", "url": url, "model": "bigrams", "tries": 1}
    return {
        "task": "language",
        "data": {
            "source": {"type": "factory", "path": "raykd_engine_server:texts"},
            "splits": {"validation": 8, "test": 8},
            "tokens": {"length": 32},
        },
        "teachers": [
            {"name": "big", "model": {**asked, **model}, "license": "apache-2.0"},
            {"name": "counts", "model": {"type": "ngram", "order": 3}},
        ],
        "student": {"model": {"type": "gru_lm", "width": 0.125}},
        "targets": {"top_k": 8},
        "train": {"epochs": 2, "batch_size": 8, "optimizer": {"type": "adamw", "lr": 0.01}},
        "evaluate": {"controls": ["labels"]},
        "tracking": {"wandb": {"mode": "disabled"}},
    }


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with serving(byte_bigrams(), LIMIT) as one:
        yield one


def prepared(tree, *overrides):
    return prepare(load_config(deepcopy(tree), list(overrides)))


def specs_of(found):
    return found.specs({name: one.weights or {} for name, one in found.teachers.items()})


# --- what is kept of an answer ---


def test_an_answer_that_others_cut_is_kept_as_our_own():
    """As arrays, as probabilities at each temperature, and with fewer classes than asked for."""
    logits = 3 * torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    packing = Packing(6, (1.0, 2.0))
    own, theirs = (
        encode_top(logits, packing),
        encode_few(take(logits, 6, temperatures=[2.0]), packing),
    )
    assert {n: (a.dtype, a.shape) for n, a in own.items()} == {
        n: (a.dtype, a.shape) for n, a in theirs.items()
    }
    for temperature in (1.0, 2.0):
        exact = (logits.double() / temperature).softmax(1)
        one, other = (dense(tempered(decode_few(a), temperature)).exp() for a in (own, theirs))
        torch.testing.assert_close(one, other, rtol=0, atol=2e-4)
        kept = theirs["class_of.300"].astype(np.int64)
        torch.testing.assert_close(
            other.double().gather(1, torch.from_numpy(kept)),
            exact.gather(1, torch.from_numpy(kept)),
            rtol=2e-3,
            atol=2e-4,
        )
    few = encode_few(take(logits, 4, temperatures=[2.0]), packing)
    assert few["kept"].shape == (50, 6)
    assert np.isneginf(few["kept"][:, 4:]).all()
    assert (few["class_of.300"][:, 4:] == few["class_of.300"][:, :1]).all()
    torch.testing.assert_close(dense(tempered(decode_few(few))).exp().sum(1), torch.ones(50))


def test_nothing_is_impossible_where_an_engine_leaves_no_rest():
    whole = take(torch.randn(5, 9), 9)
    assert whole.tail is None
    answer = decode_few(encode_few(renumbered(whole, torch.arange(9), 12), Packing(9, (1.0,))))
    assert torch.isfinite(dense(tempered(answer))).all()


def test_what_is_said_of_other_tokens_joins_the_rest():
    """Against the whole distribution, summed by hand in float64."""
    logits = 2 * torch.randn(40, 30, generator=torch.Generator().manual_seed(1)).double()
    own = torch.tensor([3, 4, 9, 10, 11, 17, 20, 21, 22, 29])
    place = torch.full((30,), -1).scatter_(0, own, torch.arange(10))
    answer = renumbered(take(logits, 5, temperatures=[3.0]), place, 10)
    p = logits.softmax(1)
    for unit in range(40):
        likeliest = [int(c) for c in logits[unit].topk(5).indices if place[c] >= 0]
        real = answer.log_probs_NK[unit] > -torch.inf
        if not likeliest:
            assert int(real.sum()) == 1
            assert int(answer.ids_NK[unit, 0]) == 0
            assert float(answer.log_probs_NK[unit, 0].exp()) == pytest.approx(0.1, rel=1e-5)
            assert float(answer.tail[1.0][unit].exp()) == pytest.approx(0.9, rel=1e-5)
            continue
        assert answer.ids_NK[unit][real].tolist() == place[likeliest].tolist()
        torch.testing.assert_close(answer.log_probs_NK[unit][real], p[unit, likeliest].log())
        assert float(answer.tail[1.0][unit].exp()) == pytest.approx(
            1 - float(p[unit, likeliest].sum())
        )
        rest = (p[unit].pow(1 / 3).sum() - p[unit, likeliest].pow(1 / 3).sum()).log()
        assert float(answer.tail[3.0][unit]) == pytest.approx(float(rest), rel=1e-6)


# --- a teacher that is a server ---


def test_a_server_s_answers_are_those_of_its_model(server):
    found = prepared(recipe(server, k=12))
    samples, teachers = found.samples, specs_of(found)
    rows = samples.splits["train"][:7]
    exact = byte_bigrams()
    for view in (0, ORIGINAL_VIEW):
        arrays = host(teachers["big"]).score(samples, rows, np.full(7, view))
        batch = samples.batch(rows, view)
        tokens = batch.inputs[CHUNKS]
        before = tokens[:, 0, :-1][tokens[:, 1, 1:] > 0].long()
        answer = decode_few(arrays)
        assert torch.equal(answer.offsets, batch.unit_offsets)
        assert answer.ids_NK.shape == (len(before), 12)
        assert torch.equal(answer.ids_NK, exact[before].topk(12).indices) or torch.allclose(
            answer.log_probs_NK, exact[before].topk(12).values.float(), atol=5e-3
        )
    keys = store_keys(teachers, samples)["big"]
    assert keys.views.codec == keys.originals.codec == "logits16-top12-at-1-v1"
    assert store_keys(teachers, samples)["counts"].originals.codec == "logits16-v1"
    assert store_keys(teachers, samples)["counts"].views.codec == "logits16-top8-at-1-v1"
    empty = found.teachers["big"].empty_answer(samples, held_out=True)
    assert {n: (a.dtype, a.shape[1:]) for n, a in empty.items()} == {
        n: (a.dtype, a.shape[1:]) for n, a in arrays.items() if n != "offsets"
    }
    assert found.notes[-1].startswith(
        "of each answer of teacher 'big', an engine, the 12 likeliest of 256"
    )


def test_answers_of_different_k_are_mixed(server):
    found = prepared(recipe(server, k=12))
    rows = found.samples.splits["train"][:3]
    few = [
        decode_few(host(s).score(found.samples, rows, np.zeros(3, np.int64)))
        for s in specs_of(found).values()
    ]
    assert [one.ids_NK.shape[1] for one in few] == [12, 8]
    weights = torch.full((2, len(few[0].ids_NK)), 0.5)
    mixed = dense(mixture([tempered(one) for one in few], weights)).exp()
    expected = sum(dense(tempered(one)).double().exp() for one in few) / 2
    torch.testing.assert_close(mixed.double(), expected, rtol=1e-3, atol=1e-5)


def test_a_fingerprint_is_of_the_model_and_not_of_its_address(server):
    first = specs_of(prepared(recipe(server)))["big"].fingerprint
    with serving(byte_bigrams(), LIMIT) as moved:
        other = recipe(moved, timeout_s=9, requests=2, least=None)
        assert specs_of(prepared(other))["big"].fingerprint == first
        moved.says = {"created": 2, "root": "models/another"}
        assert specs_of(prepared(other))["big"].fingerprint != first
        moved.fault = "no list"
        assert specs_of(prepared(other))["big"].fingerprint != first
    config = load_config(recipe(server))
    assert "url" not in config.teachers[0].model.identity()


def test_probes_tell_another_model_behind_the_same_name(server):
    found = prepared(recipe(server))
    spec = specs_of(found)["big"]
    before = score_probes(found.samples, spec)
    assert (score_probes(found.samples, spec) == before).all()
    server.log_p = byte_bigrams().roll(1, dims=1)
    assert (score_probes(found.samples, spec).softmax(1) - before.softmax(1)).abs().max() > 0.02


def test_servers_may_answer_a_little_differently_from_one_time_to_the_next():
    arrays = encode_few(take(torch.randn(6, 40), 5), Packing(5, (1.0,)))
    one = {"big": codec.decode(arrays)}
    other = {"big": codec.decode({**arrays, "kept": arrays["kept"] * np.float16(1.005)})}
    check_repeatable(one, other, rough={"big"})
    with pytest.raises(TeacherError, match="answers the same samples differently"):
        check_repeatable(one, other)


def test_how_long_a_server_takes_is_measured_where_it_can_be_asked(server):
    found = prepared(recipe(server))
    spec = specs_of(found)["big"]
    assert 0 < sample_s(spec, found.samples, torch.device("cpu")) < 5
    server.fault = "busy"
    assert sample_s(spec, found.samples, torch.device("cpu")) == 0


# --- mistakes ---


def refused(tree, *overrides) -> str:
    with pytest.raises(InputError) as caught:
        refuse_unreachable(prepared(tree, *overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("fewer", r"teachers.big.model: .* gave [67] log-probabilities at token 1, asked for 8; .*teachers\.big\.model\.k.*teachers\.big\.model\.least"),
        ("no scores", "teachers.big.model: .*gives no prompt_logprobs"),
        ("foreign", "teachers.big.model: .*another vocabulary"),
        ("garbage", "teachers.big.model: .*what the protocol does not know"),
        ("no tokenize", r"teachers.big.model.same_tokenizer: the engine does not tell how it cuts texts .*say true"),
        ("busy", r"teachers.big.model: .*does not answer, asked 1 times.*; the store lacks 83 of its answers"),
    ],
)  # fmt: skip
def test_a_server_that_cannot_be_a_teacher(server, fault, message):
    import re

    server.fault = fault
    found = refused(recipe(server))
    assert re.search(message, found), found


def test_a_server_that_is_slow(server):
    server.fault = "slow"
    found = refused(recipe(server, timeout_s=0.1))
    assert "had no answer within 0.1 s; raise teachers.big.model.timeout_s" in found


def test_fewer_are_accepted_where_the_recipe_says_so(server):
    server.fault = "fewer"
    assert prepared(recipe(server, least=5)).teachers["big"].engine.unreachable is None


def test_another_tokenizer_is_told_by_how_it_cuts(server):
    server.cut = lambda text: [*text.encode()][::-1]
    assert "teachers.big.model: has another tokenizer: it cuts" in refused(recipe(server))
    assert prepared(recipe(server, same_tokenizer=True)).teachers["big"].engine.unreachable is None


def test_a_server_that_is_down_is_needed_by_a_run_and_not_by_a_plan(tmp_path, call):
    with serving(byte_bigrams(), LIMIT) as gone:
        tree = recipe(gone)
    assert "does not answer, asked 1 times" in refused(tree)
    with pytest.raises(InputError, match=r"teachers.big.model: .*the store lacks 83"):
        judge_ready_teachers(prepared(tree))
    found = prepared(tree)
    assert found.notes[-1].startswith("teacher 'big' cannot be asked now: engine http://127.0.0.1")
    counted = plan(load_config(tree), timing=False).counts
    assert counted.stored["big"].passes_to_come == 83
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    ended = call("check", path)
    assert ended.code == 2
    assert ended.err.count("does not answer") == 1
    assert call("plan", path, "--no-timing").code == 0
    compare = {**tree, "teachers": tree["teachers"][1:]}
    compare["evaluate"] = {"compare": [{"name": "big", "model": tree["teachers"][0]["model"]}]}
    compared = with_external_baselines(prepared(compare))
    with pytest.raises(InputError, match=r"evaluate.compare.big.model: .*does not answer"):
        refuse_unreachable(compared)


def test_what_a_server_said_is_known_once_it_is_down():
    with serving(byte_bigrams(), LIMIT) as one:
        one.says = {"root": "models/wide", "created": 3}
        tree, port = recipe(one), one.server_address[1]
        before = specs_of(prepared(tree))["big"].fingerprint
    assert port
    after = prepared(tree)
    assert after.teachers["big"].engine.unreachable is not None
    assert specs_of(after)["big"].fingerprint == before
    (kept,) = (home() / "engines").iterdir()
    assert json.loads(kept.read_text()) == {
        "path": "openai", "model": "bigrams", "says": {"id": "bigrams", "root": "models/wide"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["teachers.0.weights=a.safetensors"], "teachers.big.weights: is not for engine"),
        (["teachers.0.fit={epochs: 1}"], "teachers.big.fit: is not for engine"),
        (["teachers.0.kind=log_probabilities"], "teachers.big.kind: means nothing for an engine"),
        (["teachers.0.dtype=float16"], "teachers.big.dtype"),
        (["teachers.0.model.kwargs={a: 1}"], "teachers.big.model.kwargs: means nothing for the engine openai"),
        (["teachers.0.model.url=host:80"], "teachers.big.model.url: found 'host:80'"),
        (["teachers.0.model.url=null"], "teachers.big.model.url: is required"),
        (["teachers.0.model.least=9", "teachers.0.model.k=8"], "teachers.big.model.least: found 9"),
        (["teachers.0.model.path=transformers"], "teachers.big.model.url: means nothing for the engine transformers"),
        (["teachers.0.model.k=256"], "teachers.big.model.k: is 256, the data has 256 different tokens"),
        (["teachers.0.model.key_from=NOBODY_SET_IT"], "teachers.big.model.key_from: the environment has no variable"),
        (["targets.top_k=256", "teachers.0.model.k=9"], "targets.top_k: found 256 for 256 tokens; beside an engine"),
        (["objective.soft_targets.temperature=2"], "objective.soft_targets.temperature: found 2, but teacher 'big' is a server"),
        (["objective.weighting={type: entropy}"], "objective.weighting.type: entropy needs every class"),
        (["objective.features=[{loss: {type: fitnet}, teacher: big, student_tap: a, teacher_tap: b}]"], "objective.features"),
        (["student.model={type: engine, path: openai}"], "student.model: found engine, which cannot be trained"),
        (["teachers.0.model.topk=3"], "teachers.big.model.topk"),
    ],
)  # fmt: skip
def test_what_an_engine_cannot_do_is_refused_with_its_key(server, change, message):
    with pytest.raises(InputError) as caught:
        prepared(recipe(server), *change)
    assert message in str(caught.value)


def test_other_tasks_have_no_engines():
    tree = {
        "data": {"source": {"type": "digits"}},
        "teachers": [
            {"name": "big", "model": {"type": "engine", "path": "transformers", "model": "m"}}
        ],
        "student": {"model": "mlp"},
    }
    with pytest.raises(
        InputError, match=r"teachers.big.model.type: found engine, which predicts tokens"
    ):
        load_config(tree)


def test_a_search_over_an_engine_is_refused_with_the_reason(server):
    tree = recipe(server)
    for key, space, message in (
        (
            "teachers.0.model.k",
            {"space": "choice", "categories": [4, 8]},
            "data and teachers are shared by all trials",
        ),
        (
            "objective.soft_targets.temperature",
            {"space": "choice", "categories": [1.0, 2.0]},
            "is a server",
        ),
    ):
        tree["search"] = {"parameters": {key: space}}
        config = load_config(tree)
        with pytest.raises(InputError) as caught:
            check_search(config)
        assert message in str(caught.value)


def test_keys_stay_where_they_are(server, monkeypatch, tmp_path):
    """Neither a recipe, nor an error, nor anything that is kept holds one."""
    monkeypatch.setenv("ENGINE_KEY", "sesame")
    tree = recipe(server, key_from="ENGINE_KEY")
    found = prepared(tree)
    assert {one["key"] for one in server.heard} == {"Bearer sesame"}
    said = [repr(specs_of(found)), found.config.model_dump_json(), *found.notes]
    said += [path.read_text() for path in (home() / "engines").iterdir()]
    assert "sesame" not in "".join(said)
    for given in ("sk-open-sesame", "http://a:sesame@h/v1"):
        key = "key_from" if given.startswith("sk") else "url"
        with pytest.raises(InputError, match=rf"teachers.big.model.{key}: ") as caught:
            load_config(recipe(server, **{key: given}))
        assert "sesame" not in str(caught.value)


def test_a_stranger_s_folder_may_not_send_texts_and_keys_anywhere(server):
    config = load_config(recipe(server)).model_dump(mode="json")
    assert ("teachers.0.model", f"the server {config['teachers'][0]['model']['url']}") in list(
        named_code(config)
    )
    for short in ("engine:my_engines:Bigrams", "sklearn:my_models:Forest"):
        assert list(named_code({"model": short})) == [("model", short.partition(":")[2])]
    assert list(named_code({"model": "timm:resnet18", "other": "onnx:file.onnx"})) == []


# --- engines in the teacher's own process ---


@pytest.fixture
def own(monkeypatch):
    """`my_engines:Bytes`, an engine of one's own over bytes."""
    from dataclasses import replace
    from types import ModuleType

    from raykd.teachers.engines import unit_offsets
    from raykd.teachers.engines.protocol import rows_of

    class Bytes:
        vocabulary = 256

        def __init__(self, kept=8, sharp=1.0, vocabulary=256, temperatures=()):
            self.kept, self.vocabulary, self.temperatures = kept, vocabulary, temperatures
            self.log_p = (sharp * byte_bigrams()).log_softmax(1)[:, :vocabulary]

        def score(self, ids, offsets):
            before = torch.cat([row[:-1] for row in rows_of(ids, offsets)])
            answer = take(self.log_p[before].float(), self.kept, temperatures=self.temperatures)
            return replace(answer, offsets=unit_offsets(offsets))

        def tokenize(self, text):
            return list(text.encode())

    module = ModuleType("my_engines")
    module.Bytes = Bytes
    monkeypatch.setitem(sys.modules, "my_engines", module)
    return "my_engines:Bytes"


def of_own(own, **kwargs):
    tree = recipe(1)
    tree["teachers"][0]["model"] = {"type": "engine", "path": own, "kwargs": kwargs}
    return tree


def test_an_engine_of_one_s_own_is_known_by_its_answers(own):
    first = specs_of(prepared(of_own(own)))["big"]
    assert specs_of(prepared(of_own(own)))["big"].fingerprint == first.fingerprint
    assert first.behaviour is not None
    found = prepared(of_own(own, sharp=0.5))
    assert specs_of(found)["big"].behaviour != first.behaviour
    assert judge_ready_teachers(found)["big"] > judge_ready_teachers(prepared(of_own(own)))["big"]


def test_an_engine_of_one_s_own_may_know_other_temperatures(own):
    found = prepared(of_own(own, temperatures=[2.0]), "objective.soft_targets.temperature=2")
    assert specs_of(found)["big"].packing.temperatures == (1.0, 2.0)
    with pytest.raises(InputError, match=r"teachers.big.model: .*says too little: .*not at 2"):
        prepared(of_own(own), "objective.soft_targets.temperature=2")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"kept": 30}, r"answered \[\d+, 30\] for \d+ tokens, of each of which at most 8 are kept"),
     ({"vocabulary": 200}, r"teachers.big.model: has 200 tokens, the data's tokenizer 256: it has another vocabulary"),
     ({"nothing": 1}, r"teachers.big.model: does not fit my_engines:Bytes: .*nothing")],
)  # fmt: skip
def test_an_engine_of_one_s_own_that_does_not_fit(own, kwargs, message):
    with pytest.raises(InputError, match=message):
        prepared(of_own(own, **kwargs))


def test_an_engine_needs_transformers(monkeypatch):
    tree = recipe(1)
    tree["teachers"][0]["model"] = {"type": "engine", "path": "transformers", "model": "nowhere"}
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        InputError, match=r"teachers.big.model: needs transformers, which is not installed"
    ):
        prepared(tree)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny causal model of bytes, made from its settings; nothing is fetched."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = {
        "vocab_size": 260,
        "n_positions": 64,
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings))
    for parameter in model.parameters():
        parameter.data.mul_(5)
    path = tmp_path_factory.mktemp("bytes")
    model.save_pretrained(path)
    return path


def of_transformers(folder, **model):
    tree = recipe(1)
    asked = {"type": "engine", "path": "transformers", "model": str(folder)}
    tree["teachers"][0]["model"] = {**asked, "same_tokenizer": True, **model}
    return tree


def test_a_model_that_is_asked_says_what_it_says_loaded(folder):
    """Of its 260 tokens the data has 256: what the others have joins the rest."""
    tree = of_transformers(folder)
    loaded = {"name": "loaded", "model": {"type": "hf", "name": str(folder), "task": "causal"}}
    tree["teachers"].append(loaded)
    found = prepared(tree, "objective.soft_targets.temperature=2")
    rows = found.samples.splits["train"][:5]
    specs = specs_of(found)
    asked = decode_few(host(specs["big"]).score(found.samples, rows, np.zeros(5, np.int64)))
    whole = codec.decode(host(specs["loaded"]).score(found.samples, rows, np.full(5, -1)))
    assert asked.tail.keys() == {1.0, 2.0}
    own = whole.values_NC.double()
    kept = asked.log_probs_NK.exp()
    for unit in range(len(own)):
        real = kept[unit] > 0
        said = own[unit].exp()[asked.ids_NK[unit][real]]
        ratio = said / kept[unit][real].double()
        assert float(ratio.max() / ratio.min()) == pytest.approx(1, abs=0.02), "up to a constant"
    assert float(kept.sum(1).min()) > 0.01
    torch.testing.assert_close(dense(tempered(asked)).exp().sum(1), torch.ones(len(own)))


def test_a_local_model_is_known_by_its_weights_and_not_by_its_folder(folder, tmp_path):
    import shutil

    first = specs_of(prepared(of_transformers(folder)))["big"]
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert specs_of(prepared(of_transformers(moved)))["big"].fingerprint == first.fingerprint
    half = specs_of(prepared(of_transformers(folder, dtype="bfloat16")))["big"]
    assert half.fingerprint != first.fingerprint
    assert specs_of(prepared(of_transformers(folder, k=5)))["big"].fingerprint == first.fingerprint
    with pytest.raises(InputError, match=r"teachers.big.model.same_tokenizer: .*has no tokenizer"):
        prepared(of_transformers(folder, same_tokenizer=False))
