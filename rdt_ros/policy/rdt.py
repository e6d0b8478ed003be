"""The RDT policy: the last Observations in, a chunk of future joint targets out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rdt_ros.errors import InputError
from rdt_ros.model.checkpoint import Checkpoint, open_checkpoint
from rdt_ros.model.config import model_size
from rdt_ros.model.efficientnet import EfficientNetEncoder
from rdt_ros.model.fast.encoder import PICTURES
from rdt_ros.model.fast.stage import FastOptions, fast_options
from rdt_ros.model.fast.step import FastStep
from rdt_ros.model.language import HashedWords, LanguageEncoder
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.preprocess import prepare_pictures
from rdt_ros.model.sampler import Prefix, action_type, sample
from rdt_ros.model.store import InstructionStore
from rdt_ros.model.vision import VisionEncoder, load_encoder, random_encoder
from rdt_ros.robot.description import CAMERA_ROLES, Robot, load_robot
from rdt_ros.robot.vector import SLOTS
from rdt_ros.types import NS_PER_S, ActionChunk, Observation

UNTRAINED_OUTPUT_STD = 0.02  # of the last Linear's random weights
UNTRAINED = "random:"  # before a size, in place of a checkpoint


def _silent(_text: str) -> None:
    """Progress that nobody asked for."""


class RdtPolicy:
    """A network with its encoders, for one robot. A chunk does not depend on the steps before; one thread at a time.

    The encoders stand on `device` already; the network is moved there. `instruction` is followed where a step is
    given none. `action_dtype` "float32" keeps actions exact whatever the network's type; "model" rounds them to it
    in every solver step, as the reference does.

    Backends (docs/speed.md): "eager" runs the plain network; "graph" replays recorded CUDA graphs; "compile" also
    compiles what lies between the matrix products; "auto" is compile on CUDA and eager elsewhere; or the choices
    themselves. The fast ones prepare when the policy is made, and tell `progress`. `pictures` "exact" prepares pictures
    on the CPU as training does, "device" on the GPU; "auto" is device where there is a GPU and a fast backend.
    """

    def __init__(
        self,
        robot: Robot,
        network: RdtNetwork,
        vision: VisionEncoder,
        language: LanguageEncoder,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        instruction: str | None = None,
        action_dtype: str = "float32",
        backend: str | FastOptions = "eager",
        pictures: str = "auto",
        progress: Callable[[str], object] = _silent,
    ) -> None:
        config = network.config
        found = (vision.patches, vision.width, language.width)
        expected = (config.img_patches, config.img_token_dim, config.lang_token_dim)
        if found != expected:
            raise InputError(
                f"encoders: expected picture tokens {expected[:2]} and language width {expected[2]} as the network "
                f"takes, found {found[:2]} and {found[2]}"
            )
        self.robot = robot
        self.instruction = instruction
        self._network = network.to(device).eval().requires_grad_(False)
        self._vision = vision
        self.language = language
        self._seed = seed
        self._device = torch.device(device)
        self._action_dtype = action_type(action_dtype, network.dtype)
        # The slots of its joint positions: what the network is told, and what it is asked for.
        self._slots = [SLOTS[channel] for channel in robot.channels]
        self._columns = torch.tensor(self._slots, device=self._device)
        self._mask = torch.zeros(config.action_dim).index_fill_(0, torch.tensor(self._slots), 1)  # 1 at these
        self._mask_there = self._mask[None, None].to(self._device)  # (1, 1, 128)
        self._followed: str | None = None  # whose tokens the fast step has
        options = fast_options(backend, self._device)
        pictures = _pictures(pictures, self._device, options)
        self.fast: FastStep | None = None
        if options is not None:
            self.fast = FastStep(
                self._network,
                vision,
                device=self._device,
                rate_hz=robot.control_rate_hz,
                action_dtype=self._action_dtype,
                pictures=pictures,
                options=options,
                report=progress,
            )

    @classmethod
    def from_checkpoint(
        cls,
        path_or_id: str | Path | Checkpoint,
        robot: Robot | str | None = None,
        device: str | torch.device = "auto",
        backend: str | FastOptions = "auto",
        *,
        dtype: torch.dtype | None = None,
        vision: VisionEncoder | str | None = None,
        language: LanguageEncoder | str | Path | None = None,
        instruction: str | None = None,
        seed: int = 0,
        action_dtype: str = "float32",
        pictures: str = "auto",
        progress: Callable[[str], object] = _silent,
    ) -> RdtPolicy:
        """The policy of a checkpoint of any form (docs/checkpoints.md) or opened, or untrained for `random:SIZE`.

        What is None comes with the checkpoint: the robot, the instructions, a vision encoder that was trained along
        (otherwise that of its config, from the Hub); `vision` may be a folder or an id. `device` "auto" takes a GPU
        where there is one; `dtype` None is bf16 there and float32 on the CPU. It is ready when this returns.
        """
        robot = load_robot(robot) if isinstance(robot, str) else robot
        if str(device) == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(device)
        _pictures(pictures, device, fast_options(backend, device))  # refused before anything is loaded
        dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
        settings: dict[str, Any] = {
            "seed": seed,
            "device": device,
            "instruction": instruction,
            "action_dtype": action_dtype,
            "backend": backend,
            "pictures": pictures,
            "progress": progress,
        }
        if isinstance(path_or_id, str) and path_or_id.startswith(UNTRAINED):
            if robot is None:
                raise InputError(f"robot: expected one for {path_or_id}, found none")
            return cls.random(path_or_id.removeprefix(UNTRAINED), robot, dtype=dtype, **settings)
        checkpoint = path_or_id if isinstance(path_or_id, Checkpoint) else open_checkpoint(path_or_id)
        robot = checkpoint.robot_for(robot)
        # The network comes last: it is the one that takes time.
        progress(f"loading {checkpoint.path}")
        language = _language(checkpoint, language)
        vision = _vision(checkpoint, vision, device, dtype)
        return cls(robot, checkpoint.network(device, dtype), vision, language, **settings)

    @classmethod
    def random(
        cls,
        size: str,
        robot: Robot,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        **settings: Any,
    ) -> RdtPolicy:
        """An untrained policy of a size in MODEL_SIZES; the seed decides its weights and its noise.

        Its weights are the initial ones except for the last Linear, which starts at zero: a policy that answers
        zero whatever it sees would hide every wiring fault. They are drawn on the device, each kind its own numbers.
        `settings` are those of the class.
        """
        config = model_size(size)
        device = torch.device(device)
        drawn_in = dtype if device.type == "cuda" else torch.float32  # twice the memory for a moment is much there
        with torch.random.fork_rng([device] if device.type == "cuda" else []), device, default_type(drawn_in):
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                torch.cuda.manual_seed(seed)
            network = RdtNetwork(config)
            nn.init.normal_(network.model.final_layer.ffn_final.fc2.weight, std=UNTRAINED_OUTPUT_STD)
            vision = random_encoder(config.vision).to(device, dtype)
        language = HashedWords(config.lang_token_dim)
        return cls(robot, network.to(dtype), vision, language, seed=seed, device=device, **settings)

    @property
    def parts(self) -> tuple[RdtNetwork, VisionEncoder]:
        """The plain network and encoder, whose weights the fast step shares."""
        return self._network, self._vision

    def reset(self) -> None:
        """Nothing to forget: a chunk depends on its Observations alone."""

    def step(
        self,
        history: Sequence[Observation],
        *,
        instruction: str | None = None,
        committed: np.ndarray | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> ActionChunk:
        """The chunk for the last Observation of `history` (oldest first).

        The noise is `noise` (1, T, 128) where given, else drawn from `generator`, else from the policy's seed and
        the Observation's stamp, so that the same Observation gives the same chunk. The chunk begins with the rows
        `committed` (K, J) where given, K less than T: row k of both is due at the Observation's stamp plus (k + offset)
        periods.
        """
        return self.step_batch(
            [history], instructions=[instruction], committed=[committed], noise=noise, generator=generator
        )[0]

    @torch.inference_mode()
    def step_batch(
        self,
        histories: Sequence[Sequence[Observation]],
        *,
        instructions: Sequence[str | None] | None = None,
        committed: Sequence[np.ndarray | None] | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> list[ActionChunk]:
        """A chunk for each history as `step` gives it, computed together; `noise` is (B, T, 128)."""
        start_s = time.perf_counter()
        if not histories or not all(histories):
            raise InputError("history: expected at least one Observation, found none")
        texts = [text if text is not None else self.instruction for text in instructions or [None] * len(histories)]
        if len(texts) != len(histories):
            raise InputError(f"instructions: expected {len(histories)}, one a history, found {len(texts)}")
        given = self._committed(committed or [None] * len(histories))
        if len(given) != len(histories):
            raise InputError(f"committed rows: expected {len(histories)} sets, one a history, found {len(given)}")
        if self.fast is not None:
            self.fast.see(self._both_moments(histories[0]))  # a GPU encodes while the rest is made ready
        current = [history[-1] for history in histories]
        state = self._states(current)
        noise = self._noise([observation.stamp_ns for observation in current], noise, generator)
        chunks = self._plain_chunks if self.fast is None else self._fast_chunks
        rows = chunks(histories, texts, state, noise, given).float().cpu().numpy()
        inference_s = time.perf_counter() - start_s
        return [
            ActionChunk(
                stamp_ns=observation.stamp_ns,
                robot=self.robot.name,
                period_s=self.robot.period_ns / NS_PER_S,
                offset_steps=self.robot.action_offset_steps,
                channels=self.robot.channels,
                rows=chunk,
                committed_rows=len(fixed),
                instruction=text or "",
                inference_s=inference_s,
            )
            for observation, chunk, text, fixed in zip(current, rows, texts, given, strict=True)
        ]

    @torch.inference_mode()
    def see(self, observation: Observation) -> None:
        """Encodes the pictures of an Observation that may be the older one of a step; without a fast step nothing."""
        if self.fast is not None:
            self.fast.see(self._jpegs(observation))

    def _plain_chunks(
        self,
        histories: Sequence[Sequence[Observation]],
        texts: Sequence[str | None],
        state: Tensor,
        noise: Tensor,
        committed: Sequence[np.ndarray],
    ) -> Tensor:
        """Rows (B, T, J) by the plain network, all at once."""
        conditions = self._network.encode_conditions(
            *self._language_tokens(texts),
            self._picture_tokens(histories),
            self._mask_there.expand(len(histories), 1, -1),
            torch.tensor([self.robot.control_rate_hz] * len(histories), device=self._device),
        )
        prefix = self._prefix(committed)
        actions = sample(self._network, conditions, state, noise, self._action_dtype, prefix)
        return actions.index_select(2, self._columns)

    def _fast_chunks(
        self,
        histories: Sequence[Sequence[Observation]],
        texts: Sequence[str | None],
        state: Tensor,
        noise: Tensor,
        committed: Sequence[np.ndarray],
    ) -> Tensor:
        """Rows (B, T, J) by the fast step, one after the other."""
        assert self.fast is not None
        chunks = []
        for i, (history, text) in enumerate(zip(histories, texts, strict=True)):
            if text is None or text != self._followed:
                self.fast.follow(self._tokens(text))
                self._followed = text
            prefix = self._prefix(committed[i : i + 1])
            actions = self.fast.sample(
                self._both_moments(history), state[i : i + 1], self._mask_there, noise[i : i + 1], prefix
            )
            chunks.append(actions.index_select(2, self._columns))
        return torch.cat(chunks)

    def _tokens(self, text: str | None) -> Tensor:
        """Tokens (L, width) of an instruction."""
        if not text or not text.strip():
            raise InputError(f"instruction: expected a text, found {text!r}")
        tokens, longest = self.language.tokens(text), self._network.config.max_lang_cond_len
        if len(tokens) > longest:
            raise InputError(f"instruction: expected at most {longest} tokens, found {len(tokens)}")
        return tokens.to(self._device, self._network.dtype)

    def _language_tokens(self, texts: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, width), the shorter ones filled up with zeros, and their mask (B, L), True where there are."""
        tokens = [self._tokens(text) for text in texts]
        lengths = torch.tensor([[len(rows)] for rows in tokens], device=self._device)
        padded = pad_sequence(tokens, batch_first=True)
        return padded, torch.arange(padded.shape[1], device=self._device) < lengths

    def _picture_tokens(self, histories: Sequence[Sequence[Observation]]) -> Tensor:
        """(B, 6 * patches, width), the older moment first."""
        prepared = []
        for history in histories:
            moments = (previous_observation(history, self.robot.period_ns), history[-1])
            prepared.append(
                prepare_pictures([self._jpegs_by_role(moment) for moment in moments], self._vision.image_size)
            )
        tokens = self._vision.tokens(torch.from_numpy(np.concatenate(prepared)))
        return tokens.unflatten(0, (len(histories), -1)).flatten(1, 2)

    def _jpegs_by_role(self, observation: Observation | None) -> dict[str, bytes]:
        if observation is None:
            return {}
        pictures = {camera.role: observation.picture(camera.name) for camera in self.robot.cameras}
        return {role: picture.jpeg for role, picture in pictures.items() if picture is not None}

    def _jpegs(self, observation: Observation | None) -> list[bytes | None]:
        """A moment's pictures in the network's order."""
        by_role = self._jpegs_by_role(observation)
        return [by_role.get(role) for role in CAMERA_ROLES]

    def _both_moments(self, history: Sequence[Observation]) -> list[bytes | None]:
        """The six pictures of a step in the network's order."""
        return [*self._jpegs(previous_observation(history, self.robot.period_ns)), *self._jpegs(history[-1])]

    def _states(self, observations: Sequence[Observation]) -> Tensor:
        """Measured positions at their slots (B, 1, 128)."""
        states = torch.zeros(len(observations), 1, self._network.config.action_dim)
        for i, observation in enumerate(observations):
            states[i, 0, self._slots] = torch.from_numpy(self._measured(observation))
        return _sent(states, self._device)

    def _measured(self, observation: Observation) -> np.ndarray:
        """(J,) float32, all finite."""
        robot, measured = self.robot, observation.measured
        if (observation.robot, observation.joint_names) != (robot.name, robot.joint_names):
            raise InputError(
                f"Observation: expected {robot.name} with joints {', '.join(robot.joint_names)}, "
                f"found {observation.robot} with {', '.join(observation.joint_names)}"
            )
        if measured.shape != (len(self._slots),):
            raise InputError(
                f"Observation: expected {len(self._slots)} measured positions, found shape {measured.shape}"
            )
        if not np.isfinite(measured).all():
            joint = int(np.argmin(np.isfinite(measured)))
            raise InputError(
                f"Observation: expected a finite position of {robot.joint_names[joint]}, found {measured[joint]}"
            )
        return np.asarray(measured, np.float32)

    def _committed(self, committed: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        """(K, J) float32 for each history, all finite; no rows where None."""
        checked = []
        joints, longest = len(self._slots), self._network.config.horizon - 1
        for rows in committed:
            rows = np.zeros((0, joints), np.float32) if rows is None else np.asarray(rows, np.float32)
            if rows.ndim != 2 or rows.shape[1] != joints or len(rows) > longest:
                raise InputError(
                    f"committed rows: expected up to {longest} of {joints} joints, found shape {rows.shape}"
                )
            if not np.isfinite(rows).all():
                row, joint = np.argwhere(~np.isfinite(rows))[0]
                raise InputError(
                    f"committed rows: expected finite positions, found {rows[row, joint]} "
                    f"for {self.robot.joint_names[joint]} in row {row}"
                )
            checked.append(rows)
        return checked

    def _prefix(self, committed: Sequence[np.ndarray]) -> Prefix | None:
        """The rows (K, J) of each history for the sampler."""
        if not any(len(rows) for rows in committed):
            return None
        slots = self._mask
        vectors = [torch.zeros(len(rows), len(slots)) for rows in committed]
        for vector, rows in zip(vectors, committed, strict=True):
            vector[:, self._slots] = torch.from_numpy(rows)
        fading = slots.clone()
        # A gripper's new opening holds at once: one drawn towards the old one would grasp or let go too late.
        fading[[slot for slot, is_gripper in zip(self._slots, self.robot.is_gripper, strict=True) if is_gripper]] = 0
        prefix = Prefix.of(vectors, slots, fading, self._network.config.horizon)
        return Prefix(*(_sent(tensor, self._device) for tensor in (prefix.rows, prefix.weights, prefix.source)))

    def _noise(self, stamps_ns: Sequence[int], noise: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """(B, T, 128) float32; without a generator drawn on the CPU, so that every device gets the same."""
        config = self._network.config
        shape = (len(stamps_ns), config.horizon, config.action_dim)
        if noise is None and generator is not None:
            noise = torch.randn(shape, generator=generator, device=generator.device)
        elif noise is None:
            drawn = [
                np.random.default_rng([self._seed, stamp_ns]).standard_normal(shape[1:], np.float32)
                for stamp_ns in stamps_ns
            ]
            noise = torch.from_numpy(np.stack(drawn))
        if tuple(noise.shape) != shape:
            raise InputError(f"noise: expected shape {shape}, found {tuple(noise.shape)}")
        return _sent(noise.float(), self._device)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On a device; a GPU reads page-locked memory without waiting for what it has to do before."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@contextlib.contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    """New parameters are of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _pictures(setting: str, device: torch.device, options: FastOptions | None) -> str:
    """Where pictures are prepared: "exact" or "device"."""
    if setting not in PICTURES:
        raise InputError(f"pictures: expected one of {', '.join(PICTURES)}, found {setting!r}")
    if setting == "device" and options is None:
        raise InputError("pictures: expected auto or exact with backend eager, found 'device'")
    if setting == "auto":
        return "device" if options is not None and device.type == "cuda" else "exact"
    return setting


def previous_observation(history: Sequence[Observation], period_ns: int) -> Observation | None:
    """The one stamped nearest to a control period before the last, None where none is within half a period."""
    due_ns = history[-1].stamp_ns - period_ns
    nearest = min(history[:-1], key=lambda observation: abs(observation.stamp_ns - due_ns), default=None)
    return nearest if nearest is not None and 2 * abs(nearest.stamp_ns - due_ns) <= period_ns else None


def _language(checkpoint: Checkpoint, given: LanguageEncoder | str | Path | None) -> LanguageEncoder:
    """The given encoder, or the instructions of the given or the checkpoint's own folder."""
    source = given if given is not None else checkpoint.instructions
    if source is None:
        raise InputError(
            f"checkpoint {checkpoint.path}: records no instructions: give embeddings that `rdt encode` wrote"
        )
    return InstructionStore.open(source) if isinstance(source, str | Path) else source


def _vision(
    checkpoint: Checkpoint, given: VisionEncoder | str | None, device: torch.device, dtype: torch.dtype
) -> VisionEncoder:
    """The given encoder, or the weights of the given folder or id, or those that the network was trained with."""
    if given is not None and not isinstance(given, str):
        return given
    encoder = load_encoder(checkpoint.config.vision, given or checkpoint.vision)
    if isinstance(encoder, EfficientNetEncoder):
        encoder = encoder.fused()
    return encoder.to(device, dtype)
