"""A server of OpenAI's protocol, as much of it as deals in ids: a table of bigrams answers, or one fault of many."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

VOCABULARY = 11
LOG_P = (3 * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(1)).double()).log_softmax(1)  # fmt: skip
LIMIT = 6


class Server(ThreadingHTTPServer):
    daemon_threads = True
    fault: str | None = None
    asked = 0
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
            return self.reply({"tokens": [ord(c) % VOCABULARY for c in body["prompt"]]})
        if self.path != "/v1/completions" or body["model"] != "bigrams":
            return self.reply({"error": {"message": "there is no such model"}}, 404)
        if body.get("prompt_logprobs", 0) > LIMIT:
            return self.reply({"error": f"prompt_logprobs above max_logprobs {LIMIT}"}, 400)
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
                last = int(torch.multinomial(LOG_P[last].exp(), 1, generator=generator))
                row.append(last)
            choices.append(
                {"index": index, "text": "", **({} if fault == "no ids" else {"token_ids": row})}
            )
        return choices

    def entry(self, before, token, count, fault):
        values = LOG_P[before]
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
def serving() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
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
