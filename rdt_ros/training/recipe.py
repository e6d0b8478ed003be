"""Every setting of a fine-tuning run; `config/finetune/*.yaml` are such recipes."""

from __future__ import annotations

from dataclasses import dataclass

from rdt_ros.errors import InputError
from rdt_ros.model.config import NORMS
from rdt_ros.options import option
from rdt_ros.training.config import DatasetConfig, LoaderConfig, SampleConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights follow their gradients. The defaults are those of the reference's fine-tuning script."""

    kind: str = option(
        "adamw",
        choices=("adamw", "adamw8bit"),
        doc="adamw: torch's, fused; adamw8bit: bitsandbytes', a quarter of the memory for its moments",
    )
    learning_rate: float = option(1e-4, low=0.0, doc="after the warm-up")
    schedule: str = option("constant", choices=("constant", "cosine"), doc="of the learning rate after the warm-up")
    warmup_steps: int = option(500, low=0, unit="steps", doc="over which the learning rate rises evenly from nothing")
    final_share: float = option(0.0, low=0.0, high=1.0, doc="of the learning rate, at which a cosine ends")
    beta1: float = option(0.9, low=0.0, high=1.0, doc="memory of the first moment")
    beta2: float = option(0.999, low=0.0, high=1.0, doc="memory of the second moment")
    epsilon: float = option(1e-8, low=0.0, doc="added to the root of the second moment")
    weight_decay: float = option(1e-2, low=0.0, doc="share of a weight taken off a step, times the learning rate")
    max_grad_norm: float = option(1.0, low=0.0, doc="longer gradients are shortened to this; 0: never")


@dataclass(frozen=True)
class EmaConfig:
    """A running mean of the weights in float32. Where it is on, it is what is evaluated and deployed."""

    decay: float = option(0.0, low=0.0, high=1.0, doc="share of the old mean that a step keeps, at most; 0: no mean")
    device: str = option(
        "same", choices=("same", "cpu"), doc="where it is kept: with the weights, or in the computer's memory"
    )
    every: int = option(1, low=1, unit="steps", doc="between updates; more than 1 pays where it is on the CPU")


@dataclass(frozen=True)
class LoraConfig:
    """Small matrices beside frozen weights, by peft; merged into the weights of every checkpoint."""

    rank: int = option(0, low=0, doc="of the matrices; 0: train the weights themselves")
    alpha: float = option(0.0, low=0.0, doc="strength, divided by the rank; 0: twice the rank")
    dropout: float = option(0.0, low=0.0, high=1.0, doc="of the matrices' input")
    targets: tuple[str, ...] = option(
        ("qkv", "q", "kv", "proj", "fc1", "fc2"), doc="last names of the layers that get them"
    )
    train_also: tuple[str, ...] = option(
        ("state_adaptor.*", "model.final_layer.*"), doc="patterns of weights that are trained themselves all the same"
    )


@dataclass(frozen=True)
class EvaluationConfig:
    """Sampling errors on held-out and on training episodes, while training."""

    every: int = option(500, low=0, unit="steps", doc="between evaluations; 0: only at the end")
    samples: int = option(128, low=1, doc="of each part, the same ones every time, all processes together")
    batch_size: int = option(0, low=0, doc="of one process; 0: that of training")
    curves: int = option(4, low=0, doc="samples whose predicted and recorded joints are drawn")


@dataclass(frozen=True)
class SavingConfig:
    """Which checkpoints there are."""

    every: int = option(1000, low=1, unit="steps", doc="between checkpoints; the last step and Ctrl-C make one too")
    keep: int = option(3, low=1, doc="newest checkpoints that stay")
    keep_every: int = option(0, low=0, unit="steps", doc="checkpoints of multiples of this stay as well; 0: none")


@dataclass(frozen=True)
class LoggingConfig:
    """What can be watched. `metrics.jsonl` in the run's folder is always written."""

    every: int = option(10, low=1, unit="steps", doc="between figures; losses are means over these steps")
    tracker: str = option("tensorboard", choices=("tensorboard", "wandb", "none"), doc="where figures go")
    project: str = option("rdt", doc="of Weights & Biases")
    offline: bool = option(False, doc="Weights & Biases writes to the run's folder only (`wandb sync` sends it later)")


@dataclass(frozen=True)
class Recipe:
    """One fine-tuning run."""

    output: str = option("", doc="folder of the run; where it holds checkpoints, the newest is continued")
    checkpoint: str = option("", doc="weights to start from: any form, or random:SIZE")
    norm: str = option("", choices=("", *NORMS), doc="form of the norm, for weights that do not record it")
    vision: str = option("", doc="folder or Hub id of the vision encoder; random for untrained; empty: the network's")
    language: str = option(
        "store", choices=("store", "hashed"), doc="tokens of `rdt encode`; hashed: stand-ins, to try out random:SIZE"
    )
    datasets: tuple[DatasetConfig, ...] = option((), doc="what to train on, mixed by weight")
    robot: str = option("", doc="the checkpoint is for this robot, a name or a YAML file; empty: the first data set's")
    other_robot: bool = option(False, doc="the start checkpoint may be of another robot")

    steps: int = option(10000, low=1, doc="of the optimizer, from the beginning of the run")
    batch_size: int = option(32, low=1, doc="samples of one process in one pass")
    accumulation: int = option(1, low=1, doc="passes whose gradients make up one step")
    loss: str = option(
        "reference",
        choices=("reference", "masked"),
        doc="mean square over all 128 slots, absent ones towards zero; or over the robot's slots alone",
    )
    precision: str = option("bf16", choices=("bf16", "fp32"), doc="in which the networks compute")
    weights: str = option(
        "float32",
        choices=("float32", "split"),
        doc="split: two halves of 16 bits, of which training sees the upper one, the optimizer both: needs bf16",
    )
    recompute: bool = option(False, doc="gradient checkpointing: a third more time for much less memory")
    compile: bool = option(False, doc="torch.compile of every block: about a minute at the start, then faster")
    freeze: tuple[str, ...] = option(
        (), doc="patterns of weights that stay, e.g. lang_adaptor.*, img_adaptor.*, *_pos_embed, model.blocks.0.*"
    )

    sample: SampleConfig = option(SampleConfig(), doc="how a sample is made")
    loader: LoaderConfig = option(LoaderConfig(), doc="how samples are loaded; its seed is that of everything")
    optimizer: OptimizerConfig = option(OptimizerConfig(), doc="how weights follow their gradients")
    ema: EmaConfig = option(EmaConfig(), doc="running mean of the weights")
    lora: LoraConfig = option(LoraConfig(), doc="small matrices beside frozen weights")
    evaluation: EvaluationConfig = option(EvaluationConfig(), doc="sampling errors while training")
    saving: SavingConfig = option(SavingConfig(), doc="which checkpoints there are")
    logging: LoggingConfig = option(LoggingConfig(), doc="what can be watched")

    def check(self) -> None:
        """Raises InputError for settings that are missing or do not go together."""
        for name in ("output", "checkpoint", "datasets"):
            if not getattr(self, name):
                raise InputError(f"recipe: expected {name}, found none")
        if self.weights == "split" and self.precision != "bf16":
            raise InputError(f"recipe: weights split: expected precision bf16, found {self.precision}")
        if self.language == "hashed" and not self.checkpoint.startswith("random:"):
            raise InputError(f"recipe: language hashed: expected checkpoint random:SIZE, found {self.checkpoint}")
        if self.loader.features and self.sample.augment:
            raise InputError(
                "recipe: loader.features: expected sample.augment false, found true: pictures differ each time"
            )
