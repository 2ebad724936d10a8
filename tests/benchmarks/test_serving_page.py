from __future__ import annotations

from benchmarks.serving_page import page


def test_every_server_has_its_line_and_session_run_no_rate() -> None:
    one = {"p50_ms": 1.0, "p95_ms": 2.0, "overhead_p50_ms": 0.5}
    result = {
        "one_client": {"small": {"session.run": one, "edge-dac TCP": one}},
        "four_clients": {"small": {"edge-dac TCP": {"answers_per_s": 1234.4, "server_cpu_ms": 0.256}}},
    }
    text = page(result, {"small": (1, 16)}, "a machine")
    assert "## 1x16 float32" in text
    assert "a machine." in text
    assert "| session.run | 1.00 | 2.00 | 0.50 | - | - |" in text
    assert "| edge-dac TCP | 1.00 | 2.00 | 0.50 | 1234 | 0.26 |" in text
