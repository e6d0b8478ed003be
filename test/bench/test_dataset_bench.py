"""The bench of the loader runs and says what it measured."""

from __future__ import annotations

import pytest

from rdt_ros.bench.dataset import measure


@pytest.mark.slow
def test_the_figures_are_there():
    figures = measure(samples=1, rounds=1)
    assert set(figures) >= {"samples_per_s", "reference_samples_per_s", "ratio", "peak_gb"}
    assert figures["samples_per_s"] > 0 and figures["peak_gb"] > 0
    if figures["reference_samples_per_s"] is not None:  # where the reference is installed
        ratio = figures["samples_per_s"] / figures["reference_samples_per_s"]
        assert figures["ratio"] == pytest.approx(ratio, abs=0.01)
