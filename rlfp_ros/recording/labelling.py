"""Labels the bags of a recorder on request, in the thread that writes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from rlfp_ros.recording.background_writer import BackgroundWriter
from rlfp_ros.recording.bag_folder import BagFolder
from rlfp_ros.recording.bag_list import LabelRequest
from rlfp_ros.recording.labels import BagLabel
from rlfp_ros.schema import ConfigurationError


class Labelling:
    """Labels bags, and keeps what became of each label until it is asked for.

    Parameters
    ----------
    writer
        Writes the bags.
    folder
        Where they are.

    Attributes
    ----------
    fault : str
        Why the newest label was not written, in one sentence, or "".
    """

    def __init__(self, writer: BackgroundWriter, folder: BagFolder) -> None:
        self._writer, self._folder = writer, folder
        self._done: queue.SimpleQueue[tuple[str, BagLabel, str]] = queue.SimpleQueue()  # name, label, fault
        self.fault = ""

    def begin(self, text: str, newest: str) -> threading.Event:
        """Begin to label a bag.

        Parameters
        ----------
        text
            The request, a line of JSON.
        newest
            The bag that is written, or was last; "" if there is none.

        Returns
        -------
        threading.Event
            Set when the label is on the disk, or cannot be written.

        Raises
        ------
        ConfigurationError
            If the request cannot be understood or names no bag of the folder.
        """
        request = LabelRequest.from_json(text)
        name, directory = request.bag or newest, self._folder.directory
        if not name or (name == newest and not (directory / name).exists()):
            raise ConfigurationError("there is no bag to label yet; record one first")
        if name != newest and name not in {bag.name for bag in self._folder.listing().bags}:
            raise ConfigurationError(f"{directory}: holds no closed bag {name!r}; choose one of the list")
        answered = threading.Event()

        def done(fault: str) -> None:  # in the writer's thread
            self._done.put((name, request.bag_label, fault))
            answered.set()

        self.fault = ""
        self._writer.label(directory / name, request.bag_label, done)
        return answered

    def ended(self) -> Iterator[tuple[str, BagLabel]]:
        """Yield the bags that were labelled since the last call, and set `fault` if one could not be."""
        while not self._done.empty():
            name, label, self.fault = self._done.get()
            if not self.fault:
                yield name, label
