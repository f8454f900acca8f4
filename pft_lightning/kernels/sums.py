"""Which sums of forms the derivatives of messages are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from pft_lightning.kernels.edges import Edges
from pft_lightning.physics.direction import Direction


class Role(NamedTuple):
    """What a tensor is.

    Attributes:
        argument: of the form.
        direction: of the derivative in whose course it came up as a tangent or
            cotangent in the place of couplings or weights. These have none between
            atoms that do not move against each other, whatever the weights of the
            network are, and nobody needs the gradient with respect to such zeros.
    """

    argument: int
    direction: Direction | None = None


class Sum(NamedTuple):
    """Derivative by the argument ``slot`` of a sum of forms.

    Attributes:
        slot: the argument that is left out.
        terms: for each form the places of its four arguments in a list of tensors,
            -1 for the one that is left out.
        own: place of the tensor whose gradient this is, if it is one of weights and
            came up along a direction; else -1.
        over_probes: that tensor is the same for all probes, and others are not; it
            gets the gradients of all of them added up.
    """

    slot: int
    terms: tuple[tuple[int, ...], ...]
    own: int = -1
    over_probes: bool = False

    @property
    def places(self) -> list[int]:
        """Of the tensors that it needs."""
        return sorted({self.own, *(i for term in self.terms for i in term)} - {-1})


def renamed(each: Sum, places: Mapping[int, int]) -> Sum:
    """Give the tensors of a sum other places."""
    terms = tuple(tuple(places[i] for i in term) for term in each.terms)
    return each._replace(terms=terms, own=places[each.own])


def still_pairs(edges: Edges, direction: Direction) -> torch.Tensor:
    """(n_pairs,), bool: the two atoms do not move against each other along any probe.

    Args:
        edges: with the pairs.
        direction: of the probes; keeps the answer.
    """
    if edges not in direction.known:
        tangents, first = direction.tangents, edges.first_of_pair
        one, other = tangents[edges.centre[first]], tangents[edges.neighbour[first]]
        direction.known[edges] = (one == other).flatten(1).all(dim=1)
    return direction.known[edges]
