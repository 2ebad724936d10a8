from __future__ import annotations

from edge_dac.device.sensors import SensorReading
from edge_dacd.metrics import Family, collect_device, render
from edge_dacd.statistics import BUCKETS_S, Histogram


def test_labels_are_escaped() -> None:
    family = Family("edge_dac_x", "gauge", "Something.")
    family.add(0.5, model='a"b\\c\nd')
    assert render([family]) == (
        '# HELP edge_dac_x Something.\n# TYPE edge_dac_x gauge\nedge_dac_x{model="a\\"b\\\\c\\nd"} 0.5\n'
    )


def test_a_histogram_is_cumulative() -> None:
    histogram = Histogram()
    for milliseconds in (0.1, 3, 3, 20_000):
        histogram.add(int(milliseconds * 1e6))
    family = Family("edge_dac_x_seconds", "histogram", "Something.")
    family.add_histogram(histogram)
    buckets = [(labels["le"], value) for suffix, labels, value in family.samples if suffix == "_bucket"]
    assert [value for _, value in buckets] == [1, 1, 1, *[3] * (len(BUCKETS_S) - 3), 4]
    assert (buckets[0][0], buckets[-1][0]) == ("0.0005", "+Inf")
    assert ("_count", {}, 4) in family.samples


def test_what_no_sensor_tells_is_left_out() -> None:
    reading = SensorReading(temperature_c=None, frequency_mhz=1500.0, throttle_flags=None, available_memory_bytes=7)
    assert {family.name: family.samples[0][2] for family in collect_device(reading)} == {
        "edge_dac_device_frequency_hertz": 1.5e9,
        "edge_dac_device_available_memory_bytes": 7.0,
    }
    hot = SensorReading(81.5, None, ("throttled",), None)
    assert {family.name: family.samples[0][2] for family in collect_device(hot)} == {
        "edge_dac_device_temperature_celsius": 81.5,
        "edge_dac_device_throttled": 1.0,
    }
