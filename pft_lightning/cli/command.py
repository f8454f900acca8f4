"""How a command starts and ends: its arguments, its errors, signals, exit status."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import hydra
import torch.distributed as dist
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig

from pft_lightning.callbacks.stopping import InterruptedTogether
from pft_lightning.cli.common import (
    describe,
    expected_cause,
    report_errors,
    shows_tracebacks,
)
from pft_lightning.cli.help import answer, nothing_given
from pft_lightning.cli.own_choices import search_conf
from pft_lightning.errors import ConfigError
from pft_lightning.options.remedies import explain, quote


_FULL_ERROR = "HYDRA_FULL_ERROR"
_OVERRIDE = re.compile(r"([~+]{0,2}[\w./@-]+)=(.*)", re.DOTALL)
# Options of Hydra itself, whose next argument is no override.
_WITH_VALUE = re.compile(
    r"--(config-path|config-name|config-dir|package|cfg|info)|-(cp|cn|cd|p|c|i)"
)
# Options that are one path each, and those that are one or a list of them.
_PATH = re.compile(
    r"out|run|base|checkpoint|mace_config|reference|paths\.run|"
    r"hydra\.(run|sweep)\.dir|callbacks\.conductivity_validation\.reference|"
    r"data\.cache_dir|model\.checkpoint|compare\.[^.]+\.checkpoint"
)
_PATHS = re.compile(
    r"phonons|upstream|structures|data\.(phonons|upstream)\.(train|val)|"
    r"callbacks\.phonon_validation\.phonons|"
    r"callbacks\.conductivity_validation\.structures"
)


# What gloo and NCCL say of a process that is gone.
_LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exited",
)


class Terminated(SystemExit):
    """SIGTERM, as an exception: what is open is closed on the way out."""


def command(
    config_name: str, *, after_stop: str | Callable[[DictConfig | None], str]
) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make a command of a function that takes a configuration.

    Expected errors, Hydra's among them, are one message and exit status 2; Ctrl-C is
    130 and SIGTERM 143, as in a shell. ``PFT_TRACEBACK=1`` or ``HYDRA_FULL_ERROR=1``
    shows tracebacks.

    Args:
        config_name: File of the configuration in ``conf``.
        after_stop: What to do after an interruption, for the message; or what says it
            of the configuration, which is None before there is one.
    """
    told: list[str] = []

    def say(config: DictConfig | None) -> str:
        return after_stop if isinstance(after_stop, str) else after_stop(config)

    def tell() -> str:
        return told[-1] if told else say(None)

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(function)
        def job(config: DictConfig) -> None:
            try:
                with _environment(_FULL_ERROR, "1" if shows_tracebacks() else None):
                    report_errors(function)(config)
            except BaseException:
                # Here: what the configuration takes from Hydra is gone after the job.
                told.append(say(config))
                raise

        main = hydra.main(
            version_base="1.3",
            config_path="pkg://pft_lightning.conf",
            config_name=config_name,
        )(job)

        @functools.wraps(function)
        def run() -> None:
            for stream in (sys.stdout, sys.stderr):
                # Å, where a terminal has none.
                with contextlib.suppress(OSError, ValueError):
                    if isinstance(stream, io.TextIOWrapper):
                        stream.reconfigure(errors="backslashreplace")
            with _stops(tell), _hydra_errors(config_name):
                if answer(config_name, sys.argv[1:]):
                    return
                if needs := nothing_given(config_name):
                    raise ConfigError(needs)
                _refuse_pickles(sys.argv[1:])
                sys.argv[1:] = search_conf(quote_paths(sys.argv[1:]))
                main()

        return run

    return decorate


