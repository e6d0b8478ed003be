from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rdt_ros.errors import InputError
from rdt_ros.model.fast.stage import CACHE_VARIABLE, FastOptions, Recorder, check_backend, compile_cache

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_is_the_fast_one_where_there_is_a_gpu():
    assert (check_backend("auto", CUDA), check_backend("auto", CPU)) == ("compile", "eager")
    assert [check_backend(name, CUDA) for name in ("eager", "compile", "graph")] == ["eager", "compile", "graph"]


def test_graphs_are_refused_without_cuda():
    with pytest.raises(InputError, match="found 'graph', which records CUDA graphs"):
        check_backend("graph", CPU)


def test_a_stage_on_the_cpu_runs_its_function_each_time():
    runs: list[int] = []
    stage = Recorder(CPU, FastOptions(compiled=False)).stage(lambda: runs.append(len(runs)))
    assert runs == []

    stage()
    stage()

    assert runs == [0, 1]


def test_nothing_is_compiled_unless_asked_for():
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    assert Recorder(CPU, FastOptions(compiled=False)).compiled(function) is function


def test_a_function_is_compiled_when_it_is_first_called_and_once(monkeypatch: pytest.MonkeyPatch):
    given: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: given.append(function) or function)
    function = Recorder(CPU, FastOptions()).compiled(torch.sin)
    assert given == []

    assert function(torch.zeros(2)).tolist() == function(torch.zeros(2)).tolist() == [0, 0]

    assert given == [torch.sin]


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize("compiled", [True, False])
def test_our_own_kernels_are_taken_where_compiled_on_cuda_or_asked_for(device: torch.device, compiled: bool):
    recorder = Recorder(CPU, FastOptions(compiled=compiled))
    recorder.device = device
    assert (recorder.own("own"), recorder.own("library")) == (True, False)
    assert recorder.own("auto") == (compiled and device == CUDA)


def test_compiled_kernels_are_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(CACHE_VARIABLE, "")  # remembers what was there
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compile_cache() == tmp_path / "rdt_ros" / "inductor"

    monkeypatch.setenv(CACHE_VARIABLE, "/elsewhere")
    assert compile_cache() == Path("/elsewhere")
