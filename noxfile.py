"""Test sessions: one environment per backend, one without any, and the linters.

`nox` runs them all. mace-torch pins e3nn==0.4.4 and nequip needs e3nn>=0.6, so the
two never share an ordinary environment; `mace_e3nn06` installs MACE without its
dependencies beside nequip's e3nn, to prove both e3nn versions.
"""

import nox


nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

# Tested against this release; the package itself only states a lower bound. Where a
# CPU build is wanted: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
TORCH = "torch==2.13.0"

TESTING = ["pytest", "pytest-xdist"]

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


def install(session: nox.Session, *requirements: str) -> None:
    session.install("-q", TORCH)
    session.install("-q", *requirements)


def run_tests(session: nox.Session, *folders: str) -> None:
    # Most of the time is the start of processes that the tests wait for.
    session.run("pytest", *folders, "-n", "2", "--dist", "worksteal", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    install(session, "-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")


@nox.session
def core(session: nox.Session) -> None:
    """Run with no backend installed, from a built wheel."""
    install(session, ".", *TESTING)
    run_tests(session, "tests")


@nox.session
def mace(session: nox.Session) -> None:
    install(session, "-e", ".[mace]", *TESTING)
    run_tests(session, "tests")


@nox.session
def nequip(session: nox.Session) -> None:
    install(session, "-e", ".[nequip]", *TESTING)
    # The commands run in the other two; here what depends on the network.
    run_tests(
        session,
        "tests/unit",
        "tests/meta",
        "tests/backends",
        "tests/integration/test_ddp.py",
        "tests/integration/test_nequip_module.py",
        "tests/integration/test_nequip_train.py",
        "tests/integration/test_resume.py",
    )


@nox.session
def nequix(session: nox.Session) -> None:
    install(session, "-e", ".[nequix]", *TESTING, *NEQUIX_REQUIREMENTS)
    session.install("-q", "--no-deps", "nequix")
    run_tests(session, "tests/backends")


@nox.session
def mace_e3nn06(session: nox.Session) -> None:
    install(session, "-e", ".[nequip]", *TESTING, *MACE_REQUIREMENTS)
    session.install("-q", "--no-deps", "mace-torch")
    run_tests(session, "tests/backends")
