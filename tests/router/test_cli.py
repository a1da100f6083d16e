"""The command line: subcommands found by entry point, mistakes in one line."""

import subprocess
import sys
from importlib import metadata
from typing import Any

import click
import pytest

import router.cli
from router.errors import DataError


class Entry:
    """An entry point that holds its command, or fails to import it."""

    def __init__(self, name: str, found: click.Command | Exception) -> None:
        self.name = name
        self.found = found

    def load(self) -> click.Command:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Entries(list[Entry]):
    @property
    def names(self) -> set[str]:
        return {entry.name for entry in self}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replaces the installed commands by those given."""

    def install(**commands: Any) -> None:
        entries = [
            Entry(name, found if isinstance(found, Exception) else click.Command(name, callback=found))
            for name, found in commands.items()
        ]

        def entry_points(group: str, name: str | None = None) -> Entries:
            assert group == "pointsman.commands"
            return Entries(entry for entry in entries if name in (None, entry.name))

        monkeypatch.setattr(router.cli.metadata, "entry_points", entry_points)

    return install


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        router.cli.main(args)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_every_command_of_the_distribution_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for name in ("demo", "doctor", "evaluate", "route", "serve", "train"):
        assert name in shown


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert metadata.version("pointsman") in capsys.readouterr().out


def test_a_command_that_ends_well_exits_with_zero(install: Any) -> None:
    install(fine=lambda: None)
    assert run("fine") == 0


def test_a_command_may_choose_its_exit_code(install: Any) -> None:
    install(check=lambda: click.get_current_context().exit(1))
    assert run("check") == 1


def test_an_unknown_command_is_a_mistake_of_usage(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    install(fine=lambda: None)
    assert run("fune") == 2
    assert "No such command 'fune'" in capsys.readouterr().err


def test_an_error_of_ours_is_one_line_and_no_traceback(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def train() -> None:
        raise DataError("x.csv, row 3: the column 'model' is empty")

    install(train=train)
    assert run("train") == 2
    assert capsys.readouterr().err == "pointsman: x.csv, row 3: the column 'model' is empty\n"


def test_an_interrupted_command_exits_as_the_shell_expects(install: Any) -> None:
    def serve() -> None:
        raise KeyboardInterrupt

    install(serve=serve)
    assert run("serve") == 130


def test_a_fault_of_ours_keeps_its_traceback(install: Any) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    install(broken=broken)
    with pytest.raises(ZeroDivisionError):
        router.cli.main(["broken"])


@pytest.mark.parametrize("when", ["import", "run"])
def test_a_missing_extra_says_what_to_install(install: Any, capsys: pytest.CaptureFixture[str], when: str) -> None:
    missing = ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow.parquet")

    def train() -> None:
        raise missing

    install(train=missing if when == "import" else train)
    assert run("train") == 2
    assert "pip install 'pointsman[train]'" in capsys.readouterr().err


def test_a_command_that_cannot_be_imported_does_not_hide_the_others(
    install: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    install(train=ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow"), fine=lambda: None)
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert "not installed: pyarrow" in shown
    assert "fine" in shown


def test_only_the_command_that_runs_is_imported() -> None:
    code = (
        "import sys, router.cli\n"
        "try: router.cli.main(['--version'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'gateway', 'training', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
