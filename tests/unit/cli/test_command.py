"""How commands take their arguments, and how they end."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from pft_lightning.cli.command import command, quote_paths
from pft_lightning.errors import ConfigError
from pft_lightning.options.remedies import explain


NAMES = [
    "a=b",
    "a [1]",
    "{x}",
    "(copy)",
    "a,b",
    "it's",
    "#1",
    "ü",
    "x y",
    "a\\'b",
    "end\\",
    "12",
    "[1,2]",
    "'quoted'",
    '"quoted"',
]


def arrives(argument: str) -> object:
    (quoted,) = quote_paths([argument])
    return OverridesParser.create().parse_override(quoted).value()


@pytest.mark.parametrize("name", NAMES)
def test_the_path_of_a_file_arrives_as_it_was_written(tmp_path, monkeypatch, name):
    (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for path in (name, f"{tmp_path}/{name}"):
        assert arrives(f"data.phonons.train={path}") == path
        assert arrives(f"++anything.else={path}") == path


@pytest.mark.parametrize("name", [n for n in NAMES if n[0] not in "'\"" and n != "12"])
def test_so_does_that_of_a_file_to_be_written(name):
    if "," not in name or name.startswith("["):  # a,b asks for two runs
        assert arrives(f"out=/nowhere/{name}") == f"/nowhere/{name}"
        assert arrives(f"hydra.run.dir=runs/{name}") == f"runs/{name}"


@pytest.mark.parametrize(
    "argument",
    [
        "phonons=[a,b]",
        "optimizer.lr=1e-3,1e-2",
        "protocol.mesh=[4,4,4]",
        "data.phonons.val=null",
        "out='a b'",
        'phonons=["a=b"]',
        "+logger.tags=[a,b]",
        "paths.run=${hydra:runtime.output_dir}",
        "~callbacks.ema",
        "--multirun",
    ],
)
def test_other_arguments_are_left_alone(argument):
    assert quote_paths([argument]) == [argument]


def test_so_are_arguments_of_hydras_own_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b,c").mkdir()
    assert quote_paths(["--config-dir", "a=b,c"]) == ["--config-dir", "a=b,c"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.learning_rate=1", "Nearest: optimizer.lr."),
        ("learning_rate=1", "Nearest: optimizer.lr."),
        ("batch_size=4", "data.phonons.batch_size"),
        ("adaptation.rank=4", "comes with adaptation=lora: add that."),
        ("scheduler.eta_min=0", "comes with scheduler=cosine: add that."),
        ("adaption=lora", "adaptation"),
        ("probe=foo", "probe=foo; expected one of column, "),
        ("experiment=foo", "quickstart"),
        ("trainer=5", "trainer=default"),
        ("foo", "expected NAME=VALUE"),
        ("+seed=3", "+seed: there is such an option; write it without +."),
        ("seed=1,2", "--multirun"),
        ("~nothing", "nothing"),
    ],
)
def test_what_hydra_cannot_compose_is_one_line_with_a_remedy(override, words):
    with (
        initialize_config_module("pft_lightning.conf", version_base="1.3"),
        pytest.raises(Exception) as caught,  # noqa: PT011
    ):
        compose("train", overrides=[override])
    message = explain(caught.value, "train")
    assert words in message
    assert "\n" not in message
    assert "hydra.cc" not in message


@pytest.mark.parametrize("value", ["[a=b,c]", "{x", "a(b", "it's"])
def test_the_remedy_for_a_value_that_cannot_be_parsed_can_be_parsed(value):
    parser = OverridesParser.create()
    with pytest.raises(OverrideParseException) as caught:
        parser.parse_overrides([f"anything={value}"])
    remedy = explain(caught.value, "train").rpartition("another pair: ")[2]
    (word,) = shlex.split(remedy)
    parsed = parser.parse_override(word).value()
    assert parsed == (["a=b", "c"] if value.startswith("[") else value)


@pytest.fixture
def ends(monkeypatch, tmp_path, capfd):
    """Status and messages of a command that does something."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PFT_TRACEBACK", raising=False)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def end(does, *arguments: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["pft-export", *arguments])
        with pytest.raises(SystemExit) as caught:
            command("export", after_stop="go on.")(does)()
        return caught.value.code, capfd.readouterr().err

    return end


def raises(error: BaseException):
    def does(config) -> None:
        raise error

    return does


@pytest.mark.parametrize(
    ("does", "status", "message"),
    [
        (raises(ConfigError("seed=-1; no.")), 2, "error: seed=-1; no.\n"),
        (
            raises(OSError(errno.ENOSPC, "No space left on device", "/full/a")),
            2,
            "error: /full/a: No space left on device",
        ),
        (raises(KeyboardInterrupt()), 130, "interrupted: go on.\n"),
        (
            lambda _: os.kill(os.getpid(), signal.SIGTERM),
            143,
            "stopped by SIGTERM: go on.\n",
        ),
    ],
)
def test_a_command_ends_with_one_message_and_its_status(ends, does, status, message):
    before = signal.getsignal(signal.SIGTERM)
    code, errors = ends(does, "out=a")
    assert code == status
    assert errors.startswith(message)
    assert "Traceback" not in errors
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_training_that_lightning_was_told_to_end_is_not_a_success(ends):
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    def interrupted(config) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)  # as Lightning does

    assert ends(interrupted, "out=a")[0] == 130
    assert ends(raises(SIGTERMException()), "out=a")[0] == 143


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no=1"], "error: no: there is no such option."),
        (["model=foo"], "error: model=foo; expected one of auto, mace"),
        (["out=(a"], None),
        (["hydra.run.dir=file"], "error: "),
        (["--experimental-rerun=a.pickle"], "error: --experimental-rerun: unpickles"),
    ],
)
def test_a_command_line_that_cannot_be_is_status_2(ends, tmp_path, arguments, message):
    (tmp_path / "file").touch()
    seen = []
    if message is None:
        with pytest.raises(pytest.fail.Exception):  # it ends well
            ends(lambda config: seen.append(config.out), *arguments)
        assert seen == ["(a"]
        return
    code, errors = ends(lambda config: seen.append(config), *arguments)
    assert (code, seen) == (2, [])
    assert errors.startswith(message)
    assert "Traceback" not in errors


def test_tracebacks_are_shown_to_those_who_ask(ends, monkeypatch):
    for variable in ("PFT_TRACEBACK", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(variable, "1")
        monkeypatch.setattr(sys, "argv", ["pft-export"])
        with pytest.raises(ConfigError):
            command("export", after_stop="")(raises(ConfigError("no.")))()
        monkeypatch.delenv("PFT_TRACEBACK", raising=False)
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
