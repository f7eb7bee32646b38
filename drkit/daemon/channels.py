"""Ways to a person: an HTTP request, a command. Each delivers one event or says why not, within its time."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Protocol

from drkit.config.secrets import Hook
from drkit.core.cancel import CancelToken
from drkit.core.errors import Cancelled, DrkitError, Failed, Unreachable

_KEPT_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")


class Channel(Protocol):
    """name: of its outbox."""

    name: str

    def send(self, text: str, token: CancelToken) -> None:
        """Deliver one event (JSON). Raises DrkitError; Cancelled soon after `token` is cancelled."""
        ...


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An event, and the secret header with it, goes where the configuration says and nowhere else."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> None:
        return None


class Webhook:
    """POST of the event as JSON; delivered is any 2xx. hook: read for each event, so that a secret may be exchanged.

    A name that does not resolve or a server that drips can hold a thread for minutes: the request runs in one of its
    own, which is left behind at the deadline; as long as it is stuck no other is begun.
    """

    name = "webhook"

    def __init__(self, hook: Callable[[], Hook], timeout_s: float, version: str) -> None:
        self._hook, self._timeout_s, self._version = hook, timeout_s, version
        self._stuck: threading.Thread | None = None

    def send(self, text: str, token: CancelToken) -> None:
        if self._stuck is not None and self._stuck.is_alive():
            raise Unreachable("the webhook does not answer", why="an earlier request still hangs")
        hook, failure, done = self._hook(), list[DrkitError](), threading.Event()

        def work() -> None:
            try:
                self._post(hook, text)
            except DrkitError as error:
                failure.append(error)
            finally:
                done.set()

        thread = threading.Thread(target=work, name="webhook", daemon=True)
        thread.start()
        forget = token.on_cancel(done.set)
        ended = done.wait(self._timeout_s)
        forget()
        thread.join(timeout=0.1)
        if thread.is_alive():
            self._stuck = thread
            token.check()
            why = f"no answer in {self._timeout_s:g} s" if not ended else "it was given up"
            raise Unreachable("the webhook does not answer", why=why)
        if failure:
            raise failure[0]

    def _post(self, hook: Hook, text: str) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": f"drkit/{self._version}"}
        if hook.header[0]:
            headers[hook.header[0]] = hook.header[1]
        try:
            request = urllib.request.Request(hook.url, text.encode(), headers, method="POST")
            opener = urllib.request.build_opener(_NoRedirect)
            with opener.open(request, timeout=self._timeout_s) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            raise Failed("the webhook refused the event", why=f"it answered {error.code}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            timed_out = isinstance(error, TimeoutError)
            why = "timed out" if timed_out else str(getattr(error, "reason", "")) or type(error).__name__
            raise Unreachable("the webhook cannot be reached", why=why) from None
        if not 200 <= status < 300:
            raise Failed("the webhook refused the event", why=f"it answered {status}")


class Command:
    """A program with the event on its stdin; delivered is exit 0. It gets no secret of ours in its environment."""

    name = "command"

    def __init__(self, words: Sequence[str], timeout_s: float, environment: Mapping[str, str]) -> None:
        self._words, self._timeout_s = list(words), timeout_s
        self._environment = {key: environment[key] for key in _KEPT_VARIABLES if key in environment}

    def send(self, text: str, token: CancelToken) -> None:
        where = self._words[0]
        try:
            child = subprocess.Popen(
                self._words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            cure = "it is run without a shell: name it by its whole path"
            raise Failed("the command does not start", where=where, why=str(error), cure=cure) from error
        forget = token.on_cancel(lambda: _end(child))
        try:
            child.communicate(text.encode(), timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            why = f"it was ended after {self._timeout_s:g} s"
            raise Failed("the command did not end", where=where, why=why) from None
        finally:
            forget()
            _end(child)
            child.wait()
        if token.cancelled:
            raise Cancelled("cancelled", why=token.reason)
        if child.returncode != 0:
            raise Failed("the command failed", where=where, why=f"exit {child.returncode}")


def _end(child: subprocess.Popen[bytes]) -> None:
    """It and its group, unless it was reaped: then its number may be somebody else's."""
    if child.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
