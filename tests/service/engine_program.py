#!/usr/bin/env python3
"""Stands in for the serving environment's interpreter: a vLLM that answers with words of its own.

Sample k to a prompt is k times "good" after its first word; a prompt with "same" is answered alike, one with "none"
not at all, one with "refuse" is refused. While a file `down` lies beside the model it fails.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = Path(sys.argv[sys.argv.index("--model") + 1])
PORT = int(sys.argv[sys.argv.index("--port") + 1])


def samples(prompt, n):
    if "same" in prompt:
        return ["good"] * n
    if "none" in prompt:
        return [" "] * n
    return [" ".join([prompt.split()[0], *["good"] * k]) for k in range(n)]


class Routes(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        chat = self.path.startswith("/v1/chat")
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        if prompt == [1]:  # whether it lives
            return self.answer(200, {"choices": []})
        with (MODEL / "asked").open("a") as asked:
            asked.write(prompt + "\n")
        if (MODEL / "down").exists():
            return self.answer(500, {})
        if "refuse" in prompt:
            return self.answer(400, {"error": {"message": "too long"}})
        texts = samples(prompt, body["n"])
        choices = [{"index": k, "message": {"content": text}, "text": text} for k, text in enumerate(texts)]
        return self.answer(200, {"choices": choices[::-1]})

    def do_GET(self):
        self.answer(200, {})

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Routes).serve_forever()
