#!/usr/bin/env python3
"""Stands in for the serving environment's interpreter: a server with vLLM's routes that starts in no time.

The model folder says how it behaves: `dies` (text printed before it exits), `busy` (a request is running),
`refuses_adapters`; it counts its starts in `starts`.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = Path(sys.argv[sys.argv.index("--model") + 1])
PORT = int(sys.argv[sys.argv.index("--port") + 1])
MAX_RANK_EXCEEDED = "Call to add_lora method failed: LoRA rank 128 is greater than max_lora_rank 64."


class Routes(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/v1/load_lora_adapter":
            if (MODEL / "refuses_adapters").exists():
                return self.answer(400, {"error": {"message": MAX_RANK_EXCEEDED, "type": "BadRequestError"}})
            with (MODEL / "loaded").open("a") as loaded:
                loaded.write(body["lora_name"] + "\n")
        return self.answer(200, {"choices": []})

    def do_GET(self):
        number = int((MODEL / "busy").exists())
        text = (
            f'# HELP\nvllm:num_requests_running{{engine="0"}} {number}.0\nvllm:num_requests_waiting{{engine="0"}} 0.0\n'
        )
        self.answer(200, text)

    def answer(self, status, body):
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


with (MODEL / "starts").open("a") as starts:
    starts.write("x")
if (MODEL / "dies").exists():
    sys.exit((MODEL / "dies").read_text())
time.sleep(0.3)
ThreadingHTTPServer(("127.0.0.1", PORT), Routes).serve_forever()
