"""Recipes out of YAML, changed on the command line, written and read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdt_ros.errors import InputError
from rdt_ros.training.recipe import Recipe
from rdt_ros.training.settings import read_settings, settings, write_settings

RECIPES = sorted((Path(__file__).parents[2] / "config" / "finetune").glob("*.yaml"))
TEXT = """
output: out
checkpoint: random:tiny
datasets:
  - {path: /data/a, weight: 2}
optimizer: {learning_rate: 1e-4}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(TEXT)
    return file


def test_the_command_line_changes_single_settings(path, tmp_path):
    words = ["batch_size=8", "datasets.0.path=/data/b", "optimizer.kind=adamw8bit", "ema.decay=0.99", "vision="]
    recipe = read_settings(Recipe, path, words)
    assert (recipe.batch_size, recipe.optimizer.kind, recipe.ema.decay, recipe.vision) == (8, "adamw8bit", 0.99, "")
    assert recipe.optimizer.learning_rate == 1e-4
    assert [(one.path, one.weight) for one in recipe.datasets] == [("/data/b", 2.0)]
    write_settings(recipe, tmp_path / "resolved.yaml")
    assert read_settings(Recipe, tmp_path / "resolved.yaml") == recipe


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimiser.kind=adamw", "expected one of output, .*found 'optimiser', is 'optimizer' meant?"),
        ("optimizer.kind=sgd", "kind: expected one of adamw, adamw8bit, found 'sgd'"),
        ("batch_size=2.5", "batch_size: expected int, found 2.5"),
        ("batch_size=0", "batch_size: expected at least 1, found 0"),
        ("recompute=1", "recompute: expected bool, found 1"),
        ("datasets.1.path=x", "datasets.1.path: expected a place from 0 to 0, found '1'"),
        ("output.name=x", "output.name: expected settings with names before 'name', found 'out'"),
        ("batch_size", "expected key=value, found 'batch_size'"),
        ("freeze=lang", r"freeze: expected a list, found 'lang'"),
        ("optimizer.learning_rate=fast", "learning_rate: expected float, found 'fast'"),
    ],
)
def test_a_wrong_setting_is_one_line(path, word, message):
    with pytest.raises(InputError, match=message):
        read_settings(Recipe, path, [word])


def test_a_file_that_is_no_recipe_is_one_line(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_settings(Recipe, tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(InputError, match="expected settings with names"):
        read_settings(Recipe, tmp_path / "list.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_recipes_that_come_along_are_whole(path):
    read_settings(Recipe, path).check()


def test_settings_that_do_not_go_together_are_refused():
    whole = {"output": "o", "checkpoint": "x/y", "datasets": [{"path": "d"}]}
    for change, message in (
        ({"checkpoint": ""}, "expected checkpoint, found none"),
        ({"datasets": []}, "expected datasets, found none"),
        ({"weights": "split", "precision": "fp32"}, "weights split: expected precision bf16"),
        ({"language": "hashed"}, "language hashed: expected checkpoint random:SIZE"),
    ):
        with pytest.raises(InputError, match=message):
            settings(Recipe, whole | change, "test").check()
