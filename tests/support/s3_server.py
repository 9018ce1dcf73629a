"""moto's S3 server, whose conditional writes are made atomic, as those of S3 are: moto checks and writes apart."""
import sys
import threading

from moto import server

lock = threading.Lock()


class Atomic(server.DomainDispatcherApplication):
    def __call__(self, environ, start_response):
        # Others may write at the same time, as parts of one object are.
        if not {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"} & environ.keys():
            return super().__call__(environ, start_response)
        with lock:
            return list(super().__call__(environ, start_response))


server.DomainDispatcherApplication = Atomic
server.main(sys.argv[1:])
