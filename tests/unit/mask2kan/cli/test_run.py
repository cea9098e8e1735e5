"""Exit status and message of a command, whatever it ends with."""

import argparse

import pytest
import torch

import mask2kan
from mask2kan.cli.run import run_command
from mask2kan.errors import ConfigError


def parser():
    return argparse.ArgumentParser(prog="python -m training.nothing")


def raising(error):
    def command(_):
        raise error

    return command


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        (lambda _: None, 0, ""),
        (lambda _: 1, 1, ""),
        (raising(ConfigError("two\nlines")), 2, "error: two lines\n"),
        (raising(FileNotFoundError(2, "No such file", "x")), 2, "No such file: 'x'\n"),
        (raising(KeyboardInterrupt()), 130, "Stopped.\n"),
    ],
)
def test_statuses_and_messages(command, status, message, capsys):
    assert run_command(parser(), command, []) == status
    error = capsys.readouterr().err
    assert error.endswith(message)
    assert "Traceback" not in error


def test_versions_and_device(capsys):
    """Of every command, whatever else it requires."""
    demanding = parser()
    demanding.add_argument("recipe")
    with pytest.raises(SystemExit) as stopped:
        run_command(demanding, raising(ZeroDivisionError()), ["--version"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"mask2kan {mask2kan.__version__}, torch {torch.__version__}, Python 3.")
    assert told.strip().rpartition("device ")[2].split()[0] in {"cpu", "cuda"}


def test_a_defect_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(parser(), raising(ZeroDivisionError()), [])
    with pytest.raises(SystemExit) as stopped:
        run_command(parser(), raising(ZeroDivisionError()), ["unexpected"])
    assert stopped.value.code == 2
