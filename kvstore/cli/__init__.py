"""The command line: ``kvstore`` and ``python -m kvstore``.

One module per command, and each keeps what it finds out apart from how it is shown. Only here are
typer and rich needed; ``pip install 'kvstore[cli]'`` brings them.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from kvstore.errors import KVStoreError

if TYPE_CHECKING:
    import typer

__all__ = ["main"]


def main() -> int:
    """Runs the command that ``sys.argv`` names; returns the exit status or raises SystemExit.

    An error of kvstore is one line on stderr and status 1; a wrong command line is status 2, and so
    are missing packages.
    """
    try:
        app = _build_app()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("rich", "typer"):
            raise
        print(
            f"kvstore: the command line needs {missing}: pip install 'kvstore[cli]'",
            file=sys.stderr,
        )
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may be beyond what the terminal's encoding has; that must not end a command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except KVStoreError as error:
        print(f"kvstore: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _build_app() -> typer.Typer:
    import typer

    from kvstore.cli.demo import demo
    from kvstore.cli.doctor import doctor

    app = typer.Typer(
        help="An embedded, ordered, crash-safe key-value store.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    # A callback makes typer expect the name of a command, however many there are.
    app.callback()(lambda: None)
    app.command()(demo)
    app.command()(doctor)
    return app
