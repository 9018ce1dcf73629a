"""A static HTTP origin for benchmarks: Debian's nginx on loopback, counted from its log.

What a client fetched is taken from the server's access log, never from the
client: `mark()` before, `since(mark)` after. nginx runs in the foreground under
this process with its own configuration and leaves nothing behind. With TLS it
speaks HTTP/1.1 and HTTP/2 under a certificate made for the occasion.
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

CONFIGURATION = """
worker_processes auto;
pid {run}/nginx.pid;
error_log {run}/error.log warn;
daemon off;
{user}
events {{ worker_connections 1024; }}
http {{
    log_format counted '$msec $request_time $request_method $request_uri $status $body_bytes_sent "$http_range"';
    access_log {run}/access.log counted;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 65;
    keepalive_requests 1000000;
    default_type application/octet-stream;
    client_body_temp_path {run}/body; proxy_temp_path {run}/proxy; fastcgi_temp_path {run}/fastcgi;
    uwsgi_temp_path {run}/uwsgi; scgi_temp_path {run}/scgi;
    server {{
        listen 127.0.0.1:{port} {tls} backlog=1024;
        {certificate}
        root {root};
        # rclone finds a folder's files on its page.
        autoindex on;
    }}
}}
"""
START_TIMEOUT_S = 10
SETTLED_S = 0.1


@dataclasses.dataclass(frozen=True)
class Request:
    ended: float
    seconds: float
    method: str
    uri: str
    status: int
    body_bytes: int
    range: str


@dataclasses.dataclass(frozen=True)
class Traffic:
    requests: list[Request]

    @property
    def count(self) -> int:
        return len(self.requests)

    @property
    def body_bytes(self) -> int:
        return sum(r.body_bytes for r in self.requests)

    def under(self, folder: str) -> "Traffic":
        """The part of it whose path has `folder` as a component."""
        return Traffic([r for r in self.requests if f"/{folder}/" in r.uri])

    def rounds(self, gap_s: float) -> int:
        """Requests in sequence: groups of them that ended more than `gap_s` apart."""
        ends = sorted(r.ended for r in self.requests)
        return sum(1 for i, end in enumerate(ends) if i == 0 or end - ends[i - 1] > gap_s)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(process: subprocess.Popen, port: int, timeout_s: float = START_TIMEOUT_S) -> bool:
    """Waits until a server that was started takes connections; whether it did."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.02)


class Origin:
    def __init__(self, root: pathlib.Path, port: int = 0, tls: bool = False):
        self.root = root.resolve()
        self.port = port or free_port()
        self.tls = tls
        self.run = pathlib.Path(tempfile.mkdtemp(prefix="origin-"))
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def certificate(self) -> pathlib.Path:
        return self.run / "certificate.pem"

    @property
    def environment(self) -> dict[str, str]:
        """What makes a client that trusts the system's certificates trust this server's."""
        return {"SSL_CERT_FILE": str(self.certificate)} if self.tls else {}

    def _certify(self) -> str:
        """Makes a certificate; gives nginx's lines for it."""
        key = self.run / "key.pem"
        subprocess.run([
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", key, "-out", self.certificate,
        ], check=True, capture_output=True)
        return f"ssl_certificate {self.certificate}; ssl_certificate_key {key};"

    def __enter__(self) -> "Origin":
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        # Workers must read what this user wrote; as root that means staying root.
        user = "user root;" if os.getuid() == 0 else ""
        config = self.run / "nginx.conf"
        tls, certificate = ("ssl http2", self._certify()) if self.tls else ("", "")
        config.write_text(CONFIGURATION.format(
            run=self.run, root=self.root, port=self.port, user=user, tls=tls, certificate=certificate))
        self.process = subprocess.Popen([nginx, "-p", str(self.run), "-e", str(self.run / "error.log"), "-c", str(config)])
        if not answers(self.process, self.port):
            log = (self.run / "error.log").read_text() if (self.run / "error.log").exists() else ""
            self.__exit__()
            raise RuntimeError(f"nginx did not start on port {self.port}: {log.strip()}")
        return self

    def __exit__(self, *_) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)  # graceful
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.terminate()
                self.process.wait()
        shutil.rmtree(self.run)

    def mark(self) -> int:
        return self._settled_size()

    def since(self, mark: int) -> Traffic:
        end = self._settled_size()
        with open(self.run / "access.log", "rb") as log:
            log.seek(mark)
            lines = log.read(end - mark).decode(errors="replace").splitlines()
        requests = []
        for line in lines:
            ended, seconds, method, uri, status, body, range_ = line.split(" ", 6)
            requests.append(Request(float(ended), float(seconds), method, uri, int(status), int(body), range_.strip('"')))
        return Traffic(requests)

    def cpu_seconds(self) -> float:
        """User and system time of all workers so far."""
        assert self.process
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ticks = 0
        for pid in children:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _settled_size(self) -> int:
        """The log's size once nginx has written the lines of all finished requests."""
        log, last, since = self.run / "access.log", -1, time.monotonic()
        while True:
            size = log.stat().st_size
            if size != last:
                last, since = size, time.monotonic()
            elif time.monotonic() - since > SETTLED_S:
                return size
            time.sleep(0.01)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=pathlib.Path)
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    # Both ways of ending it must pass through the `with`, or nginx would stay behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Origin(args.root, args.port) as origin:
        start = origin.mark()
        print(origin.url, flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            traffic = origin.since(start)
            print(f"{traffic.count} requests, {traffic.body_bytes} bytes")
