from __future__ import annotations

import numpy as np
import pytest

from rdt_ros.control.fade import Fade

S = 1_000_000_000


def numeric(fade: Fade, at_s: float, order: int) -> float:
    """A derivative by differences."""
    h = 1e-3
    values = fade.at(np.array([round((at_s + k * h) * S) for k in (-1, 0, 1)]))[:, 0]
    return (values[2] - values[0]) / (2 * h) if order == 1 else (values[2] - 2 * values[1] + values[0]) / h**2


def test_begins_with_its_ends_and_comes_to_rest_at_zero():
    fade = Fade(0, 0.5, *(np.array([value]) for value in (0.3, -0.2, 1.5)))
    assert fade.at(np.array([-S, 0]))[:, 0] == pytest.approx([0.3, 0.3])
    assert fade.at(np.array([S // 2, S]))[:, 0] == pytest.approx([0, 0])
    assert numeric(fade, 0.002, 1) == pytest.approx(-0.2 + 1.5 * 0.002, abs=5e-3)
    assert numeric(fade, 0.498, 1) == pytest.approx(0, abs=5e-3)


@pytest.mark.parametrize("at_s", [0.05, 0.2, 0.45])
def test_its_bend_is_the_second_derivative(at_s):
    fade = Fade(0, 0.5, *(np.array([value]) for value in (0.3, -0.2, 1.5)))
    assert fade.bend_at(round(at_s * S))[0] == pytest.approx(numeric(fade, at_s, 2), abs=2e-3)
    assert fade.bend_at(S)[0] == 0
