"""Samples against the reference's loader, on the same files with the same random draws."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rdt_ros.bench.dataset import reference_dataset, reference_folder
from rdt_ros.model.preprocess import CAMERA_ROLES
from rdt_ros.training.config import PLAIN, SampleConfig
from rdt_ros.training.dataset import Episode, open_dataset, slots
from rdt_ros.training.loader import Mixture
from rdt_ros.training.pictures import FrameReader, background, normalised
from rdt_ros.training.sample import HISTORY, PICTURES, Draws, SampleMaker, draw

SIZE = 64
SNR_DB = 20.0
STILL = 10  # steps without motion at the start of an episode
ONE_LEVEL = 1 / 127.5 + 1e-6


class Recorded:
    """What the reference draws while it makes a sample; `step` forces the step."""

    def __init__(self, monkeypatch, step: int | None) -> None:
        self.chosen: list = []
        self.steps: list[int] = []
        self.noise: list[np.ndarray] = []
        self.uniform: list[float] = []
        choice, randint, normal, uniform = np.random.choice, np.random.randint, np.random.normal, random.random

        def recorded(values, call):
            return lambda *args, **kwargs: values.append(call(*args, **kwargs)) or values[-1]

        def noise(mean, scale, shape):
            values = normal(mean, scale, shape)
            self.noise.append(np.divide(values[0], scale, out=np.zeros(len(scale)), where=scale > 0))
            return values

        monkeypatch.setattr(np.random, "choice", recorded(self.chosen, choice))
        monkeypatch.setattr(
            np.random, "randint", recorded(self.steps, randint if step is None else lambda low, high: step)
        )
        monkeypatch.setattr(np.random, "normal", noise)
        monkeypatch.setattr(random, "random", recorded(self.uniform, uniform))

    def draws(self, probability: float, episode: Episode, texts: dict) -> Draws:
        """The same decisions in our form."""
        kind, *text = map(str, self.chosen[1:])
        step = int(self.steps[0])
        hidden = iter([value <= probability for value in self.uniform])
        rate, state, mask = next(hidden), next(hidden), next(hidden)
        # it draws for a picture only where there is one
        moments = [moment for moment in range(step - HISTORY + 1, step + 1) for _ in CAMERA_ROLES]
        pictures = tuple(next(hidden) if moment >= episode.start else False for moment in moments)
        return Draws(
            step=step,
            instruction=text[0] if text else texts[kind],
            state_noise=self.noise[0][slots(episode.source.robot)] if self.noise else None,
            hide_rate=rate,
            hide_state=state,
            hide_mask=mask,
            hide_pictures=pictures,
            hide_instruction=next(hidden),
        )


@pytest.fixture
def both(maker, agilex, reference, tmp_path):
    """Makes one sample by the reference, then ours of the same draws."""
    folder = maker.folder(tmp_path / "set", still=STILL)
    dataset = open_dataset(agilex(folder), SampleConfig())
    frames = FrameReader()

    def make(seed: int, probability: float, snr_db: float | None = None, step: int | None = None):
        texts: list[str] = []

        def tokenizer(text, **_):
            texts.append(text)
            return SimpleNamespace(input_ids=torch.zeros(1, 3, dtype=torch.long))

        random.seed(seed)
        np.random.seed(seed)
        with reference_folder(reference, folder, tmp_path / "cwd"):
            theirs = reference_dataset(reference, tokenizer, SIZE, cond_mask_prob=probability, state_noise_snr=snr_db)
            # its statistics are those of other data
            theirs.dataset_stat["agilex"]["state_mean"] = dataset.statistics.mean.tolist()
            with pytest.MonkeyPatch.context() as monkeypatch:
                recorded = Recorded(monkeypatch, step)
                expected = theirs[0]
        episode = next(e for e in dataset.train if e.path.name == Path(recorded.chosen[0]).name)
        draws = recorded.draws(probability, episode, maker.texts)
        sample = SampleMaker(snr_db or 0.0, 64, SIZE, frames).make(dataset, episode, draws)
        return {**expected, "instruction": texts[-1]}, sample, draws, episode

    yield make
    frames.close()


def assert_same(expected, sample) -> None:
    np.testing.assert_allclose(sample.state, expected["states"][0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(sample.actions, expected["actions"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(sample.state_norm, expected["state_norm"], rtol=1e-6)
    assert np.array_equal(sample.mask, expected["state_elem_mask"])
    assert sample.rate_hz == expected["ctrl_freq"]
    assert sample.instruction == expected["instruction"]
    pictures = normalised(torch.from_numpy(sample.pictures))
    difference = (pictures - torch.stack(expected["images"])).abs()
    assert difference.max() <= ONE_LEVEL and (difference > 1e-6).float().mean() < 0.005


@pytest.mark.parametrize("seed", range(4))
def test_a_sample_is_the_references(both, seed):
    """Half of the conditions hidden, noise on the state."""
    expected, sample, *_ = both(seed, 0.5, SNR_DB)
    assert_same(expected, sample)


@pytest.mark.parametrize("step", [STILL - 1, STILL, 139])
def test_the_ends_of_an_episode_are_the_references(both, step):
    expected, sample, _, episode = both(1, 0.0, None, step)
    assert_same(expected, sample)
    hidden = [np.array_equal(picture, background(SIZE)) for picture in sample.pictures]
    assert hidden == [step == episode.start] * 3 + [False] * 3
    repeated = max(0, step + 64 - len(episode.actions))
    assert (sample.actions[63 - repeated :] == sample.actions[-1]).all()


def test_steps_are_as_likely_as_in_the_reference(maker, agilex, reference, tmp_path):
    """Episodes by their usable length, short ones not at all, the index of a sample without influence."""
    folder = maker.folder(tmp_path / "set", (140, 100, 260), still=STILL)
    dataset = open_dataset(agilex(folder), SampleConfig())
    with reference_folder(reference, folder, tmp_path / "cwd"):
        theirs = reference_dataset(reference, None, SIZE).hdf5_dataset
        expected = {
            Path(path).name: w for path, w in zip(theirs.file_paths, theirs.episode_sample_weights, strict=True)
        }
    total = sum(episode.usable for episode in dataset.train)
    ours = {episode.path.name: episode.usable / total for episode in dataset.train}
    assert ours == pytest.approx({name: weight for name, weight in expected.items() if weight})
    mixture = Mixture([dataset], PLAIN, {}, horizon=64, image_size=SIZE)
    places = [mixture._place(np.random.default_rng(i)) for i in range(2000)]
    drawn = Counter(episode.path.name for _, episode, _ in places)
    steps = [step for _, episode, step in places if episode is dataset.train[-1]]
    assert drawn["e2.hdf5"] / 2000 == pytest.approx(ours["e2.hdf5"], abs=0.05)
    assert (min(steps), max(steps)) == (STILL - 1, 259) and np.mean(steps) == pytest.approx(134, abs=8)


def test_conditions_are_hidden_as_often_as_told(maker, agilex, tmp_path):
    dataset = open_dataset(agilex(maker.folder(tmp_path / "set", (140,))), SampleConfig())
    config = SampleConfig(condition_dropout=0.1, external_camera_dropout=0.4)
    rng = np.random.default_rng(0)
    draws = [draw(rng, dataset.train[0], 20, config) for _ in range(4000)]
    for name in ("hide_rate", "hide_state", "hide_mask", "hide_instruction"):
        assert np.mean([getattr(one, name) for one in draws]) == pytest.approx(0.1, abs=0.02), name
    pictures = np.mean([one.hide_pictures for one in draws], 0)
    assert pictures == pytest.approx([0.4, 0.1, 0.1] * 2, abs=0.03)
    # independent: two of probability 0.1 coincide in 1 % of the samples
    assert np.mean([one.hide_state and one.hide_mask for one in draws]) == pytest.approx(0.01, abs=0.008)
    texts = Counter(one.instruction for one in draws)
    expected = {
        "fold the towel": 1 / 3,
        "fold towel": 1 / 6,
        "fold it": 1 / 6,
        maker.texts["expanded_instruction"][0]: 1 / 3,
    }
    assert {text: count / 4000 for text, count in texts.items()} == pytest.approx(expected, abs=0.03)
    noise = np.array([one.state_noise for one in draws])
    assert noise.std() == pytest.approx(1, abs=0.02) and abs(noise.mean()) < 0.02


def test_plain_samples_hide_and_disturb_nothing(maker, agilex, tmp_path):
    dataset = open_dataset(agilex(maker.folder(tmp_path / "set", (140,))), PLAIN)
    drawn = draw(np.random.default_rng(0), dataset.train[0], 20, PLAIN)
    assert (drawn.state_noise, drawn.augment, any(drawn.hide_pictures)) == (None, None, False)
    assert not (drawn.hide_rate or drawn.hide_state or drawn.hide_mask or drawn.hide_instruction)


def test_a_camera_that_an_episode_lacks_is_background(maker, agilex, tmp_path):
    dataset = open_dataset(agilex(maker.folder(tmp_path / "set", (140,), cameras=2)), PLAIN)
    sample = SampleMaker(0.0, 64, SIZE, FrameReader()).make(dataset, dataset.train[0], Draws(20, "fold"))
    hidden = [np.array_equal(picture, background(SIZE)) for picture in sample.pictures]
    assert hidden == [False, True, False] * 2  # the third camera of the file's robot is the right wrist's


def test_only_pictures_that_are_shown_are_augmented(maker, agilex, tmp_path):
    dataset = open_dataset(agilex(maker.folder(tmp_path / "set", (140,))), PLAIN)
    draws = Draws(20, "fold", hide_pictures=(True,) * 4 + (False,) * 2, augment=np.zeros_like)
    sample = SampleMaker(0.0, 64, SIZE, FrameReader()).make(dataset, dataset.train[0], draws)
    assert [int(picture[SIZE // 2].max()) for picture in sample.pictures] == [127] * 4 + [0] * 2
    assert len(sample.pictures) == PICTURES
