"""A collector that takes every batch of traces and keeps nothing: the bytes are not even parsed."""
import sys
import threading
from concurrent import futures

import grpc


class Discard(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
server.add_generic_rpc_handlers((Discard(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"listening on 127.0.0.1:{port}", file=sys.stderr, flush=True)
threading.Event().wait()
