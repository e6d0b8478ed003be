"""Fine-tuning: from any checkpoint and folders of episodes to checkpoints that the robot takes.

Accelerate places and launches it: `accelerate launch -m rdt_ros.cli finetune RECIPE` on several GPUs or hosts. It
prepares the network only; the loader shares the samples out itself.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import Parameter
from tqdm import tqdm

from rdt_ros.errors import InputError
from rdt_ros.model import efficientnet
from rdt_ros.model.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from rdt_ros.model.fast.stage import compile_cache
from rdt_ros.model.network import RdtNetwork
from rdt_ros.model.vision import SiglipEncoder
from rdt_ros.model.weights import load_network
from rdt_ros.training import adapters
from rdt_ros.training.config import PLAIN, LoaderConfig
from rdt_ros.training.dataset import slots
from rdt_ros.training.ema import Ema
from rdt_ros.training.features import Features
from rdt_ros.training.frozen_tower import FrozenTower
from rdt_ros.training.interrupt import Interrupt
from rdt_ros.training.journal import Journal, LossMeans, trackers
from rdt_ros.training.loader import Mixture, Order, batches
from rdt_ros.training.loss import Noise, Objective
from rdt_ros.training.optimizer import SplitWeights, clipped_step, learning_rate, make_optimizer
from rdt_ros.training.passes import Passes
from rdt_ros.training.recipe import Recipe
from rdt_ros.training.run_folder import RunFolder
from rdt_ros.training.sampling_error import Curves, Errors, SamplingErrors, curves, draw_curves
from rdt_ros.training.settings import as_mapping, read_settings, write_settings
from rdt_ros.training.start import Data, check_robots, network_config, open_start, random_weights, vision_encoder

LISTED = 5  # samples that a refusal names
PARTS = ("train", "held_out")
VISION = "vision."  # before the names of the encoder's weights
USER_ERROR = 2  # exit code of a process whose main process has said what was wrong
COMPILERS = ("torch._dynamo", "torch._inductor", "triton")  # modules whose errors are a compiler's
SUPPORTED = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


class FineTuning:
    """One run. It goes on from the newest checkpoint in its folder, bit by bit as if it had never stopped."""

    def __init__(self, recipe: Recipe, *, cpu: bool = False) -> None:
        recipe.check()
        self.recipe = recipe
        self.folder = RunFolder(recipe.output)
        # Weights in halves are bfloat16 for the network: nothing is left to cast.
        casting = "bf16" if recipe.precision == "bf16" and recipe.weights == "float32" else "no"
        self.accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=casting,
            log_with=trackers(recipe.logging) or None,
            project_dir=str(self.folder.tracker),
        )
        if self.accelerator.distributed_type not in SUPPORTED:
            raise InputError(
                "accelerate: expected one process or several with a copy of the network each, "
                f"found {self.accelerator.distributed_type.value}"
            )
        torch.manual_seed(recipe.loader.seed + self.accelerator.process_index)  # of LoRA's dropout, and of nothing else
        self._in_main(self.folder.make)
        self.done = max(self.folder.steps(), default=0)
        self.notes: list[str] = []
        self._open_data()
        self._make_network()
        self._make_optimizer()
        self.samples = self.done * self.samples_a_step  # seen by all processes together
        if self.done:
            self._resume()
        else:
            self._in_main(lambda: write_settings(recipe, self.folder.recipe))

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    @property
    def samples_a_step(self) -> int:
        """Of all processes."""
        return self.recipe.batch_size * self.recipe.accumulation * self.accelerator.num_processes

    # what there is to begin with

    def _open_data(self) -> None:
        recipe = self.recipe
        self._start: Checkpoint | None = open_start(recipe)
        self.config = network_config(recipe, self._start)
        self.data = Data.open(recipe, self.config, progress=self.accelerator.is_main_process)
        check_robots(recipe, self._start, self.data.datasets)
        self.notes += [str(dataset) for dataset in self.data.datasets]
        self._open_vision()
        self._open_features()
        self._mixture = self._mixture_of("train", plain=False)
        # Each slot's weight in the loss: a mean over all slots, or over those of the sample's robot.
        width = self.config.action_dim
        self._slot_weights = {dataset.name: torch.ones(1, width) for dataset in self.data.datasets}
        if recipe.loss == "masked":
            for dataset in self.data.datasets:
                own = slots(dataset.robot)
                self._slot_weights[dataset.name] = torch.zeros(1, width).index_fill_(
                    1, torch.tensor(own), width / len(own)
                )

    def _open_vision(self) -> None:
        recipe, trained = self.recipe, None
        if self.done:
            checkpoint = open_checkpoint(self.folder.checkpoint(self.done))
            trained = checkpoint.vision
            if trained is None and efficientnet.NAME.fullmatch(self.config.vision):
                raise InputError(f"{checkpoint.path.parent}: expected vision.safetensors to go on from, found none")
        elif self._start is not None and not recipe.vision:
            trained = self._start.vision
        self.vision = vision_encoder(recipe, self.config, self.folder.vision, trained)
        self.accelerator.wait_for_everyone()  # nobody looks for the folder any more, which is about to be written
        if isinstance(self.vision, nn.Module):  # trained along, or frozen by `freeze: vision.*`
            if recipe.weights == "split":
                found = f"{self.config.vision} is trained along"
                raise InputError(f"recipe: {found}: expected weights float32, found split")
            self.vision.to(self.device)
            return
        if recipe.vision == "random":
            tower = self.vision.tower
            self._in_main(lambda: self.folder.write_vision(tower.save))
        self.vision.to(self.device, torch.bfloat16 if recipe.precision == "bf16" else torch.float32)

    def _open_features(self) -> None:
        """Tokens of all pictures, where they are to be kept; the processes share the episodes out."""
        self._features = None
        if not self.recipe.loader.features:
            return
        if not isinstance(self.vision, SiglipEncoder):
            raise InputError(f"loader.features: expected an encoder that is frozen, found {self.config.vision}")
        self._features = Features.of(self.recipe.loader.features, self.vision)
        episodes = [episode for dataset in self.data.datasets for episode in dataset.train + dataset.held_out]
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        made = self._features.make(episodes[rank::world], self.vision, self.recipe.loader.workers)
        for _ in tqdm(made, "tokens", len(episodes[rank::world]), unit="episode", disable=bool(rank)):
            pass
        self.accelerator.wait_for_everyone()

    def _parameters(self) -> dict[str, Parameter]:
        """All weights that may be trained by name, those of the vision encoder behind `vision.`."""
        found = adapters.parameters(self.network)
        if isinstance(self.vision, nn.Module):
            found |= {VISION + name: p for name, p in self.vision.named_parameters() if p.requires_grad}
        return found

    def _mixture_of(self, part: str, *, plain: bool) -> Mixture:
        return Mixture(
            self.data.datasets,
            PLAIN if plain else self.recipe.sample,
            self.data.tokens,
            horizon=self.config.horizon,
            image_size=self.vision.image_size,
            seed=self.recipe.loader.seed,
            part=part,
            features=self._features,
        )

    def _make_network(self) -> None:
        recipe = self.recipe
        if self.done and not recipe.lora.rank:
            self._weights = dict(open_checkpoint(self.folder.checkpoint(self.done)).weights)
        elif self._start is not None:
            self._weights = dict(self._start.weights)
        else:
            self._weights = random_weights(self.config, recipe.loader.seed)
        dtype = torch.bfloat16 if recipe.weights == "split" or recipe.lora.rank else torch.float32
        dtype = dtype if recipe.precision == "bf16" else torch.float32
        weights = self._weights
        if self.device.type == "cpu":  # a mapping of a file has another alignment, and kernels then another last digit
            weights = {name: tensor.clone() for name, tensor in weights.items()}
        self.network: RdtNetwork = load_network(self.config, weights, self.device, dtype)
        if recipe.lora.rank:
            adapters.add_adapters(self.network, recipe.lora)
        parameters = self._parameters()
        for name in adapters.matching(parameters, recipe.freeze, "freeze"):
            parameters[name].requires_grad_(False)
        self.network.model.recompute = recipe.recompute
        if recipe.compile:
            compile_cache()
            if isinstance(self.vision, nn.Module):
                self.vision.compile()
            else:
                self.vision = FrozenTower(self.vision)
            if self.device.type == "cuda" and recipe.precision == "bf16":
                from rdt_ros.training import picture_attention  # Triton comes with torch for CUDA only

                picture_attention.install(self.network)
            for part in (self.network.placed, *self.network.model.blocks):
                part.compile()
        self.trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        if not self.trained:
            raise InputError("freeze: expected some weights that are trained, found none")
        count, of = (sum(p.numel() for p in some.values()) for some in (self.trained, parameters))
        self.notes.append(f"trains {count:,} weights of {of:,}")

    def _make_optimizer(self) -> None:
        recipe, trained = self.recipe, list(self.trained.values())

        def make(weights: Sequence[Parameter]) -> torch.optim.Optimizer:
            return make_optimizer(weights, recipe.optimizer)

        self._full: Callable[[Parameter], Tensor] = lambda parameter: parameter.detach().float()
        self.optimizer: torch.optim.Optimizer
        if recipe.weights == "split":
            self.optimizer = halves = SplitWeights(trained, make)
            for name, parameter in self.trained.items():
                if name in self._weights:
                    halves.adopt(parameter, self._weights[name])
            self._full = halves.full
        else:
            self.optimizer = make(trained)
        self._objective = Objective(self.network, self.vision)
        self.model = self.accelerator.prepare(self._objective)
        self.ema = Ema(self.trained, self._full, recipe.ema) if recipe.ema.decay else None
        del self._weights

    def _resume(self) -> None:
        state = self.folder.training(self.done)
        self.samples = state["samples"]
        if self.ema is not None and "mean" in state:  # otherwise the checkpoint holds the mean, and it is there already
            self.ema.load(state["mean"])
        with torch.no_grad():
            for name, tensor in state.get("weights", {}).items():
                if isinstance(self.optimizer, SplitWeights) and self.trained[name].dtype == torch.bfloat16:
                    self.optimizer.adopt(self.trained[name], tensor)
                else:
                    self.trained[name].copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])
        rank = self.accelerator.process_index
        if rank < len(state["rng"]):
            _set_rng(state["rng"][rank])
        before, now = (as_mapping(one) for one in (read_settings(Recipe, self.folder.recipe), self.recipe))
        changed = [f"{name}: {before[name]} -> {now[name]}" for name in now if before[name] != now[name]]
        self.notes += [f"goes on from step {self.done}", *(f"changed since the start: {line}" for line in changed)]

    # the run

    def run(self) -> bool:
        """Trains to the last step; False where it was interrupted, after a checkpoint."""
        recipe = self.recipe
        journal = Journal(
            self.folder, self.accelerator, recipe.logging, steps=recipe.steps, done=self.done, batch=self.samples_a_step
        )
        for note in self.notes:
            journal.say(note)
        try:
            self._in_main(journal.start)
            with Interrupt() as interrupt:
                return self._train(journal, interrupt)
        except torch.cuda.OutOfMemoryError:
            raise InputError(f"GPU out of memory at batch_size {recipe.batch_size}: {self._memory_advice()}") from None
        except Exception as error:
            if not (recipe.compile and type(error).__module__.startswith(COMPILERS)):
                raise
            found = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"compile: expected a compiler that works, found {found}: compile=false does without"
            ) from error
        finally:
            # DDP goes before its process group: as its last owner it would wait for threads that want Python's lock.
            self.model = self._objective
            self.accelerator.free_memory()
            journal.close()

    def _train(self, journal: Journal, interrupt: Interrupt) -> bool:
        recipe, losses = self.recipe, LossMeans(self.data.robots)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        count = (recipe.steps - self.done) * recipe.accumulation
        order = Order(recipe.batch_size, self.samples, count, rank, world)
        noises = Noise.stream(recipe.loader.seed, order, self.network)
        loaded = zip(batches(self._mixture, order, recipe.loader), noises, strict=True)
        passes = Passes(loaded, self._slot_weights, self.device)
        self.model.train()
        while self.done < recipe.steps:
            rate = learning_rate(self.done, recipe.steps, recipe.optimizer)
            loss, norm = self._step(passes, rate, losses)
            journal.step(loss)
            last = self.done == recipe.steps
            if self.done % recipe.logging.every == 0 or last:
                figures = losses.figures(self._added_up)
                extra = {"lr": rate, "grad_norm": norm, "samples_per_s": journal.samples_per_s}
                journal.figures(self.done, figures | extra)
            stop = self._agreed(interrupt.asked)
            if last or stop or self.done % recipe.saving.every == 0:
                self.save()
            if last or (recipe.evaluation.every and self.done % recipe.evaluation.every == 0 and not stop):
                self._evaluate(journal)
            if stop and not last:
                journal.say(f"interrupted at step {self.done}; the same command goes on from there")
                return False
        return True

    def _step(self, passes: Passes, rate: float, losses: LossMeans) -> tuple[float, float]:
        """One step of the optimizer; the mean loss of this process and the gradient's length before clipping."""
        count = self.recipe.accumulation
        found: list[Tensor] = []
        datasets: list[str] = []
        where: list[str] = []
        for i in range(count):
            one = passes.take()
            waiting = self.accelerator.no_sync(self.model) if i + 1 < count else contextlib.nullcontext()
            with waiting:
                loss = self.model(one.batch, one.noise, one.weights)
                self.accelerator.backward(loss.mean() / count)
            found.append(loss.detach())
            datasets += one.batch.datasets
            where += one.batch.where
            passes.send()
        trained = list(self.trained.values())
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        told = torch.cat([*found, norm.float().reshape(1)])
        read = _read(told)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        bad = (~told.isfinite().all()).float()
        clipped_step(self.optimizer, trained, norm, self.recipe.optimizer.max_grad_norm or math.inf, bad)
        *values, length = read()
        self._check_finite(values, length, where)
        losses.add(datasets, values)
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        self.samples += self.samples_a_step
        if self.ema is not None:
            self.ema.update(self.done)
        return sum(values) / len(values), length

    def _check_finite(self, losses: list[float], norm: float, where: list[str]) -> None:
        bad = [place for loss, place in zip(losses, where, strict=True) if not math.isfinite(loss)]
        if not bad and math.isfinite(norm):
            return
        what, places = ("loss", bad) if bad else (f"gradient, of length {norm},", where)
        more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
        raise InputError(
            f"step {self.done + 1}: expected a finite loss and gradient, found a {what} that is not one, of samples "
            f"{', '.join(places[:LISTED])}{more}; weights were left as they were after step {self.done}"
        )

    def _agreed(self, asked: bool) -> bool:
        """Whether any process was asked."""
        if self.accelerator.num_processes == 1:
            return asked
        return bool(self._added_up(torch.tensor([float(asked)])).item())

    def _in_main(self, work: Callable[[], object]) -> None:
        """Does it in the main process alone. All wait for it; where it fails all end, and the main process says why."""
        failed = None
        if self.accelerator.is_main_process:
            try:
                work()
            except Exception as error:
                failed = error
        if self._agreed(failed is not None):
            raise failed or SystemExit(USER_ERROR)

    def _added_up(self, sums: Tensor) -> Tensor:
        """Over all processes."""
        total: Any = self.accelerator.reduce(sums.to(self.device), "sum")
        return total

    def _memory_advice(self) -> str:
        recipe = self.recipe
        advice = [
            "lower batch_size and raise accumulation" if recipe.batch_size > 1 else "",
            "" if recipe.recompute else "recompute: true",
            "" if recipe.optimizer.kind == "adamw8bit" else "optimizer.kind: adamw8bit",
            "" if recipe.weights == "split" or recipe.precision == "fp32" else "weights: split",
            "ema.device: cpu" if recipe.ema.decay and recipe.ema.device == "same" else "",
            "" if recipe.lora.rank else "lora.rank: 16",
        ]
        return "in this order, " + "; ".join(line for line in advice if line)

    # what comes out

    def _evaluate(self, journal: Journal) -> None:
        """Sampling errors of both parts of the data, with the weights that a checkpoint would hold."""
        self.model.eval()
        mean = self.ema.in_place() if self.ema is not None else contextlib.nullcontext()
        with mean, torch.no_grad(), self.accelerator.autocast():
            for part in PARTS:
                if part == "train" or any(dataset.held_out for dataset in self.data.datasets):
                    self._evaluate_part(part, journal)
        self.model.train()

    def _evaluate_part(self, part: str, journal: Journal) -> None:
        settings, world = self.recipe.evaluation, self.accelerator.num_processes
        mixture = self._mixture_of(part, plain=True)
        size = min(settings.batch_size or self.recipe.batch_size, max(1, mixture.steps // world))
        order = Order(size, 0, -(-settings.samples // (size * world)), self.accelerator.process_index, world)
        loader = LoaderConfig(min(self.recipe.loader.workers, len(order)), self.recipe.loader.prefetch)
        errors, drawn = SamplingErrors([dataset.name for dataset in self.data.datasets]), list[Curves]()
        for numbers, batch in zip(order, batches(mixture, order, loader), strict=True):
            batch = batch.to(self.device)
            noise = Noise.draw(self.recipe.loader.seed, numbers, self.network).to(self.device)
            predicted = self._objective.predict(batch, noise)
            errors.add(Errors.of(predicted, batch), batch)
            if len(drawn) < settings.curves:
                drawn += curves(predicted, batch, self.data.robots, slots)
        figures = errors.figures(part, self._added_up)
        journal.figures(self.done, figures)
        journal.say(f"step {self.done}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
        if self.accelerator.is_main_process and settings.curves:
            path, title = self.folder.pictures / f"step_{self.done:06d}_{part}.png", f"{part} at step {self.done}"
            draw = partial(draw_curves, drawn[: settings.curves], title=title)
            journal.picture(self.done, f"{part}/curves", path, draw)

    def save(self) -> None:
        """A checkpoint of now, if there is none yet; older ones are pruned after it."""
        rng = gather_object([_rng()])

        def write() -> None:
            if self.done in self.folder.steps():
                return
            state = {"samples": self.samples, "optimizer": self.optimizer.state_dict(), "rng": rng}
            if self.ema is not None or self.recipe.lora.rank:
                state["weights"] = {name: self._full(parameter).cpu() for name, parameter in self.trained.items()}
            if self.ema is not None and self.recipe.lora.rank:
                state["mean"] = self.ema.mean
            self.folder.save(self.done, self._write_checkpoint, state)
            self.folder.prune(self.recipe.saving)

        self._in_main(write)

    def weights(self) -> dict[str, Tensor]:
        """What a checkpoint holds: float32 on the CPU, the mean where there is one, LoRA merged in."""
        values = {name: self._full(p).cpu() for name, p in adapters.parameters(self.network).items()}
        if self.ema is not None:
            values |= {name: t.cpu() for name, t in self.ema.mean.items() if not name.startswith(VISION)}
        return adapters.merged(self.network, values)

    def vision_weights(self) -> dict[str, Tensor] | None:
        """Those of an encoder that is trained along, as `weights`; None for one that is not part of checkpoints."""
        if not isinstance(self.vision, nn.Module):
            return None
        values = {name: tensor.cpu() for name, tensor in self.vision.state_dict().items()}
        if self.ema is not None:
            mean = self.ema.mean.items()
            values |= {name.removeprefix(VISION): t.cpu() for name, t in mean if name.startswith(VISION)}
        return values

    def _write_checkpoint(self, folder: Path) -> None:
        save_checkpoint(
            folder,
            self.config,
            self.weights(),
            robot_text=self.data.robot_text,
            statistics={dataset.name: dataset.statistics.to_json() for dataset in self.data.datasets},
            instructions=self.data.instructions,
            vision=self.vision_weights(),
        )


def _read(told: Tensor) -> Callable[[], list[float]]:
    """Its numbers, for which nobody waits until they are asked for; the device goes on meanwhile."""
    if not told.is_cuda:
        return told.tolist
    here = torch.empty(told.shape, pin_memory=True).copy_(told, non_blocking=True)
    there = torch.cuda.Event()
    there.record()

    def read() -> list[float]:
        there.synchronize()
        return here.tolist()

    return read


def _rng() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else state


def _set_rng(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
