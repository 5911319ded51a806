"""An OpenAI-compatible endpoint whose model is a function of the test."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def says(text):
    return {"role": "assistant", "content": text}


def calls(*codes, name="python", argument="code"):
    """Return a message that calls a tool, once a code; ``raw`` arguments go out as they are."""
    arguments = [code if argument is None else json.dumps({argument: code}) for code in codes]
    made = [
        {"id": f"call-{n}", "type": "function", "function": {"name": name, "arguments": text}}
        for n, text in enumerate(arguments)
    ]
    return {"role": "assistant", "content": None, "tool_calls": made}


def results(messages):
    """Return what the tools of a conversation said."""
    return [text(message) for message in messages if message["role"] == "tool"]


def text(message):
    """Return a message's text, whichever of the two forms it has."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@contextlib.contextmanager
def endpoint(plays):
    """Serve a model; ``plays(request)`` gives its message, an HTTP status of 400 and above, or the body of a 400."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = plays(request)
            status = message if isinstance(message, int) else 400 if "error" in message else 200
            refusal = {"error": {"message": "no"}} if isinstance(message, int) else message
            body = json.dumps(_completion(request, message) if status == 200 else refusal).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _completion(request, message):
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    return {
        "id": "completion",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
