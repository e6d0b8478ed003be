"""How the work on static buffers is run: as it is, with its small operations compiled, or recorded as CUDA graphs."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from rdt_ros.errors import InputError

BACKENDS = ("auto", "eager", "compile", "graph")
WARM_UPS = 2  # runs before recording: libraries load their kernels and torch.compile compiles
SHAPES_COMPILED = 64  # of one function, all policies of a process together
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class FastOptions:
    """Choices between ways to the same answer; the defaults are those measured fastest (docs/speed.md)."""

    compiled: bool = True  # the operations between two matrix products become one kernel
    splits: int = 2  # parts of the inner axis that a small matrix product is cut into, so that all processors read
    attention: str = "auto"  # "own" (attention.py), "library"; "auto": own where compiled on CUDA
    stretches: int = 4  # of the pictures' keys, for our own
    between: str = "auto"  # kernels between products: "own" (fused.py), "library" (torch's compiler), "auto" as above
    gelu_inside: bool = True  # the library applies the blocks' GELU to a product before it writes it, uncut
    picture_attention: str = "flash"  # the library's kernel of attention to pictures; "auto" is torch's own choice
    tower_attention: str = "auto"  # kernel of SigLIP's attention
    overlap: bool = True  # keys and values of the pictures are computed while the first solver step runs


def check_backend(backend: str, device: torch.device) -> str:
    """The backend that a setting means on a device; InputError where it cannot run there."""
    if backend not in BACKENDS:
        raise InputError(f"backend: expected one of {', '.join(BACKENDS)}, found {backend!r}")
    cuda = device.type == "cuda"
    if backend == "auto":
        return "compile" if cuda else "eager"
    if backend == "graph" and not cuda:
        raise InputError(
            f"backend: expected eager or compile on {device.type}, found 'graph', which records CUDA graphs"
        )
    if backend == "compile" and not cuda and not (shutil.which("c++") or shutil.which("g++")):
        raise InputError("backend: expected a C++ compiler (g++) for 'compile' on the CPU, found none")
    return backend


def fast_options(backend: str | FastOptions, device: torch.device) -> FastOptions | None:
    """The choices that a backend stands for, None for the plain network; InputError where the device has it not."""
    if isinstance(backend, FastOptions):
        return backend
    backend = check_backend(backend, device)
    return None if backend == "eager" else FastOptions(compiled=backend == "compile")


def compile_cache() -> Path:
    """Where compiled kernels are kept between runs: the user's cache unless torch's own variable says otherwise."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.setdefault(CACHE_VARIABLE, str(home / "rdt_ros" / "inductor")))


class Stage:
    """A function of static buffers: called as it is until it is recorded, then replayed."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Does the work, on the GPU without waiting for it."""
        if self._graph is None:
            self._function()
        else:
            self._graph.replay()

    def record(self, pool: Any, stream: torch.cuda.Stream) -> None:
        """Records it as a CUDA graph, whose temporary memory comes from `pool`."""
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._function()
        self._graph = graph


class Recorder:
    """Makes stages that share one pool of temporary memory: on a GPU they are recorded, elsewhere run as they are."""

    def __init__(self, device: torch.device, options: FastOptions) -> None:
        self.device = device
        self.options = options
        cuda = device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if cuda else None
        # Before all that runs beside it: what a stage forks off fills the gaps.
        self._stream = torch.cuda.Stream(device, priority=-1) if cuda else None

    def compiled(self, function: Function) -> Function:
        """The function as one kernel for each set of shapes, from its first call on; itself if nothing is compiled."""
        if not self.options.compiled:
            return function
        made: list[Callable[..., Any]] = []

        @functools.wraps(function)
        def call(*given: Any) -> Any:
            if not made:
                made.append(_compiled(function))
            return made[0](*given)

        return call  # type: ignore[return-value]

    def own(self, choice: str) -> bool:
        """Whether a choice of "own", "library" or "auto" is a kernel of our own: for "auto" where compiled on CUDA."""
        automatic = self.options.compiled and self.device.type == "cuda"
        return choice == "own" or (choice == "auto" and automatic)

    def stage(self, function: Callable[[], object]) -> Stage:
        """A stage that is ready to run fast."""
        stage = Stage(function)
        if self._stream is not None:
            stage.record(self._pool, self._stream)
        elif self.options.compiled:
            function()
        return stage


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    import torch._dynamo  # takes seconds

    compile_cache()
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, SHAPES_COMPILED)  # it would take many for a mistake
    return torch.compile(function, dynamic=False, fullgraph=True)
