"""Runs that are killed and continued, and what they leave."""

from __future__ import annotations

import signal
import time

import torch

from pft_lightning import load_model


# An epoch has ten steps: the runs below are killed in mid-epoch and past its end.
SCHEDULE = (
    "trainer.max_steps=34",
    "callbacks.last.every_n_steps=3",
    "probe.n_probes=2",
    "optimizer.lr=1e-3",
    "export=last",
)


def finish(process) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def weights(run):
    (result,) = run.glob("model.*")
    return load_model(result).state_dict()


def check_kills_leave_no_trace(pft_train, folder, *schedule):
    finish(pft_train(folder / "whole", *schedule))

    killed = folder / "killed"
    last = killed / "checkpoints" / "last.ckpt"
    process = pft_train(killed, *schedule)
    kills = 0
    while process.poll() is None:
        if last.exists() and kills < 2:
            # Not a moment of the program's choosing.
            time.sleep(0.05 + 0.1 * kills)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            process = pft_train(killed, *schedule, "resume=true")
        time.sleep(0.01)
    finish(process)
    assert kills == 2

    resumed = weights(killed)
    for name, value in weights(folder / "whole").items():
        assert torch.equal(value, resumed[name]), name
