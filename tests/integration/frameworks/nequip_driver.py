"""Run `nequip-train`, or code, in forks of one process that has imported NequIP.

Reads groups of jobs as JSON from the standard input; the jobs of a group run at the
same time. Prints their exit codes. Nothing of pft_lightning is imported here.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback

from nequip.scripts.train import main


# What each run would import in its own time.
for name in (
    *("nequip.data.datamodule", "nequip.model", "nequip.train"),
    *("phonopy", "pydantic", "torch_geometric.data"),
):
    importlib.import_module(name)


def run(job: dict) -> None:
    os.chdir(job["cwd"])
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(job["environment"])
    if "code" in job:
        exec(job["code"], {})
        return
    sys.argv = ["nequip-train", *job["arguments"]]
    main()


def start(job: dict) -> int:
    if child := os.fork():
        return child
    code = 1
    try:
        run(job)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


codes = []
for group in json.load(sys.stdin):
    children = [start(job) for job in group]
    codes.append(
        [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    )
print(json.dumps(codes))
