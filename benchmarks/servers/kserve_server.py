"""KServe's own Python server around ONNX Runtime: ``python kserve_server.py GRPC_PORT HTTP_PORT NAME=FILE...``"""

from __future__ import annotations

import sys
from typing import Any

import onnxruntime as ort
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class OnnxModel(Model):  # type: ignore[misc]
    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(path, options)
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        feeds = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        outputs = []
        for description, array in zip(self._session.get_outputs(), self._session.run(None, feeds), strict=True):
            output = InferOutput(description.name, list(array.shape), "FP32")
            output.set_data_from_numpy(array, binary_data=True)
            outputs.append(output)
        return InferResponse(payload.id, self.name, outputs)


if __name__ == "__main__":
    grpc_port, http_port, *models = sys.argv[1:]
    sys.argv = sys.argv[:1]
    server = ModelServer(http_port=int(http_port), grpc_port=int(grpc_port), enable_latency_logging=False)
    server.start([OnnxModel(*model.split("=", 1)) for model in models])
