"""Finds bags that should hold images but do not, and the reason."""

from __future__ import annotations

from collections.abc import Sequence

NO_IMAGES_S = 3.0  # a recording that has been running this long without an image is reported


class MissingImages:
    """Follows the bags of one recorder and finds those without the images that they should hold.

    Attributes
    ----------
    images
        Number of images in the current bag.
    reason
        The reason why the current bag holds no images, or "" if it holds some, is still short or should hold none.
    bags
        Names of the bags that ended without images, with the reasons.
    """

    def __init__(self) -> None:
        self.images = 0
        self.reason = ""
        self.bags: dict[str, str] = {}
        self._name = ""
        self._began_s = self._ended_s = 0.0  # steady clock at the first and the last message of the bag
        self._reported = False

    def begin_bag(self, name: str) -> None:
        """Start to follow a bag."""
        self._name = name
        self._began_s = self._ended_s = 0.0
        self.images = 0

    def end_bag(self, names: Sequence[str]) -> None:
        """Keep the bag in `bags` if it lacks the images of the topics `names`."""
        if self._lacks(names):
            self.bags[self._name] = self.reason or "no images are recorded"

    def message(self, now_s: float, is_image: bool) -> None:
        """Count a message that goes into the bag; `now_s` is the steady clock, s."""
        self._began_s = self._began_s or now_s
        self._ended_s = now_s
        self.images += is_image

    def look(self, names: Sequence[str], published: Sequence[str]) -> bool:
        """Set `reason`.

        Parameters
        ----------
        names
            Topics whose images the bag should hold; empty if it should hold none.
        published
            Those of them that have a publisher.

        Returns
        -------
        bool
            Whether this is the first reason of this recorder, so that it should be reported.
        """
        self.reason = _reason(names, published) if self._lacks(names) else ""
        first = bool(self.reason) and not self._reported
        self._reported = self._reported or first
        return first

    def _lacks(self, names: Sequence[str]) -> bool:
        return bool(names) and self._ended_s - self._began_s > NO_IMAGES_S and not self.images


def _reason(names: Sequence[str], published: Sequence[str]) -> str:
    if published:
        return f"no images are recorded: {' and '.join(published)} is announced, but no message arrives"
    return f"no images are recorded: nothing publishes {' or '.join(names)}; start the camera, or set image_topic"
