"""A graph as a `launch` description, for `ros2 launch`. The only file that imports launch and launch_ros."""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from rlfp_ros.graph.arguments import parse_assignments
from rlfp_ros.graph.description import Graph, Included, NodeProcess, OnExit
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.runner import SIGKILL_AFTER_S, SIGTERM_AFTER_S


def launch_description(graph: Graph) -> LaunchDescription:
    """Return declared arguments, and the nodes that `resolve()` derives from their values."""

    def actions(context: LaunchContext) -> list[Action]:
        values = {argument.name: context.launch_configurations[argument.name] for argument in graph.arguments}
        # A default that names other arguments is filled in by resolve().
        given = {
            argument.name: values[argument.name]
            for argument in graph.arguments
            if values[argument.name] != argument.default
        }
        resolved = resolve(graph, given)
        drivers = [_driver(included) for included in resolved.included]
        return [*_unknown(graph, context), *drivers, *(_node(process) for process in resolved.processes)]

    return LaunchDescription([*_declarations(graph), OpaqueFunction(function=actions)])


def _declarations(graph: Graph) -> list[Action]:
    return [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.description,
            choices=list(argument.choices) or None,
        )
        for argument in graph.arguments
    ]


def _unknown(graph: Graph, context: LaunchContext) -> list[Action]:
    """Report arguments without effect, because `ros2 launch` accepts any. (An including file may use them.)"""
    known = {argument.name for argument in graph.arguments}
    given = parse_assignments([word for word in context.argv if ":=" in word], graph.name)
    return [
        LogInfo(msg=f"{graph.name}.launch.py has no argument {name}; it has: {', '.join(sorted(known))}")
        for name in given
        if name not in known
    ]


def _driver(included: Included) -> GroupAction:
    """Include the driver's launch file in a scope, so that its settings do not affect other nodes."""
    path = PathJoinSubstitution([FindPackageShare(included.package), "launch", included.launch_file])
    variables = [SetEnvironmentVariable(name, value) for name, value in included.environment.items()]
    arguments = list(included.arguments.items())
    include = IncludeLaunchDescription(AnyLaunchDescriptionSource(path), launch_arguments=arguments)
    return GroupAction([*variables, include])


def _node(process: NodeProcess) -> Node:
    respawn = process.respawn
    ends_graph = process.on_exit in (OnExit.FINISH, OnExit.FAIL) and respawn is None
    return Node(
        package="rlfp_ros",
        executable=process.executable,
        name=process.name,
        namespace=process.namespace,
        parameters=[*(str(path) for path in process.parameter_files), process.parameters],
        remappings=list(process.remappings.items()),
        ros_arguments=["--log-level", process.log_level],
        additional_env=process.environment,
        output="screen",
        emulate_tty=True,
        respawn=respawn is not None,
        respawn_delay=respawn.delay_s if respawn else None,
        sigterm_timeout=str(SIGTERM_AFTER_S),
        sigkill_timeout=str(SIGKILL_AFTER_S - SIGTERM_AFTER_S),
        on_exit=Shutdown(reason=f"{process.name} ended") if ends_graph else None,
    )
