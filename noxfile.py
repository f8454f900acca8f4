"""Test sessions: one environment per backend, one without any, and the linters.

`nox` runs them all but those that run when they are named: the compatibility sessions,
`nox -s lowest phonopy3 newest`, and `nox -s asan` for changes to the C sources.
mace-torch pins e3nn==0.4.4 and nequip needs e3nn>=0.6, so the two never share an
ordinary environment; `mace_e3nn06` installs MACE without its dependencies beside
nequip's e3nn, to prove both e3nn versions.
"""

import functools
import subprocess
import sys
from pathlib import Path

import nox


# uv links the files of a package into every environment: seconds in place of minutes.
nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_existing_virtualenvs = True

# Tested against this release; the package itself only states a lower bound. Where a
# CPU build is wanted: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
TORCH = "torch==2.13.0"

TESTING = ["pytest>=8", "pytest-xdist>=3.6"]

# Comes with the builds of torch for GPUs, each with its own. Its interpreter
# and its compiler run without a GPU, beside the build of torch for CPUs.
TRITON = "triton>=3.9; platform_system == 'Linux'"

# The site. ruff formats the signatures of what it documents.
SITE = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1", "ruff"]

# Tests that need a framework; everything else is tested once, in `core`.
FRAMEWORK_TESTS = [
    "tests/backends",
    "tests/integration/frameworks",
    "tests/unit/integrations",
    "tests/meta/test_imports.py",
]

# Tests of what MACE computes and what it is built of, where e3nn's version tells.
E3NN_TESTS = [
    f"tests/backends/test_{name}.py"
    for name in ("mace", "mace_export", "compiled_models")
]

# Tests that need phono3py, which one environment has.
PHONO3PY_TESTS = [
    "tests/unit/evaluation/conductivity",
    "tests/unit/third_order",
    "tests/unit/runs/test_conductivity.py",
]

# What mace-torch needs besides e3nn and torch.
MACE_REQUIREMENTS = [
    "matscipy",
    "opt_einsum",
    "torch_ema",
    "prettytable",
    "python-hostlist",
    "configargparse",
    "GitPython",
    "pandas",
    "h5py",
    "orjson",
]

# What Nequix's own calculator needs, with JAX for the CPU; without these the tests
# against it are skipped.
NEQUIX_REQUIREMENTS = ["jax", "equinox", "e3nn-jax", "jraph", "optax", "matscipy"]


@functools.lru_cache(maxsize=1)
def find_wheels() -> str:
    """Fetch the build of torch that pip is set up to take; uv reads no pip settings."""
    folder = Path(".nox", "wheels").absolute()
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
    subprocess.run([*command, "-d", str(folder), TORCH], check=True)
    return str(folder)


def install(session: nox.Session, *requirements: str) -> None:
    links = {"UV_FIND_LINKS": find_wheels(), "PIP_FIND_LINKS": find_wheels()}
    session.install("-q", TORCH, *requirements, env=links)


def run_tests(session: nox.Session, *folders: str) -> None:
    # Most of the time is the start of processes that the tests wait for; without
    # compiled modules, which uv leaves to the first import, each takes 15 s longer.
    kept = {"PYTHONDONTWRITEBYTECODE": ""}
    workers = ("-n", "2", "--dist", "worksteal")
    session.run("pytest", *folders, *workers, *session.posargs, env=kept)


@nox.session
def lint(session: nox.Session) -> None:
    install(session, "-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, where a warning is an error; docstrings are read, nothing imported."""
    session.install("-q", *SITE)
    # Remarks of the theme about its successor.
    session.run("mkdocs", "build", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def package(session: nox.Session) -> None:
    """Wheel and source archive, with what the package index shows of them."""
    session.install("-q", "build", "twine")
    out = session.create_tmp()
    session.run("python", "-m", "build", "--outdir", out, silent=True)
    session.run("twine", "check", "--strict", *map(str, Path(out).iterdir()))


@nox.session
def core(session: nox.Session) -> None:
    """Run with no backend installed, from a built wheel."""
    install(session, ".", *TESTING, TRITON)
    run_tests(session, "tests")


@nox.session
def mace(session: nox.Session) -> None:
    # phono3py for the tutorial on conductivity, whose potential is a MACE.
    install(session, "-e", ".[mace,kappa]", *TESTING, TRITON)
    run_tests(session, *FRAMEWORK_TESTS)


@nox.session
def nequip(session: nox.Session) -> None:
    install(session, "-e", ".[nequip,allegro,sevennet]", *TESTING, TRITON)
    run_tests(session, *FRAMEWORK_TESTS, "-k", "not nequix")


@nox.session
def nequix(session: nox.Session) -> None:
    install(session, "-e", ".[nequix,kappa]", *TESTING, TRITON, *NEQUIX_REQUIREMENTS)
    session.install("-q", "--no-deps", "nequix")
    run_tests(session, "tests/backends", *PHONO3PY_TESTS)


@nox.session
def mace_e3nn06(session: nox.Session) -> None:
    install(session, "-e", ".[nequip]", *TESTING, *MACE_REQUIREMENTS)
    session.install("-q", "--no-deps", "mace-torch")
    run_tests(session, *E3NN_TESTS, "-k", "not nequip and not nequix")


@nox.session(default=False)
def lowest(session: nox.Session) -> None:
    """The lowest versions of everything that pyproject names, without a backend."""
    session.install("-q", "--resolution=lowest-direct", "-e", ".", *TESTING)
    run_tests(session, "tests")


@nox.session(default=False)
def phonopy3(session: nox.Session) -> None:
    """The last phonopy before 4, which chooses other primitive cells."""
    install(session, "-e", ".", "phonopy<4", *TESTING)
    run_tests(session, "tests")


@nox.session(default=False)
def newest(session: nox.Session) -> None:
    """The newest torch that is released, with MACE."""
    session.install("-q", "--upgrade", "torch", "-e", ".[mace]", *TESTING)
    run_tests(session, "tests")


@nox.session(default=False)
def asan(session: nox.Session) -> None:
    """The C sources under gcc's sanitizers of addresses and of undefined behaviour."""
    install(session, "-e", ".", *TESTING)
    libraries = ("libasan.so", "libubsan.so", "libstdc++.so.6")
    sanitizer = {
        "CC": "gcc -fsanitize=address,undefined -fno-sanitize-recover=undefined -g",
        # Python itself is built without them. Exceptions of torch need the last one.
        "LD_PRELOAD": " ".join(map(find_gcc_library, libraries)),
        # Python and torch keep much until the process ends.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        # Small arrays of Python have neighbours that no sanitizer tells apart.
        "PYTHONMALLOC": "malloc",
    }
    # -s: what a sanitizer says before it ends the process.
    session.run("pytest", "-s", "tests/unit/kernels", *session.posargs, env=sanitizer)


def find_gcc_library(name: str) -> str:
    command = ["gcc", f"-print-file-name={name}"]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return found.stdout.strip()
