"""How long a whole step takes, from JPEGs and joints to a chunk on the host, beside the reference and the floor.

`PYTHONPATH=ref python -m rdt_ros.bench.step --model rdt-1b`; rdt_ros.bench.reference says how to get the reference.
Weights are random, pictures textured 640x480 JPEGs of about 130 KB, no input comes twice. The reference's step begins
with decoded pictures. docs/speed.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rdt_ros import jpeg
from rdt_ros.bench.parity import ARM_JOINTS, reference_step, relative_error
from rdt_ros.bench.parity import StepInputs as ReferenceInputs
from rdt_ros.bench.reference import HOW_TO, Reference, quiet, without_init
from rdt_ros.bench.step_inputs import TEXT, Folders, Scene, save_weights
from rdt_ros.bench.step_kernels import choices_ms, library_us
from rdt_ros.bench.step_timing import MS_PER_S, Rates, measure_rates, median_ms, times_ms, wait, work_of
from rdt_ros.errors import InputError
from rdt_ros.model.config import MODEL_SIZES
from rdt_ros.model.fast.encoder import BATCHES, MOST, PICTURES
from rdt_ros.model.fast.stage import BACKENDS, FastOptions, check_backend
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.policy.rdt import RdtPolicy, previous_observation
from rdt_ros.robot.description import CAMERA_ROLES
from rdt_ros.types import Observation

GB = 1e9
REFERENCE_ROUNDS = 40
PART_ROUNDS = 50
OBSERVATIONS_A_SECOND, CHUNKS_A_SECOND = 25, 5  # for the GPU time of a second of motion
FIRST_CHUNK_LIMIT_S = 180


@dataclass(frozen=True)
class Settings:
    """What is measured, and how often."""

    model: str
    device: torch.device
    backend: str | FastOptions
    pictures: str
    rounds: int
    inputs: int

    @property
    def dtype(self) -> torch.dtype:
        """Of the policy and the reference."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def policy(self, folders: Folders, dtype: torch.dtype | None = None, **settings: Any) -> RdtPolicy:
        """The policy of the saved weights."""
        options = {"backend": self.backend, "pictures": self.pictures} | settings
        return RdtPolicy.from_checkpoint(
            folders.policy,
            device=self.device,
            dtype=dtype or self.dtype,
            vision=str(folders.vision),
            instruction=TEXT,
            progress=_say,
            **options,
        )


def measure(settings: Settings, folder: Path, *, reference: bool, choices: bool) -> dict[str, Any]:
    """All figures."""
    device = settings.device
    _say(f"drawing weights of {settings.model}")
    folders = save_weights(settings.model, device, folder)
    _forget(device)
    began_s = time.perf_counter()
    policy = settings.policy(folders)
    wait(device)
    ready_s = time.perf_counter() - began_s
    scene = Scene(seed=0)
    figures: dict[str, Any] = {
        "model": settings.model,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "backend": str(settings.backend),
        "pictures": settings.pictures,
        "dtype": str(settings.dtype).removeprefix("torch."),
        "rounds": settings.rounds,
        "ready_s": ready_s,
        **step_times(policy, scene, settings.rounds),
        "peak_gb": torch.cuda.max_memory_allocated(device) / GB if device.type == "cuda" else None,
        "peak_reserved_gb": torch.cuda.max_memory_reserved(device) / GB if device.type == "cuda" else None,
    }
    _say("parts")
    figures["parts_ms"] = parts_ms(policy, scene)
    figures["gpu_ms_per_s_of_motion"] = _motion_ms(figures["parts_ms"])
    figures |= floor(policy, settings, figures["step_all_new_ms_p50"])
    _say(json.dumps(_rounded(figures)))  # should anything below fail
    figures |= beside_reference(policy, settings, folders, scene, figures["step_all_new_ms_p50"], reference)
    _say("first chunk of a new process")
    figures |= first_chunk(settings, folders)
    if choices and policy.fast is not None:
        _say(json.dumps(_rounded(figures)))
        network, vision = _parts(policy)
        with torch.inference_mode():
            _say("library calls")
            figures["library_us"] = library_us(network.config, vision, device, settings.dtype)
            _say("choices")
            figures["choices_ms"] = choices_ms(network, vision, device, scene.robot.control_rate_hz)
    return figures


