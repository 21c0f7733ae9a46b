"""Engines behind an address, in this process and of one's own, held to one protocol; and what they cannot do."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from raykd_engine_server import LOG_P, VOCABULARY, serving

from raykd.errors import InputError, TargetError, TargetTimeoutError, TeacherError
from raykd.losses.sparse import SPARSE_LOSSES
from raykd.teachers.engines import ENGINES, build_engine, unit_offsets
from raykd.teachers.engines.protocol import ragged, require_ids, require_prompt, rows_of
from raykd.testing.engine_suite import EngineSuite
from raykd.top_k import take, tempered

ROW = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with serving() as one:
        yield one


def asking(server, **settings):
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    given = {"model": "bigrams", "vocabulary": VOCABULARY, "k": 5, "tries": 2, **settings}
    return build_engine("openai", key="teachers.big.engine", url=url, **given)


class TestServer(EngineSuite):
    text, ids = "größe 5", [ord(c) % VOCABULARY for c in "größe 5"]

    @pytest.fixture
    def engine(self, server):
        return asking(server)


def test_what_a_server_says_is_what_its_model_says(server):
    found = asking(server).score(*ragged([ROW, [2, 2]]))
    exact = take(LOG_P[[*ROW[:-1], 2]], 5)
    assert torch.equal(found.ids_NK, exact.ids_NK)
    torch.testing.assert_close(found.log_probs_NK, exact.log_probs_NK.float())
    torch.testing.assert_close(found.tail[1.0], exact.tail[1.0].float(), rtol=1e-4, atol=1e-4)
    assert found.log_probs_NK.dtype == torch.float32
    assert server.asked == 2, "one request for each row"
    loss_N = SPARSE_LOSSES["reverse_kl"](LOG_P[[*ROW[:-1], 2]].float(), found)
    assert loss_N.abs().max() < 1e-5
    with pytest.raises(TargetError, match="not at 2"):
        tempered(found, 2.0)


def test_a_server_draws_from_the_whole_distribution_whatever_its_model_brings(server):
    asking(server).generate(torch.tensor(ROW), 2, 4, 9)
    heard = server.heard[0]
    assert (heard["temperature"], heard["top_p"], heard["min_p"], heard["repetition_penalty"]) == (
        1,
        1,
        0,
        1,
    )
    assert (heard["top_k"], heard["seed"], heard["prompt"]) == (-1, 9, ROW)


def test_servers_that_give_bare_numbers_are_understood(server):
    server.fault = "numbers"
    assert asking(server).score(*ragged([ROW])).valid_N.all()


def test_a_busy_server_is_asked_again(server):
    server.fault = "busy once"
    assert len(asking(server).score(*ragged([ROW])).ids_NK) == len(ROW) - 1
    assert server.asked == 2


def test_a_key_comes_from_the_environment_and_is_in_no_error(server, monkeypatch):
    monkeypatch.setenv("ENGINE_KEY", "sesame")
    engine = asking(server, key_from="ENGINE_KEY")
    engine.score(*ragged([ROW]))
    assert server.heard[0]["key"] == "Bearer sesame"
    server.fault = "garbage"
    with pytest.raises(TeacherError) as caught:
        engine.score(*ragged([ROW]))
    assert "sesame" not in str(caught.value) + repr(engine)


def test_fewer_log_probabilities_are_accepted_where_the_recipe_says_so(server):
    server.fault = "fewer"
    found = asking(server, least=3).score(*ragged([ROW]))
    exact = LOG_P[ROW[:-1]].float()
    counts = (found.log_probs_NK > -torch.inf).sum(1)
    assert set(counts.tolist()) <= {3, 4}, "the token that is there may be one more"
    assert (found.ids_NK[:, 4] == found.ids_NK[:, 0]).all()
    few = tempered(found)
    for place in range(3):
        torch.testing.assert_close(
            few.log_probs_NK[:, place], exact.gather(1, few.ids_NK[:, place : place + 1])[:, 0],
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip
    assert (SPARSE_LOSSES["kl"](exact, found).abs() < 1e-4).all()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("busy", r"does not answer, asked 2 times \(503 .*too many requests.*start the server, or correct teachers\.big\.engine\.url"),
        ("cut", r"does not answer, asked 2 times \(IncompleteRead"),
        ("garbage", "what the protocol does not know: <html>"),
        ("list", "what the protocol does not know"),
        ("no choices", "what the protocol does not know"),
        ("no scores", "gives no prompt_logprobs.*cannot score.*or the engine transformers"),
        ("short", "answered for 7 tokens, asked for 8"),
        ("fewer", r"gave [34] log-probabilities at token \d, asked for 5.*--max-logprobs 5.*teachers\.big\.engine\.least"),
        ("foreign", "another vocabulary"),
        ("other ids", "another vocabulary"),
        ("logits", "no log-probabilities of 11 classes"),
        ("nan", "no log-probabilities of 11 classes"),
        ("texts", "what the protocol does not know: prompt_logprobs at token 1"),
    ],
)  # fmt: skip
def test_a_server_that_cannot_score_is_told_from_one_that_can(server, fault, message):
    server.fault = fault
    with pytest.raises(TeacherError, match=message) as caught:
        asking(server).score(*ragged([ROW]))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


@pytest.mark.parametrize(
    ("fault", "message"),
    [("no ids", "does not give the ids that it drew.*or the engine transformers"),
     ("too long", "2 continuations of up to 5 tokens")],
)  # fmt: skip
def test_a_server_that_cannot_continue_ids(server, fault, message):
    server.fault = fault
    with pytest.raises(TeacherError, match=message):
        asking(server).generate(torch.tensor(ROW), 2, 4, 0)


def test_a_slow_server(server):
    server.fault = "slow"
    with pytest.raises(
        TargetTimeoutError, match=r"within 0\.1 s; raise teachers\.big\.engine\.timeout_s"
    ):
        asking(server, timeout_s=0.1).score(*ragged([ROW]))


def test_a_server_that_is_down():
    with serving() as gone:
        engine = asking(gone)
    with pytest.raises(TeacherError, match=r"does not answer, asked 2 times.*refused"):
        engine.score(*ragged([ROW]))


def test_a_server_s_own_limit_and_other_refusals_are_shown(server):
    with pytest.raises(
        TeacherError, match=r"400 .*max_logprobs 6.*start the server with --max-logprobs 7"
    ):
        asking(server, k=7).score(*ragged([ROW]))
    with pytest.raises(
        TeacherError, match=r"404 .*no such model.*look at teachers\.big\.engine\.url"
    ):
        asking(server, model="other").score(*ragged([ROW]))
    server.fault = "no tokenize"
    with pytest.raises(TeacherError, match="404"):
        asking(server).tokenize("a")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"url": "gpu7:8000"}, "engine.url: found 'gpu7:8000'"),
     ({"k": 12}, "engine.k: found k 12"), ({"least": 6}, "engine.k"),
     ({"timeout_s": 0}, "timeout_s 0"), ({"key_from": "NOBODY_SET_IT"}, "engine.key_from"),
     ({"top_k": 3}, "does not fit openai: .*top_k")],
)  # fmt: skip
def test_settings_out_of_range_name_the_key(settings, message):
    given = {"url": "http://127.0.0.1:9/v1", "model": "m", "vocabulary": 11, "k": 5, **settings}
    with pytest.raises(InputError, match=message):
        build_engine("openai", **given)


# --- transformers -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model made from its settings, and a tokenizer of characters; nothing is fetched."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=13, n_positions=64, n_embd=16, n_layer=2, n_head=2, eos_token_id=12, bos_token_id=12
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    model.save_pretrained(path)
    known = {c: i for i, c in enumerate("abcdefghijk?")}
    cut = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="?"))  # noqa: S106
    cut.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    cut.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    return path


@pytest.fixture(scope="module")
def local(folder):
    return build_engine("transformers", model=str(folder), k=4, temperatures=(2.0,))


class TestTransformers(EngineSuite):
    tolerance = 1e-6
    text, ids = "bad", [1, 0, 3]

    @pytest.fixture
    def engine(self, local):
        return local


@pytest.mark.usefixtures("one_thread")
def test_its_answers_are_the_model_s_at_every_temperature(folder, local):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        exact = model(torch.tensor([ROW])).logits[0, :-1]
    found = local.score(*ragged([ROW]))
    expected = take(exact, 4, temperatures=(2.0,))
    assert torch.equal(found.ids_NK, expected.ids_NK)
    for temperature in (1.0, 2.0):
        one, other = tempered(found, temperature), tempered(expected, temperature)
        torch.testing.assert_close(one.log_probs_NK, other.log_probs_NK, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.log_tail_N, other.log_tail_N, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_the_same_bits_in_any_company(local):
    rows = [ROW[:n] for n in (2, 8, 3, 5, 8, 7)]
    whole = local.score(*ragged(rows))
    alone = [local.score(*ragged([row])) for row in rows]
    assert torch.equal(whole.log_probs_NK, torch.cat([one.log_probs_NK for one in alone]))
    assert torch.equal(whole.tail[2.0], torch.cat([one.tail[2.0] for one in alone]))


def test_a_continuation_ends_with_the_token_that_ends_a_text(local):
    ids, offsets = local.generate(torch.tensor([0]), 40, 30, 0)
    rows = [ids[a:b].tolist() for a, b in pairwise(offsets)]
    assert any(row[-1] == 12 for row in rows)
    assert all(12 not in row[:-1] for row in rows)
    assert all(len(row) == 30 or row[-1] == 12 for row in rows)
    assert len({len(row) for row in rows}) > 1


def test_rows_longer_than_the_model_are_refused(local):
    with pytest.raises(TeacherError, match="at most 64 tokens in a row, found 65"):
        local.score(*ragged([[1] * 65]))
    with pytest.raises(TeacherError, match="at most 64 tokens in a row, found 65"):
        local.generate(torch.tensor([1] * 60), 1, 5, 0)
    assert len(local.score(*ragged([[1] * 64])).ids_NK) == 63


def test_what_cannot_be_loaded_names_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"engine\.model: .*cannot be loaded"):
        build_engine("transformers", model=str(tmp_path))
    for settings, message in (
        ({"dtype": "float23"}, "engine.dtype.*float32"),
        ({"k": 0}, "found k 0"),
    ):
        with pytest.raises(InputError, match=message):
            build_engine("transformers", model=str(tmp_path), **settings)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        InputError, match=r"needs transformers, which is not installed: pip install 'raykd\[hf\]'"
    ):
        build_engine("transformers", model=str(tmp_path))


def test_a_model_without_a_tokenizer_says_so(folder, tmp_path):
    for file in folder.iterdir():
        if "tokenizer" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(TeacherError, match=r"has no tokenizer.*put tokenizer\.json beside"):
        build_engine("transformers", model=str(tmp_path)).tokenize("a")


# --- one's own ----------------------------------------------------------------------------------


class Bigrams:
    """An engine of one's own: a table in this process."""

    vocabulary = VOCABULARY

    def __init__(self, kept=4):
        self.kept = kept

    def score(self, ids, offsets):
        require_ids(ids, self.vocabulary, engine="bigrams")
        before = [row[:-1] for row in rows_of(ids, offsets) if len(row)]
        rows = torch.cat(before) if before else torch.zeros(0, dtype=torch.int64)
        return replace(take(LOG_P[rows].float(), self.kept), offsets=unit_offsets(offsets))

    def generate(self, ids, n, max_new, seed):
        require_prompt(ids, n, max_new)
        require_ids(ids, self.vocabulary, engine="bigrams")
        generator = torch.Generator().manual_seed(seed)
        rows = [[int(ids[-1])] for _ in range(n)]
        for row in rows:
            for _ in range(max_new):
                row.append(int(torch.multinomial(LOG_P[row[-1]].exp(), 1, generator=generator)))
        return ragged([row[1:] for row in rows])

    def tokenize(self, text):
        raise TeacherError("a table has no tokenizer")


class TestOwn(EngineSuite):
    @pytest.fixture
    def engine(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "my_engines", sys.modules[__name__])
        return build_engine("my_engines:Bigrams", kept=3)


def test_an_unknown_kind_is_refused():
    with pytest.raises(
        InputError, match=r"knows no 'transformer'.*transformers.*module:Class of your own"
    ):
        build_engine("transformer")
    assert set(ENGINES) == {"transformers", "openai"}
