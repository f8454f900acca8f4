from __future__ import annotations

from dataclasses import replace

import lightning
import pytest
import torch

from pft_lightning import PhononDataModule, PhononSource, UpstreamSource, keys
from pft_lightning.backends.pair import PairPotential
from pft_lightning.callbacks.hessian_loss import HessianLoss
from pft_lightning.errors import DeviceMemoryError
from pft_lightning.physics.probes import GaussianProbe
from pft_lightning.physics.wave_probes import CommensurateProbe
from pft_lightning.training.module import PhononFineTuning


CUTOFF = 4.0
ELEMENTS = (3, 9, 11, 12, 8, 17, 14)


class RunsOutInBackward(torch.autograd.Function):
    @staticmethod
    def forward(energy: torch.Tensor) -> torch.Tensor:
        return energy.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")


class Limited(PairPotential):
    """A potential on a device without memory for batches above some size."""

    max_structures: int | None = None
    where = "forward"
    error: Exception = torch.OutOfMemoryError("CUDA out of memory")
    n_failures = 0

    def derivatives(self, batch, **options):
        fits = self.max_structures is None or batch.num_graphs <= self.max_structures
        if fits or not torch.is_grad_enabled():
            return super().derivatives(batch, **options)
        self.n_failures += 1
        if self.where == "forward":
            raise self.error
        found = super().derivatives(batch, **options)
        return replace(found, energy=RunsOutInBackward.apply(found.energy))


class Gradients(lightning.Callback):
    """Collect the gradient of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.steps.append(
            {name: p.grad.clone() for name, p in pl_module.named_parameters()}
        )


def train(world, *, probe=None, mode="joint", max_steps=3, **options):
    """Take some steps; give the gradients, the module and what was logged."""
    model = Limited(CUTOFF, ELEMENTS)
    for name in ("max_structures", "where", "error"):
        setattr(model, name, options.pop(name, getattr(model, name)))
    module = PhononFineTuning(
        model, phonon_weights={"energy": 1.0, "forces": 20.0, "stress": 5.0}, **options
    )
    data = PhononDataModule(
        PhononSource(world.phonons_train, world.phonons_val, batch_size=4),
        UpstreamSource(world.upstream_train, world.upstream_val, batch_size=5),
        mode=mode,
        cache_dir=world.base.parent / "cache",
    )
    gradients = Gradients()
    trainer = lightning.Trainer(
        callbacks=[HessianLoss(probe or GaussianProbe(2)), gradients],
        logger=False,
        enable_checkpointing=False,
        inference_mode=False,
        use_distributed_sampler=False,
        max_steps=max_steps,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(module, data)
    return gradients.steps, module, trainer.callback_metrics


@pytest.mark.filterwarnings("ignore:A batch did not fit")
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("reduction", ["structures", "atoms"])
def test_a_batch_that_does_not_fit_gives_the_gradient_of_the_whole(
    world, where, reduction
) -> None:
    expected, _, whole = train(world, reduction=reduction)
    found, module, metrics = train(
        world,
        reduction=reduction,
        where=where,
        max_structures=1,
    )
    assert module.model.n_failures >= 3
    assert len(expected) == len(found) == 3
    for one, other in zip(expected, found, strict=True):
        assert max(gradient.abs().max() for gradient in one.values()) > 1
        for name, gradient in one.items():
            # The same sums of float64 numbers of order 100, in another order.
            torch.testing.assert_close(other[name], gradient, rtol=1e-12, atol=1e-12)
    for name, value in whole.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("ignore:A batch did not fit")
def test_lack_of_memory_of_other_libraries_splits_the_batch_too(world) -> None:
    expected, *_ = train(world)
    error = RuntimeError("Triton Error [CUDA]: out of memory")
    found, module, _ = train(world, max_structures=2, error=error)
    assert module.memory_splits > 0
    for one, other in zip(expected, found, strict=True):
        for name, gradient in one.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-12, atol=1e-12)


def test_other_errors_end_the_run_as_they_are(world) -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        train(world, max_structures=2, error=error)


@pytest.mark.filterwarnings("ignore:A batch did not fit")
def test_commensurate_cells_are_split_with_their_tangents(world) -> None:
    expected, *_ = train(world, probe=CommensurateProbe(2))
    found, *_ = train(world, probe=CommensurateProbe(2), max_structures=1)
    for one, other in zip(expected, found, strict=True):
        for name, gradient in one.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-12, atol=1e-12)


def test_splits_are_counted_logged_and_said_once(world) -> None:
    with pytest.warns(UserWarning, match="max_edges") as warned:
        _, module, metrics = train(
            world, mode="joint", max_structures=3, where="forward"
        )
    assert len([w for w in warned if "did not fit" in str(w.message)]) == 1
    # Three steps: sources apart, 4 crystals in halves, of 13 frames twice 5 in halves.
    assert module.memory_splits == metrics["train/memory_splits"] == 3 + 3 + 2


def test_without_a_split_nothing_is_said_or_logged(world) -> None:
    _, module, metrics = train(world)
    assert module.memory_splits == 0
    assert "train/memory_splits" not in metrics


def test_a_gradient_taken_apart_is_bitwise_that_of_the_loss(world) -> None:
    """The way of the gradient around DDP's hooks changes no number."""
    steps, *_ = train(world, mode="alternate")
    data = PhononDataModule(
        PhononSource(world.phonons_train, world.phonons_val, batch_size=4),
        cutoff=CUTOFF,
        atomic_numbers=ELEMENTS,
        cache_dir=world.base.parent / "cache",
    )
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    fresh = PhononFineTuning(
        PairPotential(CUTOFF, ELEMENTS),
        phonon_weights={"energy": 1.0, "forces": 20.0, "stress": 5.0},
    )
    structures = batch[keys.PHONON]
    request = HessianLoss(GaussianProbe(2)).request(structures, 0)
    derivatives = fresh.model.derivatives(structures, tangents=request.tangents)
    loss = fresh.losses["phonon"]
    terms = {
        **loss.terms(derivatives, structures),
        "hvp": request.term(derivatives.hvp, structures, "structures"),
    }
    weights = {**loss.weights, "hvp": request.weight}
    means = [
        weights[name] * (term.total / term.count.clamp(min=1))
        for name, term in terms.items()
    ]
    torch.stack(means).sum().backward()
    for name, parameter in fresh.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(parameter.grad, steps[0][name]), name


def test_a_structure_that_does_not_fit_alone_is_named(world) -> None:
    with pytest.raises(DeviceMemoryError, match=r"this structure alone \(\d+ at"):
        train(world, max_structures=0)
