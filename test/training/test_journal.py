"""What can only be watched stops no run: a tracker without network, a file of figures that cannot be written."""

from __future__ import annotations

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from rdt_ros.errors import InputError
from rdt_ros.training import journal
from rdt_ros.training.journal import Journal, trackers
from rdt_ros.training.recipe import LoggingConfig
from rdt_ros.training.run_folder import RunFolder

KEY = "0" * 40  # of the right form, of nobody


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "run")
    made.make()
    yield made
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def opened(folder):
    def make(config: LoggingConfig) -> Journal:
        accelerator = Accelerator(cpu=True, log_with=trackers(config) or None, project_dir=str(folder.tracker))
        return Journal(folder, accelerator, config, steps=2, done=0, batch=1)

    return make


def test_a_tracker_that_fails_is_one_line_and_figures_are_still_written(opened, folder, monkeypatch, capsys):
    watched = opened(LoggingConfig(tracker="none"))

    def gone(*_, **__):
        raise ConnectionError("the network\nis gone")

    monkeypatch.setattr(watched._accelerator, "log", gone)
    for step in (1, 2):
        watched.figures(step, {"loss": 0.5})
    watched.close()
    assert capsys.readouterr().out.count("training goes on without: the network is gone") == 1
    assert folder.metrics.read_text().splitlines() == ['{"step": 1, "loss": 0.5}', '{"step": 2, "loss": 0.5}']


def test_files_that_cannot_be_written_are_one_line_each(opened, folder, capsys):
    watched = opened(LoggingConfig(tracker="none"))
    folder.metrics.mkdir()

    def full(path):
        raise OSError(28, "No space left on device", str(path))

    for step in (1, 2):
        watched.figures(step, {"loss": 0.5})
        watched.picture(step, "train/curves", folder.pictures / "curves.png", full)
    watched.close()
    lines = [line for line in capsys.readouterr().out.splitlines() if "could not be written" in line]
    assert len(lines) == 2 and "metrics.jsonl" in lines[0] and "No space left" in lines[1]


@pytest.mark.slow
def test_wandb_with_a_key_but_no_network_is_refused_in_one_line(opened, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(journal, "WANDB_START_S", 3.0)
    watched = opened(LoggingConfig(tracker="wandb"))
    with pytest.raises(InputError, match="logging.tracker wandb: could not start: .*logging.offline=true") as refusal:
        watched.start()
    assert "\n" not in str(refusal.value)
    watched.close()


@pytest.mark.slow
def test_wandb_without_network_where_that_is_asked_for(opened, folder):
    pytest.importorskip("wandb")
    watched = opened(LoggingConfig(tracker="wandb", offline=True))
    watched.start()
    watched.figures(1, {"loss": 0.5})
    watched.close()
    assert list(folder.tracker.glob("wandb/offline-run-*/run-*.wandb"))
