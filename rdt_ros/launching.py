"""`bringup` in the words of `ros2 launch`; imported by the launch files only."""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch_ros.actions import Node

from rdt_ros import bringup


def describe(deployment: str) -> LaunchDescription:
    """The launch description of a deployment: its arguments, then its nodes."""
    arguments = [
        DeclareLaunchArgument(argument.name, default_value=argument.default, description=argument.doc)
        for argument in bringup.ARGUMENTS[deployment]
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_start, args=[deployment])])


def _start(context: LaunchContext, deployment: str) -> list[Action]:
    given = {a.name: context.launch_configurations[a.name] for a in bringup.ARGUMENTS[deployment]}
    plan = bringup.plan(deployment, given)
    nodes = [
        Node(
            package="rdt_ros",
            executable=node.name,
            name=node.name,
            namespace=plan.namespace,
            parameters=[*plan.parameter_files, dict(node.parameters)],
            additional_env=dict(plan.environment),
            output="screen",
        )
        for node in plan.nodes
    ]
    ending = _Ending({node.name: node.required for node in plan.nodes})
    handlers = [
        RegisterEventHandler(OnProcessExit(target_action=action, on_exit=ending.handler(node.name)))
        for action, node in zip(nodes, plan.nodes, strict=True)
    ]
    return [*handlers, *nodes, *(LogInfo(msg=note) for note in plan.notes)]


class _Ending:
    """Brings everything down when a required node ends, and says its name in the last line."""

    def __init__(self, required: dict[str, bool]) -> None:
        self._required = required
        self._running = set(required)
        self._first = ""

    def handler(self, name: str):
        """What to do when the process of this node has ended."""

        def on_exit(event: ProcessExited, context: LaunchContext) -> list[Action]:
            self._running.discard(name)
            actions: list[Action] = []
            if self._required[name] and not self._first and not context.is_shutdown:
                self._first = f"{name} ended with exit code {event.returncode}"
                actions.append(EmitEvent(event=Shutdown(reason=self._first)))
            if not self._running and self._first:
                actions.append(LogInfo(msg=f"{self._first}, everything else was stopped"))
            return actions

        return on_exit
