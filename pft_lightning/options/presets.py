"""Learning rates that go with adaptations, where none is given."""

from __future__ import annotations

from types import MappingProxyType

from omegaconf import DictConfig, OmegaConf


AUTO = "auto"
# By adaptation. The first is the published one (arXiv:2601.07742), which those take
# that were not measured at several rates; LoRA was (benchmarks/adaptation). Of several
# heads it is also what MACE's authors take. Random weights are trained at the rate of
# benchmarks/adaptation.
RATES = MappingProxyType(
    {
        "FullFineTuning": 1e-4,
        "LoRA": 2e-4,
        "Delta": 1e-4,
        "Freeze": 1e-4,
        "MultiHead": 1e-4,
        "Scratch": 1e-3,
    }
)


def asks_for_rate(config: DictConfig) -> bool:
    """Whether the rate is left to the adaptation.

    Args:
        config: of a training.
    """
    return OmegaConf.select(config, "optimizer.lr") == AUTO


def with_rate(config: DictConfig) -> DictConfig:
    """Put the rate of the adaptation where none was given.

    Args:
        config: of a training; left as it is.
    """
    if not asks_for_rate(config):
        return config
    completed: DictConfig = config.copy()
    kind = str(config.adaptation.get("_target_")).rpartition(".")[2]
    # An adaptation of somebody else's trains as we know all weights to be trained.
    completed.optimizer.lr = RATES.get(kind, RATES["FullFineTuning"])
    return completed
