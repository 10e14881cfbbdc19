"""How the command line meets its user: errors in one line, exit statuses, plugins."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

USER_ERROR, INTERRUPTED = 2, 130


def faces_user(command: Callable[..., int]) -> Callable[..., None]:
    """Turn what goes wrong into one line and an exit status."""

    @wraps(command)
    def wrapped(**options: Any) -> None:
        from mpp_jax.memory import keep_freed_memory

        keep_freed_memory()
        try:
            _load_plugins(options.pop("plugins", ()))
            status = command(**options)
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            message = _user_message(error)
            if message is None or os.environ.get("MPP_JAX_TRACEBACK"):
                raise
            click.echo(f"error: {message}", err=True)
            status = USER_ERROR
        except KeyboardInterrupt:
            click.echo("interrupted; what was done is kept, run the command again", err=True)
            status = INTERRUPTED
        sys.exit(status)

    return wrapped


def _load_plugins(files: Sequence[Path]) -> None:
    for file in files:
        from mpp_jax.pooling import load_plugin

        load_plugin(file)


def _user_message(error: Exception) -> str | None:
    """One line about what went wrong; None for a fault of the program itself."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        return f"out of memory; use fewer --scales, --samples or --components ({text[:200]})"
    if isinstance(error, RuntimeError):
        return None
    # File names need not be valid UTF-8; a message must not fail for that.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text or type(error).__name__


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
