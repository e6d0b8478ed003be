"""The fast step behind the policy, on the CPU: static buffers and joined operations, without graphs and compiler."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import torch

from rdt_ros.errors import InputError
from rdt_ros.model.config import MODEL_SIZES
from rdt_ros.model.fast.stage import CACHE_VARIABLE, FastOptions, Stage
from rdt_ros.model.language import HashedWords
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.policy.rdt import RdtPolicy
from rdt_ros.robot.description import load_robot
from rdt_ros.types import Observation, Picture

ROBOT = load_robot("sim_aloha")
TICK_NS = 1_700_000_000_000_000_000
TEXT = "pick up the red cube"
CONFIG = dataclasses.replace(MODEL_SIZES["tiny"], max_lang_cond_len=80)  # above the short stage's 64
DIRECT = FastOptions(compiled=False)
TOLERANCE = 1e-5  # of float32, relative: other orders of the same sums


def observation(tick: int, cameras: int = 3, size: tuple[int, int] = (48, 64)) -> Observation:
    """Every tick has pictures and joints of its own."""
    random = np.random.default_rng(tick)
    stamp_ns = TICK_NS + tick * ROBOT.period_ns
    pictures = []
    for camera in ROBOT.cameras[:cameras]:
        _, data = cv2.imencode(".jpg", random.integers(0, 256, (*size, 3), np.uint8))
        pictures.append(Picture(camera.name, stamp_ns, data.tobytes()))
    measured = random.uniform(-1, 1, len(ROBOT.joints)).astype(np.float32)
    return Observation(stamp_ns, ROBOT.name, tuple(pictures), ROBOT.joint_names, measured)


def make(
    backend: str | FastOptions,
    pictures: str = "auto",
    norm: str = "variance",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> RdtPolicy:
    """Weights of which every one matters: no bias of 0, no norm of 1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = RdtNetwork(dataclasses.replace(CONFIG, norm=norm))  # type: ignore[arg-type]
        vision = SiglipEncoder.random("tiny")
        with torch.no_grad():
            for part in (network, vision.tower):
                for name, parameter in part.named_parameters():
                    if "norm" in name or name.endswith("bias"):
                        parameter.add_(0.1 * torch.randn_like(parameter))
            torch.nn.init.normal_(network.model.final_layer.ffn_final.fc2.weight, std=0.1)
    parts = network.to(dtype), vision.to(torch.device(device), dtype), HashedWords(CONFIG.lang_token_dim)
    return RdtPolicy(ROBOT, *parts, instruction=TEXT, device=device, backend=backend, pictures=pictures, **options)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain() -> RdtPolicy:
    return make("eager")


@pytest.fixture(scope="module")
def fast() -> RdtPolicy:
    return make(DIRECT)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def committed(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).uniform(-1, 1, (rows, len(ROBOT.joints))).astype(np.float32)


CASES = {
    "six pictures": ([observation(0), observation(1)], {}),
    "no moment before": ([observation(3)], {}),
    "a camera is missing": ([observation(4, cameras=2), observation(5, cameras=1)], {}),
    "no camera at all": ([observation(6, cameras=0)], {}),
    "pictures of another size": ([observation(7, size=(96, 40)), observation(8)], {}),
    "another instruction": ([observation(0), observation(1)], {"instruction": "put it down"}),
    "a long instruction": ([observation(0), observation(1)], {"instruction": "word " * 70}),
    "committed rows": ([observation(9)], {"committed": committed(5)}),
    "nearly all rows committed": ([observation(9)], {"committed": committed(63)}),
    "given noise": ([observation(1)], {"noise": torch.linspace(-2, 2, 64 * 128).reshape(1, 64, 128)}),
}


@pytest.mark.parametrize("case", [*CASES, *reversed(CASES)])  # whatever came before leaves nothing behind
def test_the_fast_step_answers_as_the_plain_network(case: str, plain: RdtPolicy, fast: RdtPolicy):
    history, options = CASES[case]

    found, expected = fast.step(history, **options), plain.step(history, **options)

    assert difference(found.rows, expected.rows) < TOLERANCE
    assert dataclasses.replace(found, rows=expected.rows, inference_s=expected.inference_s) == expected or (
        (found.committed_rows, found.instruction) == (expected.committed_rows, expected.instruction)
    )


@pytest.mark.parametrize("options", [{"splits": 1}, {"splits": 2, "overlap": False}, {"picture_attention": "auto"}])
def test_every_choice_gives_the_same_answer(options: dict, plain: RdtPolicy):
    policy = make(dataclasses.replace(DIRECT, **options))

    for history, given in (CASES["six pictures"], CASES["committed rows"]):
        assert difference(policy.step(history, **given).rows, plain.step(history, **given).rows) < TOLERANCE


def test_the_other_norm_and_rounded_actions():
    history = [observation(0), observation(1)]
    for options in ({"norm": "mean_square"}, {"action_dtype": "model"}):
        expected = make("eager", **options).step(history).rows
        assert difference(make(DIRECT, **options).step(history).rows, expected) < TOLERANCE


def test_pictures_prepared_on_the_device_change_almost_nothing(plain: RdtPolicy):
    policy = make(DIRECT, pictures="device")

    for case in ("six pictures", "pictures of another size", "a camera is missing"):
        history, options = CASES[case]
        assert difference(policy.step(history, **options).rows, plain.step(history, **options).rows) < 1e-3


