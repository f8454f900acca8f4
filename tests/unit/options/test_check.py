"""Names, types and ranges of options, before anything is computed."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.errors import ConfigError
from pft_lightning.options.blocks import block_for
from pft_lightning.options.check import check_options
from pft_lightning.options.choices import first_choices, groups
from pft_lightning.options.remedies import explain
from pft_lightning.options.schema import Evaluate, Export, Prepare, Train


COMMANDS = {
    "train": (Train, ("model.checkpoint=m", "data.phonons.train=d", "paths.run=r")),
    "evaluate": (Evaluate, ("model.checkpoint=m", "phonons=d", "paths.run=r")),
    "prepare": (Prepare, ("phonons=d", "out=o")),
    "export": (Export, ("out=o",)),
}
CHOICES = [
    (folder.name, file.stem)
    for folder in Path(str(files("pft_lightning.conf"))).iterdir()
    for file in folder.glob("*.yaml")
] + [(group, choice) for group in first_choices("train") for choice in groups()[group]]


@lru_cache
def composed(command: str, *overrides: str):
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        return compose(command, overrides=[*COMMANDS[command][1], *overrides])


@pytest.fixture(scope="module")
def changed():
    """A composed configuration with some values replaced."""
    whole = {command: composed(command) for command in COMMANDS}
    whole["lora"] = composed("train", "adaptation=lora")

    def change(command: str, *values: tuple[str, object]):
        config = whole[command].copy()
        for name, value in values:
            OmegaConf.update(config, name, value, force_add=True)
        return config

    return change


def schema_of(command: str):
    return COMMANDS.get(command, COMMANDS["train"])[0]


@pytest.mark.parametrize(
    ("command", "name", "values", "accepted"),
    [
        ("train", "data.phonons.batch_size", ["abc", None, 1.5, 0], "of at least 1"),
        ("train", "data.upstream.batch_size", ["abc", None, 1.5, 0], "of at least 1"),
        ("train", "data.num_workers", [-1, 1.5], "from 0 to 1024"),
        ("train", "data.upstream_per_phonon", [1.5, -1], "of at least 0"),
        ("train", "data.phonons.train", [5, []], "a path"),
        ("train", "data.phonons.options.max_force", ["abc", -1], "above 0"),
        ("train", "data.phonons.options.relaxed", ["foo", 1], "full, positions, none"),
        ("train", "data.phonons.options.supercell_matrix", [[2, 2], "a"], "3 or 9"),
        ("train", "data.mode", ["random"], "alternate, joint"),
        ("train", "data.cache_dir", [5, [], "", True], "a folder, or null"),
        ("train", "data.val_fraction", [0, 1, 2, "nan"], "above 0 and below 1"),
        ("train", "trainer.max_steps", [-5, "abc", 1.5, None], "or -1"),
        ("train", "trainer.val_check_interval", [0, -3, 2.5, "a"], "at least 1"),
        ("train", "trainer.devices", [0, -2, [], "a", 1.5], "at least 1"),
        ("train", "trainer.accelerator", ["foo", 1], "auto, cpu, gpu"),
        ("train", "trainer.gradient_clip_val", [-1, float("inf")], "at least 0"),
        ("train", "trainer.num_nodes", ["abc", 0], "of at least 1"),
        ("train", "optimizer.lr", [-1, 0, float("nan"), "abc", True], "above 0"),
        ("train", "optimizer.weight_decay", [-1, float("inf")], "of at least 0"),
        ("train", "probe.n_probes", [1.5, 1e8, 0], "from 1 to 10000"),
        ("train", "seed", [-1, None, 1.5, "abc", 2**32], "from 0 to 4294967295"),
        ("train", "resume", ["maybe", 1, None], "true or false"),
        ("train", "export", ["newest"], "best, last"),
        ("train", "model.dtype", ["half", None], "float32, float64"),
        ("train", "model.backend", ["foo"], "nequix"),
        ("train", "model.checkpoint", [None, 5], "a file"),
        ("train", "loss.phonon.hvp", [-1, float("nan"), None], "of at least 0"),
        ("train", "loss.kind.hvp", ["foo"], "mae, l2, mse, huber"),
        ("train", "loss.reduction", ["sum"], "structures, atoms"),
        ("train", "callbacks.ema.decay", [1, -0.1, "a"], "at least 0 and below 1"),
        ("train", "callbacks.last.every_n_steps", [0, 2.5], "of at least 1"),
        ("train", "callbacks.best", [1], "a block"),
        ("lora", "adaptation.rank", [1.5, 0], "from 1"),
        ("prepare", "cutoff", ["abc", float("inf"), None, 1e9, 0], "at most 100 (Å)"),
        ("prepare", "options.units", ["foo", 5], "vasp, qe"),
        ("prepare", "n_workers", ["abc", -1], "from 0 to 1024"),
        ("prepare", "task", ["foo"], "store, rattle, pseudolabel, distill"),
        ("prepare", "model.device", ["foo", 1], "cpu, cuda"),
        ("prepare", "rattle.volume", [[1], "a"], "[smallest, largest]"),
        ("prepare", "distill.relax", ["maybe"], "true or false"),
        ("evaluate", "protocol.mesh", ["abc", 0, [4, 4], [4, 4, 0]], "three whole"),
        ("evaluate", "protocol.temperatures", [[], [-5], "abc"], "[first, last, step]"),
        ("evaluate", "protocol.method", ["foo"], "hvp, finite_displacement, full"),
        ("evaluate", "compare.a", [1], "model, checkpoint, calculator"),
        ("evaluate", "compare.a.model", ["foo"], "mace"),
        ("evaluate", "phonons", [None, 5], "a path"),
        ("evaluate", "accelerator", ["foo"], "auto, cpu, gpu"),
        ("evaluate", "options.units", ["foo"], "vasp, qe"),
        ("evaluate", "upstream_limits.max_stress", [0, "abc"], "above 0 (eV/Å³)"),
        ("evaluate", "upstream_limits.max_energy", [-1, None], "above 0 (eV/atom)"),
        ("evaluate", "max_atoms", [0, None, "abc"], "of at least 1 (atoms)"),
        ("evaluate", "engine", ["foo"], "forward_over_reverse"),
        ("export", "weights", ["foo"], "ema, raw, or null"),
    ],
)
def test_a_value_of_another_type_or_range_is_named_with_what_is_accepted(
    changed, command, name, values, accepted
):
    for value in values:
        with pytest.raises(ConfigError) as caught:
            check_options(changed(command, (name, value)), schema_of(command))
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"{name}="), line
        assert accepted in line.partition("expected")[2], line


@pytest.mark.parametrize(
    ("command", "name", "near"),
    [
        ("train", "optimizer.foo", "weight_decay"),
        ("train", "optimizer.learning_rate", "Nearest: optimizer.lr."),
        ("train", "trainer.max_step", "Nearest: trainer.max_steps."),
        ("train", "probe.probes", "Nearest: probe.n_probes."),
        ("train", "loss.phonon.force", "Nearest: loss.phonon.forces."),
        ("train", "data.phonons.options.foo", "max_asymmetry"),
        ("train", "adaptation.rank", "comes with adaptation=lora"),
        ("evaluate", "protocol.foo", "volume_limits"),
        ("evaluate", "options.foo", "max_asymmetry"),
        ("evaluate", "compare.a.weights", "checkpoint"),
        ("prepare", "rattle.foo", "n_rattled"),
    ],
)
def test_an_option_that_does_not_exist_is_named_with_those_that_do(
    changed, command, name, near
):
    with pytest.raises(ConfigError) as caught:
        check_options(changed(command, (name, 1)), schema_of(command))
    assert str(caught.value).startswith(f"{name}: there is no such option.")
    assert near in str(caught.value)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("train", "data.phonons.train"),
        ("train", "model.checkpoint"),
        ("prepare", "out"),
        ("prepare", "phonons"),
        ("evaluate", "phonons"),
        ("export", "out"),
    ],
)
def test_an_option_without_default_that_is_left_out_is_named(changed, command, name):
    with pytest.raises(ConfigError, match=f"^{name} is not given; expected [at]"):
        check_options(changed(command, (name, "???")), schema_of(command))


def test_several_mistakes_are_told_at_once(changed):
    config = changed("train", ("seed", -1), ("optimizer.lr", "abc"))
    with pytest.raises(ConfigError) as caught:
        check_options(config, Train)
    # data.seed and the like refer to seed, and are not repeated.
    names = [line.partition("=")[0] for line in str(caught.value).splitlines()]
    assert names == ["seed", "optimizer.lr"]


def test_a_whole_number_may_be_written_as_a_float(changed):
    config = changed("train", ("trainer.max_steps", 1e3))
    assert check_options(config, Train).trainer.max_steps == 1000
    assert isinstance(check_options(config, Train).trainer.max_steps, int)


def test_arguments_that_a_class_has_defaults_for_may_be_left_out(changed):
    average = {"_target_": "pft_lightning.callbacks.RampedEMA"}
    check_options(changed("train", ("callbacks.mine", average)), Train)
    config = changed("train", ("data.seed", 0))
    OmegaConf.set_struct(config, False)
    config.pop("seed")
    with pytest.raises(ConfigError, match=r"^seed is not given, and has no default\.$"):
        check_options(config, Train)


def test_a_reference_to_nothing_is_named(changed):
    config = changed("train", ("optimizer.lr", "${nowhere}"))
    with pytest.raises(
        ConfigError, match=r"optimizer.lr=\$\{nowhere\}; what it refers"
    ):
        check_options(config, Train)


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_shipped_choice_is_accepted(group, choice):
    command = "train"
    config = composed(command, f"{group}={choice}")
    check_options(config, Train)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_defaults_are_accepted(command):
    check_options(composed(command), schema_of(command))


@pytest.mark.parametrize("overrides", [(), *[(f"{g}={c}",) for g, c in CHOICES]])
def test_the_schema_has_every_option_of_a_block_that_it_knows(overrides):
    values = OmegaConf.to_container(composed("train", *overrides))
    blocks = [("", values)]
    while blocks:
        name, block = blocks.pop()
        blocks += [(f"{name}.{k}", v) for k, v in block.items() if isinstance(v, dict)]
        schema = block_for(block.get("_target_"))
        # Lightning's own callbacks and loggers check what they take.
        if schema is None or str(block["_target_"]).startswith("lightning."):
            continue
        options = {key for key in block if not key.startswith("_")}
        unchecked = options - set(schema.model_fields) - {"default_root_dir"}
        assert unchecked <= {"phonons", "protocol", "options"}, f"{name}: {unchecked}"


@pytest.mark.parametrize(
    ("command", "name", "place"),
    [
        ("evaluate", "max_stress", "upstream_limits.max_stress"),
        ("evaluate", "max_displacement", "options.max_displacement"),
        ("prepare", "max_force", "options.max_force"),
        ("train", "max_stress", "data.upstream.max_stress"),
    ],
)
def test_a_limit_that_a_message_names_is_an_option_of_its_command(command, name, place):
    assert OmegaConf.select(composed(command), place) is not None
    error = ConfigCompositionException(f"Could not override '{name}'.")
    assert f"Nearest: {place}." in explain(error, command)
