"""The commands as users start them, without the seconds that their imports take.

A command runs in a process of its own, forked from one that has imported everything:
its arguments, environment, working folder, signals and exit status are those of a
command typed into a shell. ``test_installed_commands.py`` starts each of them for real.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path


MODULES = {
    name: f"pft_lightning.cli.{name.removeprefix('pft-')}"
    for name in ("pft-evaluate", "pft-export", "pft-prepare", "pft-train")
}
# Those of frameworks that are not installed are left out.
PRELOADED = [
    *MODULES.values(),
    *(f"pft_lightning.backends.{name}" for name in ("mace", "nequip", "nequix")),
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class Command:
    """A running command; what tests use of ``subprocess.Popen``.

    Args:
        name: as installed, e.g. "pft-train".
        arguments: of the command line.
        cwd: working folder; that of the tests by default.
        environment: added to that of the tests.
        merged: whether errors stand in the standard output, in their order.
    """

    def __init__(
        self,
        name: str,
        *arguments: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        merged: bool = False,
    ) -> None:
        self._output = Path(tempfile.mkdtemp(prefix="pft-command-"))
        self._process = _context.Process(
            target=_run,
            args=(
                [str(Path(sys.executable).with_name(name)), *map(str, arguments)],
                str(cwd or Path.cwd()),
                {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
                [str(self._output / name) for name in ("out", "err")],
                merged,
            ),
        )
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 300) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self._process.exitcode

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
    importlib.import_module(MODULES[Path(argv[0]).name]).main()