def test_a_run_of_observations_is_as_each_alone(plain: RdtPolicy, fast: RdtPolicy):
    """The older moment's tokens are those of the step before, until more pictures came than are kept."""
    run = [observation(tick) for tick in range(20, 30)]
    for before, now in [*zip(run, run[1:], strict=False), (run[0], run[1])]:
        assert difference(fast.step([before, now]).rows, plain.step([before, now]).rows) < TOLERANCE


def test_pictures_seen_before_are_not_encoded_again(fast: RdtPolicy):
    history = [observation(31), observation(32)]
    fast.see(history[0])
    encoded: list[int] = []
    stages = fast.fast.encoder._stages  # type: ignore[union-attr]
    originals = dict(stages)
    try:
        for count, stage in originals.items():
            stages[count] = lambda count=count, stage=stage: (encoded.append(count), stage())[1]  # type: ignore
        for _ in range(2):
            fast.step(history)
        assert encoded == [3]
    finally:
        stages.update(originals)


def test_several_histories_are_as_each_alone(plain: RdtPolicy, fast: RdtPolicy):
    histories = [[observation(40)], [observation(40), observation(41)]]
    given: dict = {"instructions": ["put it down", None], "committed": [committed(4), None]}

    for found, expected in zip(fast.step_batch(histories, **given), plain.step_batch(histories, **given), strict=True):
        assert difference(found.rows, expected.rows) < TOLERANCE
        assert found.committed_rows == expected.committed_rows


def test_a_broken_picture_is_refused_and_leaves_the_policy_whole(plain: RdtPolicy, fast: RdtPolicy):
    before, now = observation(50), observation(51)
    broken = dataclasses.replace(now, pictures=(dataclasses.replace(now.pictures[0], jpeg=b"no picture"),))

    with pytest.raises(InputError, match="external: expected JPEG data, found 10 bytes that do not decode"):
        fast.step([before, broken])
    with pytest.raises(InputError, match="expected a finite position"):
        fast.step([before, dataclasses.replace(now, measured=np.full_like(now.measured, np.nan))])

    assert difference(fast.step([before, now]).rows, plain.step([before, now]).rows) < TOLERANCE


def test_an_instruction_of_too_many_tokens_is_refused(fast: RdtPolicy):
    with pytest.raises(InputError, match="instruction: expected at most 80 tokens, found 81"):
        fast.step([observation(0)], instruction="word " * 80)


def test_progress_is_told():
    lines: list[str] = []

    make(DIRECT, progress=lines.append)

    assert len(lines) == 3 and lines[-1].startswith("prepared in ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "fast"}, "backend: expected one of auto, eager, compile, graph, found 'fast'"),
        ({"backend": "graph"}, "backend: expected eager or compile on cpu, found 'graph', which records CUDA graphs"),
        ({"backend": "eager", "pictures": "device"}, "pictures: expected auto or exact with backend eager"),
        ({"backend": "eager", "pictures": "gpu"}, "pictures: expected one of auto, exact, device, found 'gpu'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(settings: dict[str, str], message: str):
    with pytest.raises(InputError, match=message):
        RdtPolicy.from_checkpoint("nowhere", ROBOT, "cpu", **settings)


def test_without_a_compiler_compile_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")

    with pytest.raises(InputError, match="expected a C.. compiler .* for 'compile' on the CPU, found none"):
        RdtPolicy.from_checkpoint("random:tiny", ROBOT, "cpu", "compile")


@pytest.mark.slow
def test_compiled_answers_as_the_plain_network(plain: RdtPolicy, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(CACHE_VARIABLE, "")  # remembers what was there
    monkeypatch.delenv(CACHE_VARIABLE)
    policy = make("compile")

    for case, (history, options) in CASES.items():
        assert difference(policy.step(history, **options).rows, plain.step(history, **options).rows) < TOLERANCE, case
    assert any((tmp_path / "rdt_ros" / "inductor").rglob("*.so"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["graph", "compile"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, TOLERANCE), (torch.bfloat16, 0.03)])
def test_recorded_on_a_gpu_answers_as_the_plain_network(backend: str, dtype: torch.dtype, tolerance: float):
    """No case records anew: what differs between them is in the buffers."""
    expected, policy = (make(name, "exact", device="cuda", dtype=dtype) for name in ("eager", backend))
    assert policy.fast is not None

    for case, (history, options) in [*CASES.items(), *reversed(CASES.items())]:
        with mock.patch.object(Stage, "record", side_effect=AssertionError("recorded again")):
            found = policy.step(history, **options).rows
        assert difference(found, expected.step(history, **options).rows) < tolerance, case


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_random_weights_on_a_gpu_are_made_there():
    policy = RdtPolicy.from_checkpoint("random:tiny", ROBOT, "cuda", "graph", seed=3, instruction=TEXT)
    again = RdtPolicy.from_checkpoint("random:tiny", ROBOT, "cuda", "graph", seed=3, instruction=TEXT)

    rows = policy.step([observation(0)]).rows

    assert policy.parts[0].dtype == torch.bfloat16 and policy.parts[0].model.x_pos_embed.is_cuda
    assert np.isfinite(rows).all() and np.array_equal(again.step([observation(0)]).rows, rows)
