"""The daemon: serves models over gRPC and follows a budget while it runs.

Where the parts meet
--------------------
``models.ModelRepository``
    Every model of the daemon. ``get(name)``, ``models()``, ``load``, ``unload``, ``reload``. ``on_loaded(listener)``
    is called with each :class:`models.ServedModel` *before* its first request: the place to swap in a stored operating
    point and to start a compression. ``on_unloaded(listener)`` afterwards. ``threads``: intra-op threads of a run.

``models.ServedModel``
    ``name``, ``source`` (:class:`models.ModelSource`: path of the original ONNX file, shapes, budget), ``digest`` of
    the original, ``inputs``/``outputs`` (:class:`tensors.TensorSpec`).
    ``active`` is the :class:`runtime.Runtime` that computes now; ``swap(runtime)`` replaces it atomically and returns
    the one before. Requests in flight end on the runtime they started on; the old one goes with the last of them.
    ``register(runtime)`` / ``unregister(point_id)`` / ``registered``: further loaded points that a single request may
    wish for (request parameters ``max_latency_ms`` and ``max_error``; ``runtime_for`` is the rule) or need because of its
    deadline (``in_time``).
    ``statistics.subscribe(observer)``: ``observer(Observation)`` after every answered request, on its thread, with
    ``point_id``, ``queue_ms``, ``compute_ms``; ``statistics.read(reader)`` for the totals.

``runtime.Runtime.load(path, threads=, point_id=, digest=, figures=PointFigures(...))``
    A session of ONNX Runtime; then ``warm_up(shapes)``. ``point_id`` ``"original"`` is the model file itself.

``executor.Executor``
    Slots for runs and the bounded lines before them; what it computes is ``running.compute``, who may wait in an
    overload is ``admission.Line``'s to say. ``waiting(model name)`` is the queue depth; ``hold(model name)`` keeps
    a model from running while its runtime is exchanged.

``rpc.handler(service name, servicer)``
    Turns a servicer into a gRPC handler. A servicer has one method per RPC, called as in ``proto/``, with
    ``(request, context) -> response``; a server stream returns an iterator. It raises :class:`status.RequestError`
    (or an error of ``edge_dac.errors``) to answer with an error. Messages come from ``edge_dac.wire.message(...)``.

``fast_lane.FastLane``
    The calls of unary methods without grpcio's hand-overs from thread to thread; ``server.Server`` opens it.

``main``
    Reads the configuration and wires everything; see ``daemon.Daemon`` for the order of start and end.
"""

import os

# gRPC reads it when it is imported. What a client does wrong in TLS is no news for the log; errors are still told.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
