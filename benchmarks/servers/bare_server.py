"""grpcio's own server and nothing else: ``python bare_server.py ADDRESS FILE`` answers every inference with FILE."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

YES = b"\x08\x01"  # field 1 is true: ready


class Constant(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, answer: bytes) -> None:
        self._infer = grpc.unary_unary_rpc_method_handler(lambda data, context: answer)
        self._others = grpc.unary_unary_rpc_method_handler(lambda data, context: YES)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._infer if details.method.endswith("/ModelInfer") else self._others


if __name__ == "__main__":
    address, file = sys.argv[1:]
    handlers = (Constant(Path(file).read_bytes()),)
    server = grpc.server(ThreadPoolExecutor(16), handlers=handlers, options=[("grpc.max_receive_message_length", -1)])
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()
