import pytest

from rdt_ros.errors import InputError
from rdt_ros.sim.viewer import open_viewer


@pytest.mark.parametrize(("display", "message"), [("", "found neither DISPLAY"), (":4711", "cannot open a window on")])
def test_without_a_display_one_line_says_so(monkeypatch, display, message):
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(InputError, match=message):
        open_viewer(None, None)
