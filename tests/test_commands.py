import shlex
import subprocess
import sys

import pytest

from lib import commands
from lib.commands import GIVEN, advise, again, handed_down, run_command


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch):
    monkeypatch.delenv(GIVEN, raising=False)
    monkeypatch.setattr(commands, "_advised", {})


def test_a_command_works_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = run_command({"data": "my memes", "root": None}, [("dataset", "it's")])
    program = "import sys; print(sys.argv[1:])"
    done = subprocess.run(
        ["bash", "-c", typed.replace("-m lib.run", f"-c {shlex.quote(program)}")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(["--data", "my memes", "-p", "dataset", "it's"])


def test_the_interpreter_is_named_as_from_the_folder_one_is_in(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert again(4).startswith(f"{tmp_path}/.venv/bin/python -m lib.run")
    monkeypatch.chdir(tmp_path)
    assert again(4) == ".venv/bin/python -m lib.run --from 4"


def test_without_a_command_mode_and_root_are_named(tmp_path):
    advise("full", None)
    assert again(6).endswith("-m lib.run --mode full --from 6")
    advise("pilot", tmp_path)
    assert again(6).endswith(f"-m lib.run --mode pilot --root {tmp_path} --from 6")


def test_a_command_that_shall_replace_says_overwrite_once():
    with handed_down("make it"):
        assert again(4, overwrite=True) == "make it -p overwrite true --from 4"
    with handed_down("make it -p overwrite true"):
        assert again(4, overwrite=True) == "make it -p overwrite true --from 4"


def test_the_command_that_was_given_wins_and_reaches_kernels():
    advise("pilot", None)
    program = "from lib.commands import again; print(again(5))"
    with handed_down("make it"):
        assert again(4) == "make it --from 4"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.stdout == "make it --from 5\n"
        with handed_down("inner"):
            assert again(4) == "inner --from 4"
        assert again(4) == "make it --from 4"
    assert again(4).endswith("--mode pilot --from 4")
