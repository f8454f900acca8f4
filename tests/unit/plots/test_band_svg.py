from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from pft_lightning.plots.band_svg import _MOST_POINTS, as_unicode, draw_bands


def points_of(path: str) -> np.ndarray:
    """Places (n, 2) that a path goes through."""
    found = []
    for part in path.split("M")[1:]:
        numbers = np.array(re.findall(r"-?\d+", part), dtype=int).reshape(-1, 2)
        found.append(np.cumsum(numbers, axis=0))
    return np.concatenate(found)


def test_lines_go_through_the_frequencies(properties):
    reference, base = properties["reference"], properties["base"]
    drawing = draw_bands(reference, {"base": base}, title="x")
    assert [line.label for line in drawing.lines] == ["DFT", "base"]
    for line, one in zip(drawing.lines, (reference, base), strict=True):
        bands = one.bands
        assert bands is not None
        assert len(line.branches) == bands.frequencies[0].shape[1]
        for branch, path in enumerate(line.branches):
            found = points_of(path)
            exact = np.concatenate([f[:, branch] for f in bands.frequencies])
            shown = drawing.high - drawing.step * found[:, 1]
            # Rounded to whole steps of the axis.
            np.testing.assert_allclose(shown, exact, rtol=0, atol=0.51 * drawing.step)
    ends = [(s.first, s.last, s.start, s.end) for s in drawing.segments]
    assert ends[0][0] == 0
    assert ends[-1][1] == drawing.panel
    assert [e[2:] for e in ends] == [("Γ", "X"), ("X", "U"), ("K", "Γ")]


def test_what_is_not_finite_interrupts_a_line(properties):
    reference = properties["reference"]
    frequencies = [f.copy() for f in reference.bands.frequencies]
    frequencies[0][3, 0] = np.nan
    bands = dataclasses.replace(reference.bands, frequencies=frequencies)
    drawing = draw_bands(dataclasses.replace(reference, bands=bands), {}, title="x")
    (line,) = drawing.lines
    assert line.branches[0].count("M") == 4
    assert line.branches[1].count("M") == 3
    assert "nan" not in "".join(line.branches)


def test_large_figures_keep_all_branches_and_say_what_they_leave_out(properties):
    reference = properties["reference"]
    n = _MOST_POINTS // 20
    frequencies = [np.linspace(0, 5, 2 * n).reshape(n, 2).repeat(5, 1)] * 3
    distances = [
        d[0] + np.linspace(0, d[-1] - d[0], n) for d in reference.bands.distances
    ]
    bands = dataclasses.replace(
        reference.bands, frequencies=frequencies, distances=distances
    )
    drawing = draw_bands(dataclasses.replace(reference, bands=bands), {}, title="x")
    (line,) = drawing.lines
    assert len(line.branches) == 10
    n_points = sum(len(points_of(path)) for path in line.branches)
    # Ends of segments stay.
    assert 0.9 * _MOST_POINTS / 2 < n_points <= _MOST_POINTS + 30
    assert "one in 2 q-points" in drawing.notes[0]
    assert points_of(line.branches[0])[-1][0] == drawing.panel


def test_models_beyond_the_axis_or_on_another_path_are_named(properties):
    reference, base = properties["reference"], properties["base"]
    far = dataclasses.replace(base, mesh_frequencies=base.mesh_frequencies * 1e6)
    labels = [("A", "B"), ("B", "C"), ("D", "E")]
    other = dataclasses.replace(
        base, bands=dataclasses.replace(base.bands, labels=labels)
    )
    drawing = draw_bands(reference, {"far": far, "other": other}, title="x")
    assert "far reaches beyond the axis." in drawing.notes
    assert "other has another path, not drawn." in drawing.notes
    assert [bool(line.branches) for line in drawing.lines] == [True, True, False]


def test_without_bands_the_density_of_states_is_drawn(properties):
    bare = dataclasses.replace(properties["base"], bands=None)
    drawing = draw_bands(None, {"m": bare}, title="x")
    assert drawing.panel == 0
    assert not drawing.segments
    assert drawing.lines[0].dos.startswith("M")


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (r"$\Gamma$", "Γ"),
        (r"$\mathrm{X}$", "X"),
        (r"$\Sigma_0$", "Σ₀"),
        (r"$\mathrm{H}_{2}$", "H₂"),
        ("$\\mathrm{X}_1$|U", "X₁|U"),
        ("<b>", "<b>"),
    ],
)
def test_labels_of_the_path_become_plain_text(label, text):
    assert as_unicode(label) == text
