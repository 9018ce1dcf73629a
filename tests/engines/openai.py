"""A server that speaks as OpenAI's does, with times that are known. FIRST and EACH are seconds; MODE is what it is like:
plain; known, which is plain and minds no prompt that comes again; bare, which takes neither ignore_eos nor stream_options and counts no tokens; keyed, which wants the key k;
broken, which breaks off every third answer; cold, which refuses everything. It prints its port.
"""
import http.server
import json
import os
import sys
import threading
import time

first, each = float(os.environ["FIRST"]), float(os.environ["EACH"])
mode = os.environ["MODE"]
lock, seen, prompts = threading.Lock(), 0, []


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def allowed(self):
        if mode == "cold":
            self.reply(503, {"error": {"message": "not today"}})
        elif mode == "keyed" and self.headers["Authorization"] != "Bearer k":
            self.reply(401, {"error": {"message": "no key"}})
        else:
            return True

    def do_GET(self):
        if self.allowed():
            if self.path != "/v1/models":
                return self.reply(404, {"error": "no such path"})
            self.reply(200, {"data": [{"id": "org/m"}]})

    def do_POST(self):
        global seen
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        if self.path == "/tokenize" and mode in ("plain", "known"):
            assert body["model"] == "org/m", body
            return self.reply(200, {"count": 1 + 2 * len(body["prompt"].split())})
        if self.path != "/v1/completions":
            return self.reply(404, {"error": "no such path"})
        if mode == "bare" and ("ignore_eos" in body or "stream_options" in body):
            return self.reply(400, {"error": {"message": "unknown field"}})
        with lock:
            seen += 1
            number = seen
            assert mode == "known" or body["prompt"] not in prompts or body["max_tokens"] == 1, "the same prompt again"
            prompts.append(body["prompt"])
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        begin = time.monotonic()
        for index in range(body["max_tokens"]):
            time.sleep(max(0, begin + first + index * each - time.monotonic()))
            self.event({"choices": [{"text": f" {index}"}]})
            if mode == "broken" and number % 3 == 0:
                return
        usage = {"prompt_tokens": 1 + 2 * len(body["prompt"].split()), "completion_tokens": body["max_tokens"]}
        if body.get("stream_options"):
            self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value):
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
print(server.server_address[1], flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
