"""A TCP link of a chosen speed and delay in front of a server on loopback.

One token bucket of payload bytes is shared by all connections, server to
client. Bytes move by splice(2), so they are never copied into this process and
the limiter stays cheap beside what it limits. A delay holds each client packet
back before it reaches the server: it counts round trips.
"""

import argparse
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time

CHUNK = 256 << 10
F_SETPIPE_SZ = 1031
BURST_S = 0.002  # credit kept while idle; covers the scheduler's jitter


class TokenBucket:
    def __init__(self, bytes_per_s: float):
        self.bytes_per_s = bytes_per_s
        self.lock = threading.Lock()
        self.free_at = 0.0

    def take(self, count: int) -> None:
        """Returns when the link would have carried these bytes."""
        with self.lock:
            now = time.monotonic()
            self.free_at = max(self.free_at, now - BURST_S) + count / self.bytes_per_s
            wait = self.free_at - now
        if wait > 0:
            time.sleep(wait)


def server_to_client(server: socket.socket, client: socket.socket, bucket: TokenBucket) -> None:
    read_end, write_end = os.pipe()
    try:
        fcntl.fcntl(write_end, F_SETPIPE_SZ, 4 * CHUNK)
        while count := os.splice(server.fileno(), write_end, CHUNK):
            bucket.take(count)
            while count:
                count -= os.splice(read_end, client.fileno(), count)
        client.shutdown(socket.SHUT_WR)
    except OSError:
        close_both(server, client)  # a reset of either side ends the connection
    finally:
        os.close(read_end)
        os.close(write_end)


def client_to_server(client: socket.socket, server: socket.socket, delay_s: float) -> None:
    try:
        while data := client.recv(65536):
            if delay_s:
                time.sleep(delay_s)
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)
    except OSError:
        close_both(server, client)


def close_both(*sockets: socket.socket) -> None:
    for s in sockets:
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue  # already down


def carry(client: socket.socket, to: int, bucket: TokenBucket, delay_s: float) -> None:
    with client, socket.create_connection(("127.0.0.1", to)) as server:
        for s in (client, server):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upstream = threading.Thread(target=client_to_server, args=(client, server, delay_s), daemon=True)
        upstream.start()
        server_to_client(server, client, bucket)
        close_both(client, server)
        upstream.join()


def serve(to: int, bits_per_s: float, delay_s: float) -> None:
    bucket = TokenBucket(bits_per_s / 8)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=carry, args=(client, to, bucket, delay_s), daemon=True).start()


class Link:
    """The link in a process of its own, for as long as the `with` block lasts."""

    def __init__(self, to: int, bits_per_s: float = 1e12, delay_s: float = 0):
        self.arguments = ["--to", str(to), "--bits", str(bits_per_s), "--delay", str(delay_s)]
        self.cpu_s = 0.0

    def __enter__(self) -> "Link":
        self.process = subprocess.Popen([sys.executable, __file__, *self.arguments], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __exit__(self, *_) -> None:
        self.process.terminate()
        _, _, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = -signal.SIGTERM
        self.cpu_s = usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=int, required=True, help="port of the server")
    parser.add_argument("--bits", type=float, required=True, help="bits per second")
    parser.add_argument("--delay", type=float, default=0, help="seconds, client to server")
    args = parser.parse_args()
    serve(args.to, args.bits, args.delay)
