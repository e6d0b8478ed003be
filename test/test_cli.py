"""The `rdt` command: names that are fixed, and one line for a user's mistake."""

from __future__ import annotations

import pytest

from rdt_ros import bringup, cli


def run(capsys, *argv: str) -> tuple[int, str, str]:
    try:
        code = cli.main(argv)
    except SystemExit as error:  # argparse
        code = error.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", ["demo", "up", "enable", "disable", "home", "stop", "bench"])
def test_the_commands_are_there_and_explain_themselves(capsys, name):
    code, out, _ = run(capsys, name, "--help")
    assert code == 0 and "usage: rdt " + name in out


@pytest.mark.parametrize("deployment", bringup.ARGUMENTS)
def test_every_argument_of_a_deployment_is_documented(capsys, deployment):
    code, out, _ = run(capsys, "up", deployment, "--help")
    assert code == 0
    for argument in bringup.ARGUMENTS[deployment]:
        assert f"{argument.name}:=" in out and argument.doc in out


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("up", "inference", "policy"), "rdt: up inference: expected key:=value, found 'policy'"),
        (("up", "inference", "polcy:=x"), "rdt: inference: unknown argument polcy, is policy meant?"),
        (("up", "record",), "rdt: record: missing argument output:=..."),
        (("up", "inference", "policy:=hold", "robot:=agilx"), "rdt: robot: expected one of agilex, agilex_piper, "),
        (("up", "replay", "source:=/nowhere.hdf5"), "rdt: /nowhere.hdf5: no such file"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(capsys, argv, line):
    code, out, err = run(capsys, *argv)
    assert code == 2 and out == ""
    assert err.startswith(line) and len(err.splitlines()) == 1


@pytest.mark.ros
def test_enable_without_an_executor_says_where_it_looked(capsys, monkeypatch):
    from rclpy.client import Client

    wait, asked_s = Client.wait_for_service, []

    def shorter(client, timeout_sec):
        asked_s.append(timeout_sec)
        return wait(client, timeout_sec=0.5)

    monkeypatch.setattr(Client, "wait_for_service", shorter)
    monkeypatch.setenv("ROS_DOMAIN_ID", "73")
    code, _, err = run(capsys, "enable", "--namespace", "nobody", "--domain", "73")
    assert code == 2
    assert err.startswith("rdt: executor/enable: no such service within 10 s in namespace /nobody/, ROS_DOMAIN_ID 73")
    assert asked_s == [10.0]
