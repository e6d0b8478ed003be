"""config/nodes.yaml is what the code says, and what the nodes take."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

pytest.importorskip("rclpy")

from rdt_ros.nodes import catalogue  # noqa: E402
from rdt_ros.options import check  # noqa: E402
from rdt_ros.share import share_dir  # noqa: E402


def test_the_file_is_what_the_code_says():
    shipped = (share_dir() / "config" / "nodes.yaml").read_text()
    assert shipped == catalogue.text(), "run: python -m rdt_ros.nodes.catalogue > config/nodes.yaml"


@pytest.mark.parametrize("node", catalogue.CONFIGS)
def test_its_values_are_valid_parameters(node):
    values = yaml.safe_load(catalogue.text())[f"/**/{node}"]["ros__parameters"]
    config_class = catalogue.CONFIGS[node]
    config = config_class(**values)
    check(config, node)
    assert config == config_class()
    for field in dataclasses.fields(config_class):
        assert type(getattr(config, field.name)) is type(field.default), field.name