def step_times(policy: RdtPolicy, scene: Scene, rounds: int) -> dict[str, float]:
    """Medians and p99 of steps with the older moment encoded before, and with six new pictures."""
    observations = scene.observations()
    before = next(observations)
    policy.step([before])
    one_new, all_new = np.zeros(rounds), np.zeros(rounds)
    gc.collect()
    for i in range(rounds):
        now = next(observations)
        one_new[i] = _step_ms(policy, [before, now])
        _, older, newer = (next(observations) for _ in range(3))
        all_new[i] = _step_ms(policy, [older, newer])
        before = newer
    found: dict[str, float] = {}
    for name, times in (("step", one_new), ("step_all_new", all_new)):
        p50, p99 = np.percentile(times, (50, 99))
        found |= {f"{name}_ms_p50": float(p50), f"{name}_ms_p99": float(p99)}
    return found


def parts_ms(policy: RdtPolicy, scene: Scene) -> dict[str, float] | None:
    """Where a step's time goes; None for the plain network, whose parts are not apart."""
    fast = policy.fast
    if fast is None:
        return None
    device, observations = fast.recorder.device, scene.observations()

    def jpegs(count: int) -> list[tuple[bytes, str]]:
        pictures = [picture for _ in range(count // len(CAMERA_ROLES)) for picture in next(observations).pictures]
        return [(picture.jpeg, picture.camera) for picture in pictures]

    with torch.inference_mode():
        found = {"decode of 6": median_ms(lambda: fast.encoder.decode(jpegs(MOST)), torch.device("cpu"), PART_ROUNDS)}
        for count in BATCHES:
            found[f"vision of {count}"] = median_ms(fast.encoder.encode(count), device, PART_ROUNDS)
            pictures = fast.encoder.decode(jpegs(count))
            send = functools.partial(fast.encoder.send, pictures)
            found[f"pictures of {count} to the device"] = median_ms(send, device, PART_ROUNDS)
        solver = fast.solver
        conditions = fast.recorder.stage(solver.encode_pictures)
        steps = fast.recorder.stage(lambda: solver.solve(solver.shortest))
        found["conditions"] = median_ms(conditions, device, PART_ROUNDS)
        found["solver steps"] = median_ms(steps, device, PART_ROUNDS)
        found["conditions and solver steps, as they run"] = median_ms(solver.run, device, PART_ROUNDS)
        tokens = policy.language.tokens(TEXT).to(device)
        found["another instruction"] = median_ms(lambda: solver.follow(tokens), device, PART_ROUNDS)
    return found


def floor(policy: RdtPolicy, settings: Settings, step_ms: float) -> dict[str, Any]:
    """The least time that a step with six new pictures could take on this card, and the step over it."""
    rates: Rates = measure_rates(settings.device, settings.dtype)
    work = work_of(*_parts(policy))
    parts = work.floor_ms(rates, MOST)
    return {
        "floor_ms": sum(parts.values()),
        "floor_parts_ms": parts,
        "floor_three_new_ms": sum(work.floor_ms(rates, MOST // 2).values()),
        "floor_ratio": step_ms / sum(parts.values()),
        "copy_tb_s": rates.copy_bytes_s / 1e12,
        "matrix_tflop_s": rates.matrix_flop_s / 1e12,
        "vision_tflop_a_picture": work.picture_flop / 1e12,
        "vision_tflop_per_s_of_motion": OBSERVATIONS_A_SECOND * len(CAMERA_ROLES) * work.picture_flop / 1e12,
    }


def beside_reference(
    policy: RdtPolicy, settings: Settings, folders: Folders, scene: Scene, step_ms: float, wanted: bool
) -> dict[str, Any]:
    """Errors against the plain network in float32, ours and the reference's, and the reference's time."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    _say("errors")
    exact = settings.policy(folders, torch.float32, backend="eager", pictures="auto")
    observations = scene.observations()
    histories = [[next(observations), next(observations)] for _ in range(settings.inputs)]
    given = [(history, _noise(policy, seed)) for seed, history in enumerate(histories)]
    truth = [_arms(exact, *each) for each in given]
    ours = [relative_error(_arms(policy, *each), right) for each, right in zip(given, truth, strict=True)]
    found: dict[str, Any] = {
        "relative_error": float(np.median(ours)),
        "reference_relative_error": None,
        "reference_ms_p50": None,
        "ratio": None,
    }
    if not wanted:
        return found
    _say("the reference")
    try:
        other = _reference(settings, folders, exact)
    except ImportError as error:
        _say(f"reference code: {error}; {HOW_TO}")
        return found
    del exact
    inputs = [_reference_inputs(policy, *each) for each in given]
    with torch.inference_mode():
        rows = [reference_step(other, each)[..., ARM_JOINTS].cpu() for each in inputs]
        steps = _reference_steps(other, inputs)
        times = times_ms(lambda: next(steps), settings.device, min(REFERENCE_ROUNDS, settings.rounds))
    errors = [relative_error(found_rows, right) for found_rows, right in zip(rows, truth, strict=True)]
    return found | {
        "reference_relative_error": float(np.median(errors)),
        "relative_error_ratio": float(np.median(np.divide(ours, errors))),
        "reference_ms_p50": float(np.median(times)),
        "ratio": float(np.median(times)) / step_ms,
    }


def first_chunk(settings: Settings, folders: Folders) -> dict[str, Any]:
    """Seconds from the start of a new process to its first chunk; what was compiled before is kept on the disk."""
    given = [("--first-chunk", folders.policy.parent), ("--started", time.time())]
    given += [("--model", settings.model), ("--device", settings.device)]
    given += [("--backend", settings.backend), ("--pictures", settings.pictures)]
    command = [sys.executable, "-m", "rdt_ros.bench.step", *(str(text) for pair in given for text in pair)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=FIRST_CHUNK_LIMIT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        _say(f"first chunk: {error}")
        return {"first_chunk_s": None}
    return json.loads(done.stdout.splitlines()[-1])


def _first_chunk(settings: Settings, folder: Path, started_s: float) -> dict[str, Any]:
    """The same, in that process."""
    imported_s = time.time()
    policy = settings.policy(Folders(folder / "policy", folder / "vision"))
    ready_s = time.time()
    observations = Scene(seed=1, pictures=MOST).observations()
    drawn_s = time.time()
    policy.step([next(observations), next(observations)])
    now_s = time.time()
    return {
        "first_chunk_s": now_s - started_s - (drawn_s - ready_s),
        "first_chunk_parts_s": {
            "imports": imported_s - started_s,
            "load and prepare": ready_s - imported_s,
            "chunk": now_s - drawn_s,
        },
    }


def _parts(policy: RdtPolicy) -> tuple[RdtNetwork, SiglipEncoder]:
    network, vision = policy.parts
    assert isinstance(vision, SiglipEncoder)  # the checkpoint came with one
    return network, vision


def _step_ms(policy: RdtPolicy, history: Sequence[Observation]) -> float:
    began_s = time.perf_counter()
    policy.step(history)
    return (time.perf_counter() - began_s) * MS_PER_S


def _motion_ms(parts: dict[str, float] | None) -> float | None:
    """GPU time for a second of motion in which every Observation is encoded as it comes."""
    if parts is None:
        return None
    observation = parts["vision of 3"] + parts["pictures of 3 to the device"]
    chunk = parts["conditions and solver steps, as they run"]
    return OBSERVATIONS_A_SECOND * observation + CHUNKS_A_SECOND * chunk


def _noise(policy: RdtPolicy, seed: int) -> Tensor:
    """Values that bf16 holds, so that every model gets the same."""
    config = policy.parts[0].config
    drawn = torch.randn(1, config.horizon, config.action_dim, generator=torch.Generator().manual_seed(seed))
    return drawn.bfloat16().float()


def _arms(policy: RdtPolicy, history: Sequence[Observation], noise: Tensor) -> Tensor:
    """(1, T, 12) in rad."""
    return torch.from_numpy(policy.step(history, noise=noise).rows)[None, :, ARM_JOINTS]


def _reference(settings: Settings, folders: Folders, exact: RdtPolicy) -> Any:
    """The reference's deployment module with our weights."""
    reference = Reference()
    network = exact.parts[0]
    with quiet(), without_init():
        other = reference.deployment.create_model(
            reference.base_yaml(network.config),
            device=str(settings.device),
            dtype=settings.dtype,
            control_frequency=exact.robot.control_rate_hz,
            pretrained=None,
            pretrained_vision_encoder_name_or_path=str(folders.vision),
        )
    other.policy.load_state_dict(network.state_dict())
    return other


def _reference_inputs(policy: RdtPolicy, history: Sequence[Observation], noise: Tensor) -> ReferenceInputs:
    """The same inputs as the reference takes them: pictures decoded, joints in the robot's units."""
    robot = policy.robot
    moments = (previous_observation(history, robot.period_ns), history[-1])
    names = {camera.role: camera.name for camera in robot.cameras}
    pictures = [moment.picture(names[role]) if moment else None for moment in moments for role in CAMERA_ROLES]
    wires = [joint.measured_wire for joint in robot.joints]
    units = [wire.closed + (wire.open - wire.closed) * x for wire, x in zip(wires, history[-1].measured, strict=True)]
    return ReferenceInputs(
        proprio=torch.tensor([units], dtype=torch.float32),
        images=[Image.fromarray(jpeg.decode(picture.jpeg)) if picture else None for picture in pictures],
        text_embeds=policy.language.tokens(TEXT)[None].float(),
        noise=noise,
    )


def _reference_steps(model: Any, inputs: Sequence[ReferenceInputs]) -> Iterator[Tensor]:
    """Endless; each ends on the host."""
    while True:
        for given in inputs:
            yield model.step(given.proprio, given.images, given.text_embeds).cpu()


def _forget(device: torch.device) -> None:
    """Gives back what is not used any more, and begins to count memory anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _rounded(figure: Any) -> Any:
    """Four digits of every float within."""
    if isinstance(figure, dict):
        return {name: _rounded(value) for name, value in figure.items()}
    if isinstance(figure, list):
        return [_rounded(value) for value in figure]
    return float(f"{figure:.4g}") if isinstance(figure, float) else figure


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures as one JSON object."""
    parser = argparse.ArgumentParser(prog="rdt bench step", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rdt-1b", choices=MODEL_SIZES, help="default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--backend", default="auto", choices=BACKENDS, help="default: %(default)s")
    parser.add_argument("--pictures", default="auto", choices=PICTURES, help="default: %(default)s")
    parser.add_argument(
        "--rounds", type=int, default=200, help="steps of each kind that are timed; default: %(default)s"
    )
    parser.add_argument("--inputs", type=int, default=20, help="inputs of the errors; default: %(default)s")
    parser.add_argument("--skip-reference", action="store_true", help="measure without the reference beside")
    parser.add_argument("--choices", action="store_true", help="also time the ways between which the fast step chose")
    parser.add_argument("--first-chunk", metavar="FOLDER", type=Path, help="only load these weights and make a chunk")
    parser.add_argument("--started", type=float, default=time.time(), help="for --first-chunk: when, in Unix seconds")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.inputs < 1:
        raise InputError(f"rounds, inputs: expected at least 1, found {args.rounds} and {args.inputs}")
    device = torch.device(args.device)
    backend = check_backend(args.backend, device)
    settings = Settings(args.model, device, backend, args.pictures, args.rounds, args.inputs)
    if args.first_chunk:
        figures = _first_chunk(settings, args.first_chunk, args.started)
    else:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(settings, Path(folder), reference=not args.skip_reference, choices=args.choices)
    print(json.dumps(_rounded(figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
