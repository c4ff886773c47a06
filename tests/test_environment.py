"""What a newcomer types first: the environment files agree, and `make` does what it says."""

import ast
import importlib.metadata
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from lib.config import ROOT, Settings
from lib.run import NOTEBOOKS

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"(?m)^([a-z][a-z-]*):", MAKEFILE))
DOCUMENTS = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "docs/real_memes.md",
    "models/README.md",
    "scripts/README.md",
    "tests/README.md",
    *map("Step_{}.md".format, NOTEBOOKS),
]
# Everything that names files and modules, in words or in code; the changelog may name old ones.
SPEAKING = [
    path
    for pattern in ("*.md", "*/*.md", "Step_*/*.ipynb", "Step_3/*.py", "configs/*.yaml", "Makefile")
    for path in sorted(ROOT.glob(pattern))
    if path.name != "CHANGELOG.md"
] + [path for folder in ("lib", "scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py")]


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    # A make that runs the tests would hand its own options down to this one.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", *arguments]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def dry_run(*arguments: str) -> str:
    done = make("--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_conda_and_pip_install_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == PROJECT["dependencies"]
    assert f"python{PROJECT['requires-python']}" in conda


def test_every_dependency_has_a_reason():
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    dependencies = [line for line in lines if re.match(r"\s+- \w", line)]
    bare = [line for line in dependencies if "#" not in line]
    assert [line.split()[1] for line in bare] == ["conda-forge", "python>=3.11", "pip", "pip:"]


def packages_of(folder: str) -> dict[str, str]:
    """The third-party packages that the files below a folder import, each with one such file."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                found.setdefault(name.partition(".")[0], str(path.relative_to(ROOT)))
    own = {path.stem for own in (folder, "scripts") for path in (ROOT / own).glob("*.py")}
    own |= {"lib", "tests"}
    return {n: path for n, path in found.items() if n not in sys.stdlib_module_names | own}


def wanted_by(*extras: str) -> list[Requirement]:
    """What the project and some of its extras require, with the extras that those name."""
    wanted = [*map(Requirement, PROJECT["dependencies"])]
    for extra in extras:
        for found in map(Requirement, PROJECT["optional-dependencies"][extra]):
            own = canonicalize_name(found.name) == PROJECT["name"]
            wanted += wanted_by(*found.extras) if own else [found]
    return wanted


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("lib", ["ocr", "export", "serve", "page", "ray"]),
        ("scripts", []),
        ("tests", ["test", "ray"]),
        ("benchmarks", ["test", "bench"]),
    ],
)
def test_what_is_imported_is_declared(folder, extras):
    declared = {canonicalize_name(found.name) for found in wanted_by(*extras)}
    sold_as = importlib.metadata.packages_distributions()
    undeclared = {
        name: path
        for name, path in packages_of(folder).items()
        # What is not installed is named as it is imported.
        if declared.isdisjoint(map(canonicalize_name, sold_as.get(name, [name])))
    }
    assert not undeclared


def test_the_calibration_wing_needs_four_packages():
    assert set(packages_of("lib/calibration")) == {"numpy", "pandas", "scipy", "sklearn"}


def test_what_make_installs_is_pinned_within_its_bounds():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): Version(version) for name, version in pins.items()}
    wanted = wanted_by("test", "bench", "ray")
    missing = [r.name for r in wanted if canonicalize_name(r.name) not in pins]
    assert not missing
    outside = [str(r) for r in wanted if pins[canonicalize_name(r.name)] not in r.specifier]
    assert not outside


def test_help_lists_every_target():
    listed = {line.split()[0] for line in make("help").stdout.splitlines()}
    assert listed == TARGETS
    phony = set(re.search(r"(?m)^\.PHONY:(.*)$", MAKEFILE).group(1).split())
    assert phony == TARGETS


def test_make_alone_shows_the_help():
    assert make().stdout == make("help").stdout


@pytest.mark.parametrize(
    "text",
    [
        'it\'s "you"',
        "costs $5",
        "costs $$5, $(HOME) and ${HOME}",
        "$(shell echo no) `echo no`",
        "back\\slash \\n, 100% #1; a=b & c",
        "$",
        "two\nlines",
    ],
)
def test_demo_takes_any_text(text):
    # --assume-old: whatever the set-up's state, this must not install anything.
    echo = ["--assume-old=.venv/.ready", "RUN=printf %s\\\\n"]
    done = make("demo", *echo, f"TEXT={text}", "IMAGE=a $b.png")
    assert done.stdout == f"-m\nlib.serving\n--mode\npilot\n--text\n{text}\n--image\na $b.png\n"


def test_a_folder_of_any_name_is_given_as_it_was_typed():
    folder = 'my $b\'s "memes"'
    done = make("pilot", "--assume-old=.venv/.ready", "RUN=printf '%s\\n'", f"DATA={folder}")
    assert done.stdout.endswith(f"\n--data\n{folder}\n")


def test_without_cuda_pytorch_comes_from_its_own_index():
    index = re.search(r"(?m)^CPU_INDEX := (\S+)$", MAKEFILE).group(1)
    plain, cpu = (dry_run("setup", "--always-make", *more) for more in ([], ["CPU=1"]))
    assert index not in plain
    (line,) = (line for line in cpu.splitlines() if index in line)
    # Nothing else from there: what they need is pinned to versions of the common index.
    assert line.endswith(f"--no-deps --index-url {index} torch torchvision")
    assert "--constraint constraints.txt" in line
    assert cpu.replace(line + "\n", "") == plain


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["pilot"], "python -m lib.run --config configs/pilot.yaml"),
        (["pilot", "DATA=my memes"], 'lib.run --config configs/pilot.yaml --data "$MEME_DATA"'),
        (["pilot", "FROM=6"], "lib.run --config configs/pilot.yaml  --from 6"),
        (["full"], "lib.run --config configs/full.yaml"),
        (["full", "CONFIG=configs/confounders.yaml"], "--config configs/confounders.yaml"),
        (["full", "CONFIG=my runs/a.yaml"], '--config "my runs/a.yaml"'),
        (["full", "FROM=5"], "lib.run --config configs/full.yaml  --from 5"),
        (["full", "FROM=5", "OVERWRITE=1"], "configs/full.yaml  --from 5 -p overwrite true"),
        (["pilot", "OVERWRITE=1"], "lib.run --config configs/pilot.yaml   -p overwrite true"),
        (["test"], "--dist loadfile --no-loadscope-reorder --max-worker-restart 0\n"),
        (["coverage"], "--cov=lib"),
        (["test"], "python -m mypy\n"),
        (["lab"], "-m jupyter lab"),
        (["notebooks"], "-m lib.notebooks"),
    ],
)
def test_a_target_runs_its_command(arguments, command):
    assert command in dry_run(*arguments)


def test_make_test_runs_every_notebook_through_nbval_outside_the_project():
    line = next(line for line in dry_run("test").splitlines() if "--nbval-lax" in line)
    assert not [path for path in NOTEBOOKS.values() if path not in dry_run("test")]
    assert 'MEMES_ROOT="$root"' in line and "--nbval-current-env" in line


def test_before_a_commit_the_checks_of_lint_run():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (local,) = hooks["repos"]
    lint = dry_run("--assume-old=.venv/.ready", "lint")
    assert [hook["entry"] for hook in local["hooks"]] == lint.splitlines()


def test_configurations_hold_valid_settings():
    modes = {path.stem: Settings.from_file(path).mode for path in (ROOT / "configs").glob("*.yaml")}
    assert modes.pop("pilot") == "pilot"
    assert {"full", "confounders"} <= modes.keys() and set(modes.values()) == {"full"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_targets_and_files_that_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    in_code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"(?ms)^```\w*\n(.*?)^```", text)
    called = {target for code in in_code for target in re.findall(r"\bmake ([a-z-]+)", code)}
    assert called <= TARGETS
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    broken = [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    assert not broken


def test_files_and_modules_that_are_named_exist():
    wrong = set()
    for path in SPEAKING:
        text, folders = path.read_text(encoding="utf-8"), "lib|tests|scripts|configs|benchmarks"
        files = re.findall(rf"(?<![\w/.-])((?:{folders})/[\w/.-]*\w(?:\.\w+|/))(?![\w<*])", text)
        modules = re.findall(r"(?<![\w./-])lib(?:\.\w+)+", text)
        missing = [name for name in files if not (ROOT / name).exists()]
        missing += [name for name in modules if not resolves(name)]
        wrong |= {f"{path.relative_to(ROOT)}: {name}" for name in missing}
    assert not wrong


def resolves(dotted: str) -> bool:
    """Whether a dotted name under `lib` is a package, a module, or a name in one of them."""
    place = ROOT
    for part in dotted.split("."):
        if (place / part).is_dir():
            place = place / part
        elif (place / f"{part}.py").is_file():
            place = place / f"{part}.py"
        else:
            source = place if place.is_file() else place / "__init__.py"
            return bool(re.search(rf"\b{part}\b", source.read_text(encoding="utf-8")))
    return True


@pytest.mark.parametrize("step", NOTEBOOKS)
def test_a_document_names_settings_that_exist(step):
    document = (ROOT / f"Step_{step}.md").read_text(encoding="utf-8")
    section = document.partition("\n## 1. Settings\n")[2].partition("\n## 2. ")[0]
    first_cells = re.findall(r"(?m)^\| (`[^|]*) \|", section)
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert named <= set(Settings.model_fields)


@pytest.mark.parametrize("step", NOTEBOOKS)
def test_a_document_s_checks_run_on_what_its_step_wrote(step, full_root):
    """The commands under the last heading, on a full run instead of the pilot they speak of."""
    document = (ROOT / f"Step_{step}.md").read_text(encoding="utf-8")
    last = document[document.rindex("\n## ") :]
    (commands,) = re.findall(r"(?ms)^```bash\n(.*?)^```", last)
    commands = commands.replace("pilot", full_root.mode).replace(".venv/bin/python", sys.executable)
    commands = re.sub(r"\b(Step_3|models)/", r"\1/full/", commands)
    done = subprocess.run(
        ["bash", "-e", "-c", commands],
        cwd=full_root.root,
        env={**os.environ, "MEMES_ROOT": str(full_root.root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("file", [".ci/run", ".github/workflows/ci.yml", ".circleci/config.yml"])
def test_continuous_integration_calls_the_same_targets(file):
    called = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / file).read_text(encoding="utf-8")))
    assert {"pilot", "test"} <= called <= TARGETS


def test_a_python_too_old_is_one_clear_line(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    old = tmp_path / "python3.8"
    pretend = "import sys; sys.version_info = (3, 8, 10); exec(sys.argv[1])"
    old.write_text(
        f'#!/bin/sh\nif [ "$1" = -V ]; then echo Python 3.8.10; exit; fi\n'
        f'[ "$1" = -c ] || exit 9\nexec "{sys.executable}" -c "{pretend}" "$2"\n'
    )
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    done = make("pilot", f"PYTHON={old}", folder=tmp_path)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert len(lines) == 1
    assert "3.11" in lines[0] and "3.8.10" in lines[0] and "PYTHON=" in lines[0]
    assert not (tmp_path / ".venv").exists()
