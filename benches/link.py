"""What lies between a client and a server on loopback: a link of a chosen speed, or a delay.

The link is the kernel's own token bucket on the loopback device of a network
namespace that this process is alone in (`enter_own_network`). All connections
share it, and it costs nobody CPU time, as a network card would not; headers
count too, which is 0.1% of the packets of 64 KiB there. The delay is a relay
that holds each client packet back before it reaches the server: it counts
round trips.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from sampling import Unavailable

OWN_NETWORK = "BENCH_OWN_NETWORK"
BURST_S = 0.0005  # credit kept while idle
MIN_BURST = 128 << 10  # bytes; two packets
QUEUE = 64 << 20  # bytes; more than all sockets buffer, so that nothing is dropped


def enter_own_network() -> None:
    """Starts this program again in a network namespace of its own, where only it uses loopback."""
    if OWN_NETWORK not in os.environ:
        own = ["unshare", "--net"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
        os.execvpe(own[0], [*own, sys.executable, *sys.argv], os.environ | {OWN_NETWORK: "1"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Link:
    """Loopback at this rate, for as long as the `with` block lasts."""

    def __init__(self, bits_per_s: float):
        burst = max(MIN_BURST, int(bits_per_s / 8 * BURST_S))
        self.limits = ["rate", f"{bits_per_s:.0f}bit", "burst", str(burst), "limit", str(QUEUE)]

    def __enter__(self) -> "Link":
        made = shape("add", "tbf", *self.limits)
        if made.returncode:
            raise Unavailable(f"no token bucket on loopback: {made.stderr.strip()}")
        return self

    def __exit__(self, *_) -> None:
        shape("del").check_returncode()


def shape(verb: str, *discipline: str) -> subprocess.CompletedProcess:
    return subprocess.run(["tc", "qdisc", verb, "dev", "lo", "root", *discipline], capture_output=True, text=True)


def carry(client: socket.socket, to: int, delay_s: float) -> None:
    with client, socket.create_connection(("127.0.0.1", to)) as server:
        for s in (client, server):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upstream = threading.Thread(target=relay, args=(client, server, delay_s), daemon=True)
        upstream.start()
        relay(server, client, 0)
        upstream.join()


def relay(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    try:
        while data := source.recv(1 << 20):
            time.sleep(delay_s)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for s in (source, target):  # a reset of either side ends the connection
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # already down


def serve(to: int, delay_s: float) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=carry, args=(client, to, delay_s), daemon=True).start()


class Delay:
    """A delay before the server on `port`, in a process of its own, for as long as the `with` block lasts."""

    def __init__(self, port: int, delay_s: float):
        self.arguments = ["--to", str(port), "--delay", str(delay_s)]

    def __enter__(self) -> "Delay":
        self.process = subprocess.Popen([sys.executable, __file__, *self.arguments], stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        return self

    def __exit__(self, *_) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=int, required=True, help="port of the server")
    parser.add_argument("--delay", type=float, default=0, help="seconds, client to server")
    args = parser.parse_args()
    serve(args.to, args.delay)