@contextlib.contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set or remove a variable of the environment for a while."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@contextlib.contextmanager
def _hydra_errors(config_name: str) -> Iterator[None]:
    """Print what Hydra says about a configuration as one message; exit status 2."""
    if os.environ.get(_FULL_ERROR) == "1":
        os.environ["PFT_TRACEBACK"] = "1"
    try:
        # Hydra itself would print a traceback, and exit with status 1.
        with _environment(_FULL_ERROR, "1"):
            yield
    except Exception as error:
        # A ValueError is what Hydra makes of trainer=5.
        if isinstance(error, HydraException) or "group override" in str(error):
            text = explain(error, config_name)
        elif (cause := expected_cause(error)) is not None:
            text = describe(cause)
            if isinstance(cause, OSError):
                text += ". Another folder for the run: hydra.run.dir=..."
        else:
            raise
        if shows_tracebacks():
            raise
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def _stops(after_stop: Callable[[], str]) -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C into a message and the exit status of a shell."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if main else None
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning makes a SystemExit of an interrupted training.
        context: BaseException | None = stop
        while context is not None and not isinstance(context, KeyboardInterrupt):
            context = context.__context__
        if context is not None or isinstance(stop, InterruptedTogether):
            _exit("interrupted", after_stop(), 128 + signal.SIGINT)
        if isinstance(stop, (Terminated, SIGTERMException)):
            _exit("stopped by SIGTERM", after_stop(), 128 + signal.SIGTERM)
        raise
    except RuntimeError as error:
        is_lost = dist.is_available() and dist.is_initialized()
        is_lost &= any(text in str(error) for text in _LOST_PEER)
        if shows_tracebacks() or not is_lost:
            raise
        # Each of them says it: the first may be the one that is gone.
        print(
            "error: another process of this run has ended (killed, or out of memory) "
            f"or cannot be reached, and this one cannot go on alone: {after_stop()}",
            file=sys.stderr,
        )
        sys.exit(1)
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    # While it trains, Lightning or StopTogether has a handler of its own, which ends
    # with a whole step; Lightning's calls this one too.
    if signal.getsignal(signal_number) is _terminate:
        raise Terminated


def _exit(reason: str, after_stop: str, status: int) -> NoReturn:
    if getattr(rank_zero_only, "rank", 0) == 0:
        print(f"{reason}: {after_stop}", file=sys.stderr)
    sys.exit(status)


def _refuse_pickles(arguments: Sequence[str]) -> None:
    if any(argument.startswith("--experimental-rerun") for argument in arguments):
        raise ConfigError(
            "--experimental-rerun: unpickles a file, which can run any code. "
            "command.txt of a run has the command to repeat."
        )


def quote_paths(arguments: Sequence[str]) -> list[str]:
    """Quote the values among arguments of Hydra that are paths with special letters.

    Args:
        arguments: of the command line.

    Returns:
        The same, with quotes where a value would not arrive as it was written: one
        that is the path of something, or an option that takes one.
    """
    parser = OverridesParser.create()
    quoted = []
    for before, argument in zip(("", *arguments), arguments, strict=False):
        found = _OVERRIDE.fullmatch(argument)
        if found and not _WITH_VALUE.fullmatch(before):
            name, value = found.groups()
            if _loses(parser, name, value):
                argument = quote(name, value)
        quoted.append(argument)
    return quoted


def _loses(parser: OverridesParser, name: str, value: str) -> bool:
    """Tell whether a path would not arrive as it was written."""
    option = name.lstrip("+~")
    try:
        parsed = parser.parse_override(f"{name}={value}").value()
    except HydraException:
        is_list = value.startswith("[") and not _PATH.fullmatch(option)
        is_path = _PATH.fullmatch(option) or _PATHS.fullmatch(option)
        return _exists(value) or bool(
            is_path and not is_list and value[:1] not in "'\""
        )
    if parsed == value or parsed is None or isinstance(parsed, bool):
        return False
    if isinstance(parsed, (list, dict)) and _PATH.fullmatch(option):
        return True
    return _exists(value)


def _exists(value: str) -> bool:
    try:
        return Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, no home
        return False
