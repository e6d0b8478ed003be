from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from rdt_ros.errors import InputError
from rdt_ros.model.config import MODEL_SIZES
from rdt_ros.model.language import HashedWords
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.preprocess import background
from rdt_ros.model.sampler import FADING_ROWS, fading_weights
from rdt_ros.policy.rdt import RdtPolicy, previous_observation
from rdt_ros.robot.description import load_robot
from rdt_ros.robot.vector import SLOTS
from rdt_ros.types import ActionChunk, Observation, Picture

ROBOT = load_robot("sim_aloha")
PERIOD_NS = ROBOT.period_ns
TICK_NS = 1_700_000_000_000_000_000
TEXT = "pick up the red cube"
CONFIG = MODEL_SIZES["tiny"]


def observation(stamp_ns: int = TICK_NS, grey: int = 60, cameras: set[str] | None = None) -> Observation:
    """At home, each camera showing a plain grey of its own."""
    pictures = []
    for n, camera in enumerate(ROBOT.cameras):
        if cameras is None or camera.name in cameras:
            _, jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), grey + 20 * n, np.uint8))
            pictures.append(Picture(camera.name, stamp_ns, jpeg.tobytes()))
    home = np.array(ROBOT.home[-1], np.float32)
    return Observation(stamp_ns, ROBOT.name, tuple(pictures), ROBOT.joint_names, home)


@pytest.fixture(scope="module")
def policy() -> RdtPolicy:
    return RdtPolicy.random("tiny", ROBOT, seed=3, instruction=TEXT)


class RecordingEncoder:
    """A vision encoder that keeps the pictures it was given."""

    image_size, patches, width = 32, CONFIG.img_patches, CONFIG.img_token_dim

    def __init__(self) -> None:
        self.images = torch.empty(0)

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        self.images = images
        return torch.zeros(len(images), self.patches, self.width)


def recorded_pictures(history: list[Observation]) -> np.ndarray:
    """The six pictures that reach the encoder, (6, 3, 32, 32)."""
    encoder = RecordingEncoder()
    RdtPolicy(ROBOT, RdtNetwork(CONFIG), encoder, HashedWords(CONFIG.lang_token_dim), instruction=TEXT).step(history)
    return encoder.images.numpy()


def middle_level(picture: np.ndarray) -> float:
    """Grey 0..255 at the centre."""
    return float(picture[:, 16, 16].mean() + 1) * 127.5


def test_the_chunk_carries_what_the_executor_needs(policy: RdtPolicy):
    chunk = policy.step([observation()])

    assert isinstance(chunk, ActionChunk)
    assert chunk.rows.shape == (64, 14)
    assert chunk.rows.dtype == np.float32
    assert np.isfinite(chunk.rows).all()
    assert np.ptp(chunk.rows) > 0
    assert (chunk.stamp_ns, chunk.robot, chunk.offset_steps) == (TICK_NS, "sim_aloha", 1)
    assert chunk.period_s == pytest.approx(0.04)
    assert chunk.channels == ROBOT.channels
    assert chunk.instruction == TEXT
    assert chunk.inference_s > 0


def test_the_same_observation_gives_the_same_chunk(policy: RdtPolicy):
    torch.manual_seed(0)
    first = policy.step([observation()]).rows
    policy.step([observation(TICK_NS + PERIOD_NS, grey=90)])  # leaves nothing behind
    policy.reset()
    torch.manual_seed(1)

    assert np.array_equal(policy.step([observation()]).rows, first)
    assert np.array_equal(RdtPolicy.random("tiny", ROBOT, seed=3, instruction=TEXT).step([observation()]).rows, first)


def test_seed_stamp_state_text_and_pictures_each_change_the_chunk(policy: RdtPolicy):
    now = observation()
    rows = policy.step([now]).rows
    other_state = dataclasses.replace(now, measured=now.measured + 0.1)

    for changed in (
        RdtPolicy.random("tiny", ROBOT, seed=4, instruction=TEXT).step([now]),
        policy.step([dataclasses.replace(now, stamp_ns=TICK_NS + 1)]),
        policy.step([other_state]),
        policy.step([now], instruction="put it down"),
        policy.step([observation(grey=90)]),
    ):
        assert not np.array_equal(changed.rows, rows)


def test_nothing_is_drawn_from_the_global_generator():
    before = torch.get_rng_state()

    RdtPolicy.random("tiny", ROBOT, seed=3).step([observation()], instruction=TEXT)

    assert torch.equal(torch.get_rng_state(), before)


def test_given_noise_and_generator_replace_the_stamp(policy: RdtPolicy):
    one, two = observation(TICK_NS), observation(TICK_NS + 1)
    noise = torch.randn(1, 64, 128, generator=torch.Generator().manual_seed(5))

    given = policy.step([one], noise=noise).rows

    assert np.array_equal(policy.step([two], noise=noise).rows, given)
    assert np.array_equal(policy.step([two], generator=torch.Generator().manual_seed(5)).rows, given)


