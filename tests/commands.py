"""The commands as users start them, without the seconds that their imports take.

A command runs in a process of its own, forked from one that has imported everything:
its arguments, environment, working folder, signals and exit status are those of a
command typed into a shell. ``test_installed_commands.py`` starts each of them for real.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path

import platformdirs


MODULES = {
    name: f"pft_lightning.cli.{name.removeprefix('pft-')}"
    for name in ("pft-evaluate", "pft-export", "pft-prepare", "pft-train")
}
# Commands of frameworks are imported when they are run.
COMMANDS = {**MODULES, "nequip-train": "nequip.scripts.train"}
# Those of frameworks that are not installed are left out.
PRELOADED = [
    *MODULES.values(),
    "pft_lightning.conf",  # what configurations are composed of
    *(f"pft_lightning.backends.{name}" for name in ("mace", "nequip", "nequix")),
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


@functools.lru_cache(maxsize=1)
def _start_server() -> None:
    """Start what is forked where no source tree hides the installed package."""
    before = Path.cwd()
    os.chdir(tempfile.gettempdir())
    try:
        forkserver.ensure_running()
    finally:
        os.chdir(before)


class Command:
    """A running command; what tests use of ``subprocess.Popen``.

    Args:
        name: as installed, e.g. "pft-train".
        arguments: of the command line.
        cwd: working folder; that of the tests by default.
        environment: added to that of the tests.
        merged: whether errors stand in the standard output, in their order.
        n_processes: of a distributed run, started as its launcher would start them.
    """

    def __init__(
        self,
        name: str,
        *arguments: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        merged: bool = False,
        n_processes: int = 1,
    ) -> None:
        _start_server()
        self._output = Path(tempfile.mkdtemp(prefix="pft-command-"))
        argv = [str(Path(sys.executable).with_name(name)), *map(str, arguments)]
        base = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        outputs = [str(self._output / stream) for stream in ("out", "err")]
        self._processes = [
            _context.Process(
                target=_run,
                args=(argv, str(cwd or Path.cwd()), base | ranks, outputs, merged),
            )
            for ranks in _ranks(n_processes)
        ]
        for process in self._processes:
            process.start()

    @property
    def returncode(self) -> int | None:
        """That of the first process which did not end well, or 0."""
        codes = [process.exitcode for process in self._processes]
        return None if None in codes else next(filter(None, codes), 0)

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        for process in self._processes:
            if process.exitcode is None:
                os.kill(process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 300) -> int:
        for process in self._processes:
            process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(str(self._output), timeout)
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for the end; give the standard output and the standard error."""
        self.wait(timeout)
        out, err = (
            (self._output / name).read_text(encoding="utf-8", errors="replace")
            for name in ("out", "err")
        )
        return out, err


def run_command(name: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run a command to its end; what ``subprocess.run`` gives with captured text."""
    command = Command(name, *arguments, **options)
    stdout, stderr = command.communicate()
    return subprocess.CompletedProcess(
        [name, *arguments], command.returncode, stdout, stderr
    )


def own_cache(folder: Path) -> dict[str, str]:
    """The environment of a user whose cache holds nothing but the compiled C code.

    That takes twenty seconds to compile; ``test_compiled_cache.py`` is about it.
    """
    compiled = Path(platformdirs.user_cache_dir("pft_lightning"), "compiled")
    compiled.mkdir(parents=True, exist_ok=True, mode=0o700)
    own = folder / "pft_lightning"
    own.mkdir(parents=True)
    (own / "compiled").symlink_to(compiled)
    return {"XDG_CACHE_HOME": str(folder)}


def _ranks(n_processes: int) -> list[dict[str, str]]:
    """What Lightning's launcher tells each process of a run on one machine."""
    if n_processes == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "NODE_RANK": "0",
        "WORLD_SIZE": str(n_processes),
    }
    return [{**shared, "LOCAL_RANK": str(rank)} for rank in range(n_processes)]


def _run(
    argv: list[str],
    cwd: str,
    environment: dict[str, str],
    outputs: list[str],
    merged: bool,
) -> None:
    for number, path in enumerate(outputs, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    if merged:
        os.dup2(1, 2)
    # What a shell leaves to its commands, whatever started the tests ignores.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = argv
    importlib.import_module(COMMANDS[Path(argv[0]).name]).main()
