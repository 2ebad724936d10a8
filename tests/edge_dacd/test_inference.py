from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_dacd.authorization import Authorizer
from edge_dacd.config import ServerConfig
from edge_dacd.executor import Executor
from edge_dacd.framing import ModelInferRequest
from edge_dacd.inference import SERVICE, InferenceServicer
from edge_dacd.models import ModelRepository, ModelSource
from edge_dacd.rpc import handler, unary_answers
from edge_dacd.running import Run, Work, compute
from edge_dacd.server import Server
from edge_dacd.shared_memory import SharedMemory

INFER = f"/{SERVICE}/ModelInfer"


@pytest.fixture
def executor() -> Executor[Work, Run]:
    return Executor(1, compute)


@pytest.fixture(params=["fast lane", "usual way"])
def ask(request: Any, executor: Executor[Work, Run], tmp_path: Path) -> Iterator[Any]:
    """``ask(bytes)`` from a server in this process, whose model ``m`` has no place for requests to wait."""
    value = (
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4]),
    )
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "test", [value[0]], [value[1]])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    repository = ModelRepository(lambda: {"m": ModelSource("m", path, queue_size=0)}, 1)
    repository.load("m")
    servicer = InferenceServicer(repository, executor, SharedMemory(), Authorizer(None), is_ready=lambda: True)
    fast = unary_answers(SERVICE, servicer) if request.param == "fast lane" else {}
    server = Server(ServerConfig(listen=("127.0.0.1:0",)), {SERVICE: handler(SERVICE, servicer)}, 1 << 20, fast, {})
    server.start()
    with grpc.insecure_channel(server.addresses[0]) as channel:
        yield channel.unary_unary(INFER)
    server.drain()


@pytest.mark.parametrize("is_refused", [False, True], ids=["answered", "refused"])
def test_requests_leave_nothing_that_must_be_collected(
    ask: Any, executor: Executor[Work, Run], is_refused: bool
) -> None:
    message = ModelInferRequest(model_name="m", raw_input_contents=[np.ones(4, np.float32).tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    data = message.SerializeToString()

    def ask_often(times: int) -> None:
        for _ in range(times):
            if is_refused:
                with pytest.raises(grpc.RpcError):
                    ask(data, timeout=20)
            else:
                ask(data, timeout=20)

    with ExitStack() as stack:
        if is_refused:
            stack.enter_context(executor.hold("m"))
        ask_often(20)
        gc.collect()
        gc.disable()
        stack.callback(gc.enable)
        ask_often(50)
        gc.set_debug(gc.DEBUG_SAVEALL)
        stack.callback(gc.set_debug, 0)
        stack.callback(gc.garbage.clear)
        gc.collect()
        ours = [one for one in gc.garbage if type(one).__module__.startswith("edge_dacd")]
        assert len(ours) < 25
