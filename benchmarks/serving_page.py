"""From the figures of ``benchmarks.serving`` to the page ``docs/serving.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEAD = """# What serving costs

Written by `python -m benchmarks.serving --output docs/serving.md`; do not edit by hand.

The same light models behind every server, one compute thread each, tritonclient as the client, everything on one device.

*One client*: every round asks each server once, in a new order every round. *Overhead* is the median of the difference
to `session.run` in the same round: what client, protocol and server cost together. *Four clients*: processes that ask as
fast as they can, the servers in turn; *CPU* is the server's processor time for an answer.

`bare gRPC` is grpcio's own server with a constant answer and no model, over a Unix socket: the client's and the protocol's
part. It makes no run, so its p50, not its overhead, is to be set beside the overhead of the others. With shared memory the
client writes the tensor into memory that both see, and the message carries its place only.

What is left to save is gRPC's: without it, from the bytes of a request to the bytes of its answer, the daemon takes 18 to 26
microseconds beside the run (shared memory or not, both models; 3,000 times in one process). On an older processor shared
memory cost 0.57 to 0.63 ms over `session.run`, where the bare server took 0.74. The four clients are Python too and share
the two cores with the server: they hold the rates down, of the bare server as well.
"""
TAIL = """## What was tried

Measured side by side against the server as it is, interleaved, medians; kept is what the server does now.

* Threads against asyncio (`grpc.aio`), same handler: 0.49 against 0.62 ms for a small message, 0.87 against 1.62 ms for
  602 kB. Threads were kept.
* Views of the received bytes instead of protobuf's copies, the answer joined once, freed buffers kept by the allocator
  (1.39 to 0.85-0.99 ms of processor time for 602 kB), the run on the thread that received the request: kept.
* A collector of garbage that is frozen after the start, registered method handlers, larger HTTP/2 frames and windows without
  bandwidth probing, a thread pool without futures, 4 or 64 threads in it, a shorter switch interval of the interpreter:
  no difference beyond the noise. Not kept.
* gRPC's `GRPC_EXPERIMENTS=-event_engine_listener` (no thread of its own for reads): 4 % less latency for one client,
  nothing to a fifth less throughput for four small ones. Not kept.
* Time slices of Linux' scheduler (`sched_setattr`, from 6.12 on): long for runs and short for all other threads, so that who
  wakes up goes before a run. Refusals in a flood, 12 s each, in turn: p90 1.7 and 1.9 instead of 3.7 ms, p99 4.6 and 4.9
  instead of 7.2. But four clients got 1827 instead of 2211 small answers a second, at 0.52 instead of 0.35 ms of processor
  time, and 815 instead of 842 images; with a long slice for runs alone 1802 instead of 2137, and p99 5.0 and 5.9 ms. Not kept.
* Taking the calls of `ModelInfer` from gRPC's completion queue and answering them on the thread that took them
  (`edge_dacd.fast_lane`), instead of grpcio's way from thread to thread: 0.07 to 0.1 ms less for each answer, 0.31 instead of
  0.50 ms of processor time for a small one (four clients). Kept, by now for all unary methods; streams, and all
  of them where this grpcio has changed inside, go the usual way.
* One thread that takes events and answers calls whose run is over in half a millisecond itself, instead of two that take
  turns: 0.3 instead of 3 to 4 switches of a thread for each answer. In turn, four clients, eight times half a second each:
  1.12 times the small answers a second at 0.82 of the processor time, 1.30 times the images at 0.79, with shared memory 1.24
  times at 0.81. Kept. To wait for the end of such a call together with its answer, an event less: 1.01 and 1.00. Not kept.
* What a request says beside its id and its tensors' bytes, checked once and kept for the next request that says the same, and
  the bytes around an answer likewise: without gRPC a third less time for a request and its answer beside the run, over gRPC
  8 % less latency (1 % for an image in the message), 1.04 times the small answers a second at 0.90 of the processor time, 1.22
  times the images in shared memory at 0.78. Kept.
* Switches of gRPC (`GRPC_EXPERIMENTS`: `event_engine_callback_cq`, `use_call_event_engine_in_completion_queue`,
  `pollset_alternative`, `tcp_rcv_lowat` with `tcp_frame_size_tuning`, `free_large_allocator`, `fuse_filters`): 0.89 to 1.26
  times the answers in runs of six to twelve turns, where the same server beside itself came to 0.95 to 1.08. Not kept.
* The daemon at nice -5 and its threads at 0 while they compute, so that refusals go before runs (needs a privilege): p99 of
  refusals in a flood of 8 s, three in turn on a busy machine, 9.5, 12.1 and 10.3 ms, and 8.9, 12.0 and 8.6 without. Not kept.
* After a run of more than 2 ms, the next one only when the answer is on its way: in a flood accepted requests took 9.4 ms
  instead of 12.9 at the median. Kept. After every run: 0.84 times the answers where a run takes 0.4 ms, 0.94 at 1.1 ms. Not
  kept.
* Runs on one core and all other threads of the daemon on the other, in a flood on two cores: accepted requests 8.3 ms instead
  of 9.7 at the median, refusals at p99 4.0 instead of 4.6. Not kept: a program that holds the other core would hold up all.
"""


def page(result: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], machine: str) -> str:
    """The whole page. ``result``: see ``benchmarks.serving.measure``."""
    parts = [HEAD, f"{machine}.\n"]
    for model, shape in shapes.items():
        parts += [f"## {'x'.join(map(str, shape))} float32\n", _table(result, model)]
    return "\n".join([*parts, TAIL])


def _table(result: Mapping[str, Any], model: str) -> str:
    lines = [
        "| | p50 ms | p95 ms | overhead ms | answers/s, 4 clients | CPU ms |",
        "|---|---|---|---|---|---|",
    ]
    rates = result["four_clients"][model]
    for name, one in result["one_client"][model].items():
        four = rates.get(name)
        rate = f"{four['answers_per_s']:.0f} | {four['server_cpu_ms']:.2f}" if four else "- | -"
        lines.append(f"| {name} | {one['p50_ms']:.2f} | {one['p95_ms']:.2f} | {one['overhead_p50_ms']:.2f} | {rate} |")
    return "\n".join([*lines, ""])
