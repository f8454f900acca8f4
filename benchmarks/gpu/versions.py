"""What a visit runs on."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from typing import Any

import torch
from visit import Visit


def versions(visit: Visit) -> None:
    """Versions, the card, and the models of the pack."""
    from devices import versions as installed

    from pft_lightning.runs.folder import collect_versions

    for name, version in (collect_versions() | installed()).items():
        visit.report(name, version)
    visit.report("cores", os.cpu_count() or 0)
    visit.report("C compiler", shutil.which("cc") or shutil.which("gcc") or "none")
    for path in sorted(visit.pack.joinpath("models").glob("*")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        visit.report(f"models/{path.name}", digest, "SHA-256")
    _report_nvidia(visit)
    if not visit.on_gpu:
        return
    properties: Any = torch.cuda.get_device_properties(0)
    visit.report("card", properties.name)
    visit.report("memory", properties.total_memory / 2**30, "GiB")
    visit.report("capability", f"{properties.major}.{properties.minor}")
    visit.report("CUDA of torch", torch.version.cuda or "none")
    # As everybody finds it; the checks of precision turn it on.
    allowed = float(torch.backends.cuda.matmul.allow_tf32)
    visit.report("TF32 by default", allowed, bound=0)


def _report_nvidia(visit: Visit) -> None:
    if shutil.which("nvidia-smi") is None:
        return
    query = "name,driver_version,memory.used,clocks.sm"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    visit.report(f"nvidia-smi {query}", found.stdout.strip()[:200])