def test_the_seed_decides_the_weights(policy: RdtPolicy):
    noise = torch.zeros(1, 64, 128)
    other = RdtPolicy.random("tiny", ROBOT, seed=4, instruction=TEXT)

    assert not np.array_equal(
        other.step([observation()], noise=noise).rows, policy.step([observation()], noise=noise).rows
    )


def test_measured_positions_stand_at_their_slots_with_their_mask_and_rate():
    network = RdtNetwork(CONFIG)
    states: list[torch.Tensor] = []
    rates_hz: list[torch.Tensor] = []
    network.state_adaptor.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    network.model.freq_embedder.register_forward_pre_hook(lambda _, args: rates_hz.append(args[0]))
    measured = np.linspace(-1, 1, 14).astype(np.float32)
    policy = RdtPolicy(ROBOT, network, RecordingEncoder(), HashedWords(CONFIG.lang_token_dim), instruction=TEXT)

    policy.step([dataclasses.replace(observation(), measured=measured)])

    expected, slots = np.zeros(256, np.float32), [50, 51, 52, 53, 54, 55, 60, 0, 1, 2, 3, 4, 5, 10]
    assert [SLOTS[channel] for channel in ROBOT.channels] == slots
    expected[slots] = measured
    expected[[128 + slot for slot in slots]] = 1
    assert np.array_equal(states[0].numpy(), expected[None, None])
    assert rates_hz[0].tolist() == [25]


def test_columns_are_taken_from_the_robots_slots():
    """A last Linear of zero with the slot's index as bias makes each slot answer its own number."""
    network = RdtNetwork(CONFIG)
    with torch.no_grad():
        network.model.final_layer.ffn_final.fc2.bias.copy_(torch.arange(128.0))
    policy = RdtPolicy(ROBOT, network, RecordingEncoder(), HashedWords(CONFIG.lang_token_dim), instruction=TEXT)

    rows = policy.step([observation()]).rows

    assert np.array_equal(rows, np.tile([float(SLOTS[channel]) for channel in ROBOT.channels], (64, 1)))


def test_pictures_stand_in_the_order_of_the_network():
    then, now = observation(TICK_NS - PERIOD_NS, grey=60), observation(TICK_NS, grey=160)
    level = {camera.role: 20 * n for n, camera in enumerate(ROBOT.cameras)}
    order = [level[role] for role in ("external", "right_wrist", "left_wrist")]

    levels = [middle_level(picture) for picture in recorded_pictures([then, now])]

    assert levels == pytest.approx([60 + n for n in order] + [160 + n for n in order], abs=2)


