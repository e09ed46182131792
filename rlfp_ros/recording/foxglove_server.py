"""`rlfp play`: serves a bag to Foxglove and Lichtblick on this machine, read-only, with a timeline.

Messages are sent as they are stored, without decoding. The server takes no messages, parameters or service calls. It
does not check which web page connects, so it listens on the loopback interface only. The bag begins to play when a
viewer subscribes to a topic.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import foxglove
from foxglove.websocket import (
    Capability,
    ChannelView,
    Client,
    PlaybackCommand,
    PlaybackControlRequest,
    PlaybackState,
    PlaybackStatus,
    ServerListener,
)
from rich.console import Console
from rich.markup import escape

from rlfp_ros.recording.message_types import definition
from rlfp_ros.recording.playback import BagPlayer, PlaybackPosition
from rlfp_ros.recording.reader import BagReader, RecordedMessage
from rlfp_ros.schema import ConfigurationError

HOST = "127.0.0.1"


def serve_bag(
    path: Path, port: int, console: Console | None = None, stopped: Callable[[], bool] = lambda: False
) -> None:
    """Serve a bag until `stopped` returns true or the process is interrupted.

    Parameters
    ----------
    path
        The bag.
    port
        TCP port; 0 for any free one.
    console
        Shows the address.
    stopped
        Asked between messages.

    Raises
    ------
    ConfigurationError
        If the bag cannot be read or holds no message, or the port is taken.
    """
    console = console or Console(highlight=False)
    with BagReader(path) as bag:
        context = foxglove.Context()
        channels: dict[str, foxglove.Channel] = {}
        for topic, kind in bag.topics.items():
            try:
                channels[topic] = _channel(topic, kind, context)
            except ConfigurationError:
                console.print(f"leaves out {topic}: its type {kind} is not known", soft_wrap=True, markup=False)

        def send(message: RecordedMessage) -> None:
            if message.topic in channels:
                channels[message.topic].log(message.data, log_time=message.log_time_ns)

        player = BagPlayer(bag, send)
        try:
            server = foxglove.start_server(
                name=path.name,
                host=HOST,
                port=port,
                capabilities=[Capability.Time],
                server_listener=_Listener(player),
                context=context,
                playback_time_range=(player.begins_ns, player.ends_ns),
            )
        except (OSError, RuntimeError) as error:
            raise ConfigurationError(f"port {port} of {HOST} cannot be used ({error}); choose another --port") from None
        try:
            seconds = (player.ends_ns - player.begins_ns) * 1e-9
            console.print(
                f"{escape(path.name)}: {len(channels)} topics, {seconds:.1f} s. In Foxglove or Lichtblick open a "
                f"connection to ws://{HOST}:{server.port}; Ctrl-C ends it",
                soft_wrap=True,
            )
            ended = False
            while not stopped():
                wait_s = player.play_due()
                position = player.position()
                server.broadcast_time(position.time_ns)
                if position.ended and not ended:
                    server.broadcast_playback_state(_state(position, False, None))
                ended = position.ended
                time.sleep(wait_s)
        finally:
            server.stop()


class _Listener(ServerListener):
    """Passes a viewer's timeline to the player."""

    def __init__(self, player: BagPlayer) -> None:
        self._player = player

    def on_subscribe(self, client: Client, channel: ChannelView) -> None:
        """Begin when there is a viewer."""
        self._player.begin()

    def on_playback_control_request(self, playback_control_request: PlaybackControlRequest) -> PlaybackState | None:
        """Play, pause, or jump."""
        request = playback_control_request
        playing = request.playback_command == PlaybackCommand.Play
        position = self._player.request(playing, request.playback_speed, request.seek_time)
        return _state(position, request.seek_time is not None, request.request_id)


def _state(position: PlaybackPosition, did_seek: bool, request_id: str | None) -> PlaybackState:
    playing = PlaybackStatus.Playing if position.playing else PlaybackStatus.Paused
    status = PlaybackStatus.Ended if position.ended else playing
    return PlaybackState(status, position.time_ns, position.speed, did_seek, request_id)


def _channel(topic: str, kind: str, context: foxglove.Context) -> foxglove.Channel:
    schema = foxglove.Schema(name=kind, encoding="ros2msg", data=definition(kind).encode())
    return foxglove.Channel(topic, schema=schema, message_encoding="cdr", context=context)
