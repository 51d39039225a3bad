"""The command line as such."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kvstore.cli import main
from kvstore.cli.output import bytes_text, duration_text, printable


def test_help_lists_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kvstore", "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    output = capsys.readouterr().out
    assert "demo " in output
    assert "doctor " in output
    assert "..." not in output.partition("Commands:")[2]


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_packages_it_says_what_to_install(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from kvstore.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"kvstore: the command line needs {missing}: pip install 'kvstore[cli]'\n"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (150 << 20, "150 MiB"), (3 << 50, "3.0 PiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0001764, "176 us"), (0.00125, "1.25 ms"), (0.0412, "41 ms"), (2.04, "2.0 s")],
)
def test_times(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_name_cannot_write_to_the_terminal() -> None:
    assert printable(b"a\x1b[2Jb\n\xff\xc3\xa9") == "a\\x1b[2Jb\\n\\xff\u00e9"
