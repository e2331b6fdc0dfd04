"""When a device that does not answer is given up."""

from __future__ import annotations

from collections.abc import Hashable

from zoofast.errors import BackendError

OPENING_SECONDS = 60.0  # that a device may take at least to load the model
LOOK_SECONDS = 0.5  # between two looks at the devices, at most


class DeviceTimeoutError(BackendError):
    """The device did not answer in time. Another attempt may wait as long."""


class Lateness:
    """Which devices were late, at looks that are `look_seconds` apart. Times are in seconds of one
    clock.

    timeout: that a device may take for an answer, and, if that is more than OPENING_SECONDS, to
    load the model.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.look_seconds = min(timeout / 4, LOOK_SECONDS)
        self._since: dict[Hashable, float] = {}  # when each of the late ones was first found late

    def reason(
        self, device: Hashable, name: str, since: float | None, now: float, is_loaded: bool
    ) -> str | None:
        """Why the device is given up; None if it is not. since: when it was last heard or given
        work; None if it has nothing to do.

        It is given up if it was late at a look before, too: where this process was stopped for a
        while, as by Ctrl-Z, or could not write its progress, all devices are late at the first
        look, and their answers wait.
        """
        limit = self._timeout if is_loaded else max(self._timeout, OPENING_SECONDS)
        if since is None or now - since <= limit:
            self._since.pop(device, None)
            return None
        if now - self._since.setdefault(device, now) < self.look_seconds:
            return None
        what = "answered for" if is_loaded else "loaded the model in"
        return (
            f"{name} has not {what} {now - since:,.0f} s; a slow model may need a --device-timeout "
            f"above {limit:g}"
        )
