"""A server of OpenAI's protocol, as much of it as deals in ids: a table of bigrams answers, or one fault of many."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import torch

from raykd.data import Dataset
from raykd.data.texts import encode_texts
from raykd.types import TEXT

VOCABULARY = 11
LOG_P = (3 * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(1)).double()).log_softmax(1)  # fmt: skip
LIMIT = 6


_WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "in",
    "warm",
    "houses",
    "if",
    "then",
    "else",
    "begin",
    "end",
    "while",
    "do",
    "return",
]


def texts(count: int = 60) -> Dataset:
    """Texts of two domains, which recipes of the tests name."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 2
    made = [
        " ".join(generator.choice(_WORDS[11 * one : 11 + 9 * one + 2], generator.integers(2, 10)))
        for one in labels
    ]
    return Dataset({TEXT: encode_texts(made, 100)}, labels, classes=("prose", "code"))


def byte_bigrams() -> torch.Tensor:
    """Log-probabilities [256, 256] of the byte after each byte, as these texts have them."""
    counts = torch.full((256, 256), 0.02, dtype=torch.float64)
    for row in texts().arrays[TEXT]:
        found = torch.from_numpy(row[row > 0].astype(np.int64))
        counts.index_put_((found[:-1], found[1:]), torch.tensor(1.0).double(), accumulate=True)
    return (counts / counts.sum(1, keepdim=True)).log()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    fault: str | None = None
    asked = 0
    log_p = LOG_P
    limit = LIMIT
    says: ClassVar[dict] = {"object": "model", "created": 1}

    def cut(self, text):
        """How its tokenizer cuts a text: by characters, or, with all bytes as tokens, by these."""
        size = len(self.log_p)
        return list(text.encode()) if size == 256 else [ord(c) % size for c in text]

    heard: list[dict]

    def handle_error(self, *_args):
        """A client that has gone away is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_args):
        pass

    def reply(self, body, code=200):
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        if self.path != "/v1/models" or self.server.fault == "no list":
            return self.reply({"error": "there is no such page"}, 404)
        return self.reply({"data": [{"id": "other"}, {"id": "bigrams", **self.server.says}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        self.server.heard.append({"path": self.path, "key": self.headers["Authorization"], **body})
        fault = self.server.fault
        if fault == "slow":
            time.sleep(1.0)
        if fault == "busy" or (fault == "busy once" and self.server.asked == 1):
            return self.reply({"error": "too many requests"}, 503)
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            return self.wfile.write(b"{")
        if fault == "garbage":
            return self.reply(b"<html>not this</html>")
        if fault == "list":
            return self.reply([1])
        if fault == "no choices":
            return self.reply({"choices": []})
        if self.path == "/tokenize" and fault != "no tokenize":
            return self.reply({"tokens": self.server.cut(body["prompt"])})
        if self.path != "/v1/completions" or body["model"] != "bigrams":
            return self.reply({"error": {"message": "there is no such model"}}, 404)
        if body.get("prompt_logprobs", 0) > self.server.limit:
            return self.reply(
                {"error": f"prompt_logprobs above max_logprobs {self.server.limit}"}, 400
            )
        return self.reply({"choices": self.choices(body, fault)})

    def choices(self, body, fault):
        if "prompt_logprobs" in body:
            told = [None] + [
                self.entry(before, token, body["prompt_logprobs"], fault)
                for before, token in zip(body["prompt"], body["prompt"][1:], strict=False)
            ]
            if fault == "short":
                del told[-1]
            return [
                {
                    "index": 0,
                    "text": "",
                    **({} if fault == "no scores" else {"prompt_logprobs": told}),
                }
            ]
        choices = []
        for index in reversed(range(body["n"])):
            generator = torch.Generator().manual_seed(body["seed"] * 1000 + index)
            row, last = [], body["prompt"][-1]
            for _ in range(body["max_tokens"] + (fault == "too long")):
                last = int(torch.multinomial(self.server.log_p[last].exp(), 1, generator=generator))
                row.append(last)
            choices.append(
                {"index": index, "text": "", **({} if fault == "no ids" else {"token_ids": row})}
            )
        return choices

    def entry(self, before, token, count, fault):
        values = self.server.log_p[before]
        kept = values.topk(count - 2 if fault == "fewer" else count).indices.tolist()
        entries = {
            str(v): {"logprob": values[v].item(), "rank": 1, "decoded_token": "?"}
            for v in {*kept, token}
        }
        if fault == "foreign":
            entries = {str(int(v) + 1000): one for v, one in entries.items()}
        if fault == "other ids":
            entries.pop(str(token))
        if fault == "logits":
            entries = {v: {"logprob": one["logprob"] + 9} for v, one in entries.items()}
        if fault == "nan":
            entries[str(token)]["logprob"] = float("nan")
        if fault == "texts":
            entries = {"the": {"logprob": -1.0}}
        if fault == "numbers":
            entries = {v: one["logprob"] for v, one in entries.items()}
        return entries


@contextmanager
def serving(log_p=LOG_P, limit=LIMIT, port=0) -> Iterator[Server]:
    server = Server(("127.0.0.1", port), Handler)
    server.log_p, server.limit = log_p, limit
    server.heard = []
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