@pytest.mark.parametrize("late_ns", [-PERIOD_NS // 2, -1_000_000, 0, 1_000_000, PERIOD_NS // 2])
def test_the_previous_moment_is_within_half_a_period(late_ns: int):
    then = observation(TICK_NS - PERIOD_NS + late_ns)

    assert previous_observation([then, observation()], PERIOD_NS) is then


@pytest.mark.parametrize("late_ns", [-PERIOD_NS, -PERIOD_NS // 2 - 1, PERIOD_NS // 2 + 1])
def test_beyond_half_a_period_there_is_no_previous_moment(late_ns: int):
    then = observation(TICK_NS - PERIOD_NS + late_ns)

    assert previous_observation([then, observation()], PERIOD_NS) is None
    pictures = recorded_pictures([then, observation()])
    assert [np.array_equal(picture, background(32)) for picture in pictures] == [True] * 3 + [False] * 3


def test_of_a_long_history_the_nearest_counts():
    stamps_ns = [TICK_NS - 2 * PERIOD_NS, TICK_NS - PERIOD_NS - 9, TICK_NS - PERIOD_NS + 2, TICK_NS - 10, TICK_NS]
    history = [observation(stamp_ns) for stamp_ns in stamps_ns]

    assert previous_observation(history, PERIOD_NS) is history[2]


def test_a_missing_camera_becomes_background():
    external = next(camera.name for camera in ROBOT.cameras if camera.role == "external")

    pictures = recorded_pictures([observation(TICK_NS - PERIOD_NS), observation(cameras={external})])

    assert [np.array_equal(picture, background(32)) for picture in pictures] == [False] * 4 + [True] * 2


def test_bf16_differs_a_little(policy: RdtPolicy):
    """All parts follow the type; the distance is that of rounding."""
    exact = policy.step([observation()]).rows
    rounded = RdtPolicy.random("tiny", ROBOT, seed=3, dtype=torch.bfloat16, instruction=TEXT).step([observation()]).rows

    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.05


def refused(policy: RdtPolicy, history: list[Observation], **options: Any) -> str:
    with pytest.raises(InputError) as refusal:
        policy.step(history, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_position_that_is_not_finite_is_named(policy: RdtPolicy):
    measured = np.array(ROBOT.home[-1], np.float32)
    measured[2] = np.nan

    message = refused(policy, [dataclasses.replace(observation(), measured=measured)])

    assert message == "Observation: expected a finite position of left_elbow, found nan"


def test_other_joints_and_shapes_are_refused(policy: RdtPolicy):
    now = observation()

    assert "expected 14 measured positions, found shape (13,)" in refused(
        policy, [dataclasses.replace(now, measured=now.measured[:13])]
    )
    assert "found sim_aloha with left_elbow" in refused(
        policy, [dataclasses.replace(now, joint_names=("left_elbow", *ROBOT.joint_names[1:]))]
    )
    assert "expected sim_aloha with" in refused(policy, [dataclasses.replace(now, robot="agilex")])


def test_a_history_of_nothing_is_refused(policy: RdtPolicy):
    assert refused(policy, []) == "history: expected at least one Observation, found none"


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_instruction_is_refused(policy: RdtPolicy, text: str):
    assert refused(policy, [observation()], instruction=text) == f"instruction: expected a text, found {text!r}"


def test_a_policy_without_instruction_asks_for_one():
    assert refused(RdtPolicy.random("tiny", ROBOT), [observation()]) == "instruction: expected a text, found None"


def test_an_instruction_of_too_many_tokens_is_refused(policy: RdtPolicy):
    assert refused(policy, [observation()], instruction="word " * 128) == (
        "instruction: expected at most 128 tokens, found 129"
    )


def test_noise_of_another_shape_is_refused(policy: RdtPolicy):
    message = refused(policy, [observation()], noise=torch.zeros(64, 128))

    assert message == "noise: expected shape (1, 64, 128), found (64, 128)"


def test_a_chunk_begins_with_the_committed_rows_and_fades_into_its_own():
    """A last Linear of zero makes every free row zero, so that only the prefix and its fading are left."""
    network = RdtNetwork(CONFIG)
    policy = RdtPolicy(ROBOT, network, RecordingEncoder(), HashedWords(CONFIG.lang_token_dim), instruction=TEXT)
    committed = np.random.default_rng(0).uniform(-1, 1, (5, 14)).astype(np.float32)

    chunk = policy.step([observation()], committed=committed)

    assert chunk.committed_rows == 5
    assert np.array_equal(chunk.rows[:5], committed)
    arms, behind = chunk.rows[5:, ~ROBOT.is_gripper], np.abs(chunk.rows[4:, ~ROBOT.is_gripper]).mean(axis=1)
    assert np.allclose(arms, fading_weights(5, 64).numpy()[5:, None] * committed[-1, ~ROBOT.is_gripper], atol=1e-6)
    assert (np.diff(behind)[: FADING_ROWS + 1] < 0).all() and not arms[FADING_ROWS:].any()
    assert not chunk.rows[5:, ROBOT.is_gripper].any()


def test_no_committed_rows_are_as_none_given(policy: RdtPolicy):
    free = policy.step([observation()])

    chunk = policy.step([observation()], committed=np.zeros((0, 14)))

    assert np.array_equal(chunk.rows, free.rows) and (chunk.committed_rows, free.committed_rows) == (0, 0)


def test_each_history_of_a_batch_has_its_own_committed_rows(policy: RdtPolicy):
    histories = [[observation(TICK_NS + n)] for n in range(3)]
    committed = [np.full((3, 14), 0.2), None, np.full((7, 14), -0.1)]

    chunks = policy.step_batch(histories, committed=committed)

    assert [chunk.committed_rows for chunk in chunks] == [3, 0, 7]
    for history, given, chunk in zip(histories, committed, chunks, strict=True):
        alone = policy.step(history, committed=given)
        assert chunk.rows == pytest.approx(alone.rows, abs=1e-5)
    with pytest.raises(InputError, match="committed rows: expected 3 sets, one a history, found 1"):
        policy.step_batch(histories, committed=committed[:1])


def test_committed_rows_that_cannot_be_are_refused(policy: RdtPolicy):
    broken = np.zeros((4, 14))
    broken[3, 2] = np.nan

    for rows, shape in ((np.zeros((4, 13)), r"(4, 13)"), (np.zeros(14), "(14,)"), (np.zeros((64, 14)), "(64, 14)")):
        message = refused(policy, [observation()], committed=rows)
        assert message == f"committed rows: expected up to 63 of 14 joints, found shape {shape}"
    message = refused(policy, [observation()], committed=broken)
    assert message == "committed rows: expected finite positions, found nan for left_elbow in row 3"


def test_a_picture_that_does_not_decode_is_refused(policy: RdtPolicy):
    now = observation()
    broken = dataclasses.replace(now, pictures=(dataclasses.replace(now.pictures[0], jpeg=b"no picture"),))

    assert "expected JPEG data, found 10 bytes" in refused(policy, [broken])


def test_encoders_of_other_widths_are_refused():
    with pytest.raises(InputError, match=r"expected picture tokens \(16, 32\) and language width 64 .* and 63"):
        RdtPolicy(ROBOT, RdtNetwork(CONFIG), RecordingEncoder(), HashedWords(63))
