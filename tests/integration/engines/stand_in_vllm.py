"""Behaves as `vllm serve` towards `moegate up`, with a worker process of its own, and fails on
demand: `--stand-in=exits`, `silent` (never serves), `stubborn` (ignores SIGTERM), `escapes` (its
worker leads a session of its own).

A script of the standard library alone: it runs with an environment of its own, as vLLM does.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN_S = 0.02
METRICS = """vllm:num_requests_running{engine="0"} 0
vllm:num_requests_waiting{engine="0"} 0
vllm:kv_cache_usage_perc{engine="0"} 0
vllm:cache_config_info{block_size="16",num_gpu_blocks="600"} 1
"""
FAILURE = """(EngineCore pid=9) ERROR 11-29 10:00:00 [core.py:1] EngineCore failed to start.
(EngineCore pid=9) ERROR 11-29 10:00:00 [core.py:1] Traceback (most recent call last):
(EngineCore pid=9) ERROR 11-29 10:00:00 [core.py:1]   File "core.py", line 1, in run
(EngineCore pid=9) ERROR 11-29 10:00:00 [core.py:1] ValueError: no such model"""


class Handler(BaseHTTPRequestHandler):
    model = ""

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self.answer(METRICS.encode(), "text/plain")
        elif not self.has_key():
            self.send_error(401)
        else:
            models = {"object": "list", "data": [{"id": self.model, "max_model_len": 4096}]}
            self.answer(json.dumps(models).encode(), "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.has_key():
            self.send_error(401)
            return
        is_chat = self.path == "/v1/chat/completions"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        count = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        try:
            for i in range(count):
                text = {"delta": {"content": "word "}} if is_chat else {"text": "word "}
                finish = "length" if i == count - 1 else None
                self.event(choices=[{"index": 0, "finish_reason": finish, **text}])
                time.sleep(TOKEN_S)
            usage = {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}
            self.event(choices=[], usage=usage)
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            print("a client has gone", flush=True)

    def has_key(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {os.environ['VLLM_API_KEY']}"

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def event(self, **fields: Any) -> None:
        event = {"id": "1", "object": "chunk", "model": self.model, **fields}
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("model")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name")
    parser.add_argument("--stand-in", default="serves")
    args, _ = parser.parse_known_args()
    if args.stand_in == "exits":
        print(FAILURE, file=sys.stderr)
        print("(APIServer pid=7) INFO waiting for the others\n" * 100, file=sys.stderr)
        print("RuntimeError: see the root cause above", file=sys.stderr)
        return 3
    if args.stand_in == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # As vLLM's workers: it neither ends with its parent nor on SIGTERM.
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    worker = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], start_new_session=args.stand_in == "escapes"
    )
    print(f"worker {worker.pid} of {args.model}", flush=True)
    if args.stand_in == "silent":
        time.sleep(3600)
    Handler.model = args.served_model_name
    ThreadingHTTPServer(("127.0.0.1", args.port), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
