"""curl, with further flags, fetching URLs to /dev/null over N connections at once, one process each."""

import subprocess
import sys

from measured import measured


def main() -> None:
    connections, flags, urls = int(sys.argv[1]), sys.argv[2:], sys.stdin.read().split()
    shares = [urls[i::connections] for i in range(connections)]
    with measured() as result:
        running = []
        for share in filter(None, shares):
            config = "".join(f'url = "{u}"\noutput = "/dev/null"\n' for u in share)
            command = ["curl", "-sS", "--fail", *flags, "-K", "-", "-w", "%{size_download}\\n"]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            child.stdin.write(config)
            child.stdin.close()
            running.append(child)
        for child in running:
            result["bytes"] += sum(int(line) for line in child.stdout.read().split())
            if child.wait() != 0:
                sys.exit(f"curl failed with status {child.returncode}")


main()
