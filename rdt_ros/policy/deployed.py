"""The RDT policy as it is deployed: a checkpoint, and what knows the words that it can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rdt_ros.errors import InputError
from rdt_ros.model.checkpoint import Checkpoint, open_checkpoint
from rdt_ros.model.instruction import Instructions, language_for
from rdt_ros.policy.rdt import UNTRAINED, RdtPolicy
from rdt_ros.robot.description import Robot


@dataclass(frozen=True)
class Deployed:
    """A policy, and what to ask it for."""

    policy: RdtPolicy
    language: Instructions | None  # None for an untrained one, which takes any words
    instruction: str  # as `policy` wants to hear it


def deploy(
    checkpoint: str,
    robot: Robot | None,
    *,
    instruction: str = "",
    instructions: str = "",
    encoder: str = "",
    vision: str = "",
    **settings: Any,
) -> Deployed:
    """The policy of a checkpoint of any form, ready for `instruction`, or an untrained one for `random:SIZE`.

    What is empty comes with the checkpoint. `settings` are those of RdtPolicy.from_checkpoint.
    """
    if not checkpoint:
        raise InputError("checkpoint: expected a file, a folder, a Hub id or random:SIZE, found nothing")
    source: Checkpoint | str = checkpoint
    language = None
    if not checkpoint.startswith(UNTRAINED):
        source = open_checkpoint(checkpoint)
        language = language_for(
            instruction,
            store=instructions or source.instructions or "",
            encoder=encoder,
            width=source.config.lang_token_dim,
        )
        instruction = language.instruction
    policy = RdtPolicy.from_checkpoint(source, robot, vision=vision or None, language=language, **settings)
    return Deployed(policy, language, instruction)
