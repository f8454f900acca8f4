"""Trainings of one and of two processes, compared step by step."""

from __future__ import annotations

from pathlib import Path

import torch


TWO = ("trainer.devices=2", "trainer.strategy=ddp")


def capture(path: Path) -> tuple[str, str, str]:
    return (
        "trust_config=true",
        "+callbacks.capture._target_=pft_test_plugins.CaptureGradients",
        f"+callbacks.capture.path={path}",
    )


def run(process) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def check_same_steps(expected: list[dict], found: list[dict]) -> None:
    """Compare to 1e-10, far above the rounding of sums in another order."""
    for step_one, step_two in zip(expected, found, strict=True):
        torch.testing.assert_close(
            step_two["loss"], step_one["loss"], rtol=1e-10, atol=1e-12
        )
        for name, gradient in step_one["gradients"].items():
            torch.testing.assert_close(
                step_two["gradients"][name], gradient, rtol=1e-10, atol=1e-10
            )
