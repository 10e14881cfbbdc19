"""How the command line meets its user: errors in one line, exit statuses, plug-ins."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click

from mpp_jax.cli.places import at_hand
from mpp_jax.cli.signals import INTERRUPTED, MESSAGE, obeyed, status_of
from mpp_jax.files import is_full, without_secrets
from mpp_jax.joblog import JobLog, logged
from mpp_jax.remote.mirror import shown

USER_ERROR, INTERNAL_ERROR, CLOSED_PIPE = 2, 70, 141
TRACEBACK = "MPP_JAX_TRACEBACK"
"""Environment variable: raise errors instead of printing one line."""


def faces_user(command: Callable[..., int]) -> Callable[..., None]:
    """Turn what goes wrong into one line and an exit status.

    2: the user's mistake, or a file or machine that cannot be used. 70: any other exception, whose
    traceback the variable MPP_JAX_TRACEBACK shows. 130, 143: interrupted, by SIGINT or SIGTERM.
    """

    @wraps(command)
    def wrapped(**options: Any) -> None:
        from mpp_jax.memory import keep_freed_memory

        _encode_anything()
        keep_freed_memory()
        try:
            with logged(options.pop("log", None), command.__name__, options) as log:
                status = _faced(command, options, log)
                log.end(status)
        except OSError as error:  # of the log itself
            status = _told(error)
        sys.exit(status)

    return wrapped


def _faced(command: Callable[..., int], options: dict[str, Any], log: JobLog) -> int:
    """Run a command; return its exit status, after what went wrong was said."""
    from mpp_jax.cli.compilation import programs_kept

    try:
        with obeyed(), programs_kept(_unless_quiet(options.get("quiet", False))):
            _load_plugins(options.pop("plugins", ()))
            with _devices(options), at_hand(options):
                return command(**options)
    except BrokenPipeError:
        # Whoever read the output has enough; Python would complain again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except Exception as error:
        return _told(error, log)
    except KeyboardInterrupt as error:
        message = "; ".join(getattr(error, "__notes__", [MESSAGE]))
        log.write("error", status=status_of(error), message=message)
        click.echo(message, err=True)
        return status_of(error)


def _told(error: Exception, log: JobLog | None = None) -> int:
    """Say what went wrong in one line, or raise it where that is wanted; return the status."""
    status, message = _explained(error)
    message = shown(message)
    if log is not None:
        log.write("error", status=status, message=without_secrets(message))
    if os.environ.get(TRACEBACK):
        raise error
    click.echo(f"error: {message}", err=True)
    return status


def _encode_anything() -> None:
    """Let names that a terminal cannot show be escaped instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _unless_quiet(quiet: bool) -> Callable[[str], object]:
    """Return what says a line on standard error, or says nothing."""
    return (lambda line: None) if quiet else (lambda line: click.echo(line, err=True))


def _load_plugins(files: Sequence[Path]) -> None:
    for file in files:
        from mpp_jax.pooling import load_plugin

        load_plugin(file)


@contextmanager
def _devices(options: dict[str, Any]) -> Iterator[None]:
    """Spread what a command that has --devices computes over as many, and say so."""
    if "devices" not in options:
        yield
        return
    from mpp_jax.devices import using_devices

    with using_devices(options.pop("devices")) as count:
        if count > 1 and not options.get("quiet"):
            click.echo(f"spread over {count} devices", err=True)
        yield


def _explained(error: Exception) -> tuple[int, str]:
    """Return (exit status, one line about what went wrong)."""
    text = " ".join(str(error).split())
    if _says_full(error):
        place = f" at {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return USER_ERROR, (
            f"no space left on the disk{place}; what was done is kept: make room and give the same "
            "command again"
        )
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        return USER_ERROR, (
            f"out of memory; use fewer --scales, --samples or --components ({text[:200]})"
        )
    if "Unable to initialize backend" in text or "no platforms" in text:
        chosen = os.environ.get("JAX_PLATFORMS", "")
        return USER_ERROR, (
            f"JAX finds no device of JAX_PLATFORMS={chosen}; unset it, or install JAX for that "
            f"device ({text[:200]})"
        )
    if isinstance(error, ValueError | OSError):
        return USER_ERROR, text or type(error).__name__
    return INTERNAL_ERROR, (
        f"{type(error).__name__}: {text[:500]} (a fault of the program or of a plug-in; set "
        f"{TRACEBACK}=1 to see where)"
    )


def _says_full(error: BaseException | None) -> bool:
    """Return whether an error, or what caused it, says that there is no space left."""
    while error is not None:
        if is_full(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class OneLineErrors(click.Group):
    """A group whose usage errors are one line, like all other errors."""

    def main(  # type: ignore[override]  # click overloads it on standalone_mode
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run the command line; see `click.Command.main`."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        try:
            sys.exit(super().main(args, standalone_mode=False, **extra) or 0)
        except click.ClickException as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help text
                click.echo(error.format_message(), err=True)
                sys.exit(USER_ERROR)
            context = getattr(error, "ctx", None)
            hint = f" (see {context.command_path} --help)" if context is not None else ""
            message = " ".join(error.format_message().split())
            click.echo(f"error: {message}{hint}", err=True)
            sys.exit(USER_ERROR)
        except click.Abort:
            sys.exit(INTERRUPTED)
