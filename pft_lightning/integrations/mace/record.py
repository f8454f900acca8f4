"""The folder of a run that a ``mace_run_train`` file described."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.native import NativeRecord


# In the folder of a run: the network that MACE has built, with its first weights.
NETWORK_FILE = Path("mace", "network.safetensors")

_FILES = {
    "train": ("train_file", "pt_train_file"),
    "val": ("valid_file", "pt_valid_file"),
}


class MACERecord(NativeRecord):
    """Frames and foundation model have made the network; they may be gone.

    Args:
        config: of the run, with all options of MACE under ``mace``.
        folder: of the run.
    """

    def __init__(self, config: DictConfig, folder: RunFolder) -> None:
        config = config.copy()
        config.model.checkpoint = str(folder.path / NETWORK_FILE)
        super().__init__(config, folder)

    def identify_base_model(self) -> dict[str, Any]:
        """The foundation model, as it was when the run was started."""
        return self.folder.read(self.folder.base_model)

    def upstream_sources(self) -> dict[str, list[str]]:
        """Files of the frames of all heads."""
        options: Any = OmegaConf.to_container(self.config.mace)
        heads = options.get("heads")
        named = ast.literal_eval(heads) if isinstance(heads, str) else {}
        return {
            part: [
                Path(str(source)).name
                for section in (options, *named.values())
                for source in (section.get(name) for name in names)
                if source
            ]
            for part, names in _FILES.items()
        }
