"""The RDT policy: the last Observations in, a chunk of future joint targets out."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rdt_ros.errors import InputError
from rdt_ros.model.config import model_size
from rdt_ros.model.language import HashedWords, LanguageEncoder
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.preprocess import prepare_pictures
from rdt_ros.model.sampler import sample
from rdt_ros.model.vision import SiglipEncoder, VisionEncoder
from rdt_ros.robot.description import Robot
from rdt_ros.robot.vector import SLOTS
from rdt_ros.types import NS_PER_S, ActionChunk, Observation

UNTRAINED_OUTPUT_STD = 0.02  # of the last Linear's random weights


class RdtPolicy:
    """A network with its encoders, for one robot. Nothing changes between steps.

    The encoders stand on `device` already; the network is moved there. `instruction` is followed where a step is
    given none.
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
        self._language = language
        self._seed = seed
        self._device = torch.device(device)
        # The slots of its joint positions: what the network is told, and what it is asked for.
        self._slots = [SLOTS[channel] for channel in robot.channels]

    @classmethod
    def random(
        cls,
        size: str,
        robot: Robot,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        instruction: str | None = None,
    ) -> RdtPolicy:
        """An untrained policy of a size in MODEL_SIZES; the seed decides its weights and its noise.

        Its weights are the initial ones except for the last Linear, which starts at zero: a policy that answers
        zero whatever it sees would hide every wiring fault.
        """
        config = model_size(size)
        device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = RdtNetwork(config)
            nn.init.normal_(network.model.final_layer.ffn_final.fc2.weight, std=UNTRAINED_OUTPUT_STD)
            vision = SiglipEncoder.random(config.vision).to(device, dtype)
        language = HashedWords(config.lang_token_dim)
        return cls(robot, network.to(dtype), vision, language, seed=seed, device=device, instruction=instruction)

    def reset(self) -> None:
        """Nothing to forget: a chunk depends on its Observations alone."""

    @torch.inference_mode()
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
        the Observation's stamp, so that the same Observation gives the same chunk. `committed` rows are refused:
        this policy cannot be made to continue rows that it did not choose.
        """
        start_s = time.perf_counter()
        if committed is not None:
            raise InputError(f"committed rows: expected none for this policy, found {len(committed)}")
        if not history:
            raise InputError("history: expected at least one Observation, found none")
        current = history[-1]
        text = instruction if instruction is not None else self.instruction
        state, mask = self._state_and_mask(current)
        conditions = self._network.encode_conditions(
            *self._language_tokens(text),
            self._picture_tokens(previous_observation(history, self.robot.period_ns), current),
            mask,
            torch.tensor([self.robot.control_rate_hz], device=self._device),
        )
        actions = sample(self._network, conditions, state, self._noise(current.stamp_ns, noise, generator))
        rows = actions[0, :, self._slots].cpu().numpy()
        return ActionChunk(
            stamp_ns=current.stamp_ns,
            robot=self.robot.name,
            period_s=self.robot.period_ns / NS_PER_S,
            offset_steps=self.robot.action_offset_steps,
            channels=self.robot.channels,
            rows=rows,
            instruction=text or "",
            inference_s=time.perf_counter() - start_s,
        )

    def _language_tokens(self, text: str | None) -> tuple[Tensor, Tensor]:
        """Tokens (1, L, width) and their mask (1, L), all True."""
        if not text or not text.strip():
            raise InputError(f"instruction: expected a text, found {text!r}")
        tokens = self._language.tokens(text).to(self._device)[None]
        longest = self._network.config.max_lang_cond_len
        if tokens.shape[1] > longest:
            raise InputError(f"instruction: expected at most {longest} tokens, found {tokens.shape[1]}")
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=self._device)

    def _picture_tokens(self, previous: Observation | None, current: Observation) -> Tensor:
        """(1, 6 * patches, width), the older moment first."""
        moments = [self._jpegs_by_role(observation) for observation in (previous, current)]
        pictures = torch.from_numpy(prepare_pictures(moments, self._vision.image_size))
        return self._vision.tokens(pictures).flatten(0, 1)[None]

    def _jpegs_by_role(self, observation: Observation | None) -> dict[str, bytes]:
        if observation is None:
            return {}
        pictures = {camera.role: observation.picture(camera.name) for camera in self.robot.cameras}
        return {role: picture.jpeg for role, picture in pictures.items() if picture is not None}

    def _state_and_mask(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Measured positions at their slots (1, 1, 128), and 1 at those slots (1, 1, 128)."""
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
        vectors = torch.zeros(2, 1, 1, self._network.config.action_dim)
        vectors[0, 0, 0, self._slots] = torch.from_numpy(np.asarray(measured, np.float32))
        vectors[1, 0, 0, self._slots] = 1
        state, mask = vectors.to(self._device)
        return state, mask

    def _noise(self, stamp_ns: int, noise: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """(1, T, 128) float32; without a generator drawn on the CPU, so that every device gets the same."""
        config = self._network.config
        shape = (1, config.horizon, config.action_dim)
        if noise is None and generator is not None:
            noise = torch.randn(shape, generator=generator, device=generator.device)
        elif noise is None:
            noise = torch.from_numpy(np.random.default_rng([self._seed, stamp_ns]).standard_normal(shape, np.float32))
        if tuple(noise.shape) != shape:
            raise InputError(f"noise: expected shape {shape}, found {tuple(noise.shape)}")
        return noise.to(self._device, torch.float32)


def previous_observation(history: Sequence[Observation], period_ns: int) -> Observation | None:
    """The one stamped nearest to a control period before the last, None where none is within half a period."""
    due_ns = history[-1].stamp_ns - period_ns
    nearest = min(history[:-1], key=lambda observation: abs(observation.stamp_ns - due_ns), default=None)
    return nearest if nearest is not None and 2 * abs(nearest.stamp_ns - due_ns) <= period_ns else None
