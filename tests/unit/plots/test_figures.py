from __future__ import annotations

import dataclasses
import itertools
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

from pft_lightning.evaluation.trade_off import Point
from pft_lightning.plots.bands import path_ticks, plot_bands
from pft_lightning.plots.errors import (
    HISTOGRAMS,
    PARITY,
    ForceConstantDensity,
    plot_error_histograms,
    plot_force_constants,
    plot_parity,
    plot_softening,
)
from pft_lightning.plots.gain import GAIN, plot_gain_and_forgetting
from pft_lightning.plots.style import QUANTITIES, colour, plain
from pft_lightning.plots.thermal import plot_thermal
from pft_lightning.plots.trade_off import plot_trade_off


@pytest.fixture
def models(properties):
    return {label: p for label, p in properties.items() if label != "reference"}


def lines_of(axes, shade):
    return [line for line in axes.lines if line.get_color() == shade]


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def random_columns(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = [*PARITY, *(f"reference_{q}" for q in PARITY), *HISTOGRAMS]
    columns = {name: rng.uniform(1, 9, n) for name in names}
    return {**columns, "frequency_ratio": rng.uniform(0.7, 1.1, n)}


def test_bands_are_the_frequencies_given_over_those_of_dft(properties, models):
    figure = plot_bands(properties["reference"], models, title="NaCl")
    bands_axes, dos_axes = figure.axes
    n_bands = properties["reference"].mesh_frequencies.shape[1]
    for index, label in enumerate(models):
        drawn = lines_of(bands_axes, colour(index))
        assert len(drawn) == n_bands
        expected = np.concatenate(models[label].bands.frequencies)
        for band, line in enumerate(drawn):
            y = line.get_ydata()
            np.testing.assert_array_equal(y[np.isfinite(y)], expected[:, band])
        (dos,) = lines_of(dos_axes, colour(index))
        np.testing.assert_array_equal(dos.get_xdata(), models[label].dos)
        np.testing.assert_array_equal(dos.get_ydata(), models[label].dos_frequencies)
    reference = lines_of(bands_axes, "0.62")
    order = [bands_axes.lines.index(line) for line in reference]
    assert len(order) == n_bands
    assert max(order) < bands_axes.lines.index(lines_of(bands_axes, colour(0))[0])


def test_bands_say_units_and_points_and_keep_the_legend_off_the_data(
    properties, models
):
    figure = plot_bands(properties["reference"], models)
    bands_axes, dos_axes = figure.axes
    assert "THz" in bands_axes.get_ylabel()
    assert "1/THz" in dos_axes.get_xlabel()
    ticks = [text.get_text() for text in bands_axes.get_xticklabels()]
    assert ticks == ["$\\Gamma$", "X", "U|K", "$\\Gamma$"]
    assert legend_texts(figure) == ["DFT", *models]
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    for axes in figure.axes:
        assert not box.overlaps(axes.get_window_extent())


def test_labels_of_the_path_never_overlap(properties):
    bands = properties["reference"].bands
    close = dataclasses.replace(
        bands, labels=[("$\\Gamma$", "X_LONG"), ("X_OTHER", "U_LONG"), ("K", "M")]
    )
    # Corners so near to each other that their labels need several rows.
    close.distances[0] *= 0.01
    close.distances[1] = np.linspace(close.distances[0][-1], 0.02, 7)
    reference = dataclasses.replace(properties["reference"], bands=close)
    figure = plot_bands(reference, {})
    figure.canvas.draw()
    boxes = []
    for text in figure.axes[0].get_xticklabels():
        box = text.get_window_extent()
        rows = text.get_text().count("\n") + 1
        boxes.append((rows, box.x0, box.x1))
    for (row, _, end), (other, start, _) in itertools.combinations(boxes, 2):
        assert row != other or end < start
    assert max(row for row, _, _ in boxes) > 1


def test_a_relaxed_cell_is_stretched_to_the_path_of_dft(properties):
    model = properties["fine_tuned"]
    longer = dataclasses.replace(
        model.bands, distances=[1.1 * d for d in model.bands.distances]
    )
    relaxed = dataclasses.replace(model, bands=longer)
    axes = plot_bands(properties["reference"], {"relaxed": relaxed}).axes[0]
    x = lines_of(axes, colour(0))[0].get_xdata()
    expected = np.concatenate(properties["reference"].bands.distances)
    np.testing.assert_allclose(x[np.isfinite(x)], expected, atol=1e-12)


def test_another_path_is_named_and_not_drawn(properties):
    other = dataclasses.replace(
        properties["base"].bands, labels=[("A", "B"), ("B", "C"), ("D", "E")]
    )
    model = dataclasses.replace(properties["base"], bands=other)
    figure = plot_bands(properties["reference"], {"turned": model})
    assert not lines_of(figure.axes[0], colour(0))
    assert "turned has another path" in figure.get_suptitle()


def test_a_model_that_explodes_leaves_the_reference_readable(properties):
    huge = dataclasses.replace(
        properties["base"], mesh_frequencies=properties["base"].mesh_frequencies * 1e3
    )
    figure = plot_bands(properties["reference"], {"huge": huge})
    assert figure.axes[0].get_ylim()[1] < 2 * properties["reference"].max_frequency
    assert "huge reaches beyond the axis" in figure.get_suptitle()


@pytest.mark.parametrize("missing", ["reference", "models", "bands"])
def test_bands_and_thermal_curves_cope_with_what_is_missing(
    properties, models, missing
):
    reference = properties["reference"]
    if missing == "reference":
        reference = None
    elif missing == "models":
        models = {}
    else:
        reference = dataclasses.replace(reference, bands=None)
        models = {k: dataclasses.replace(p, bands=None) for k, p in models.items()}
    figure = plot_bands(reference, models)
    assert len(figure.axes) == (1 if missing == "bands" else 2)
    assert ("DFT" in legend_texts(figure)) == (reference is not None)
    assert len(plot_thermal(reference, models).axes) == 3


def test_path_ticks_join_the_labels_of_a_jump(properties):
    bands = properties["reference"].bands
    positions, texts = path_ticks(bands)
    assert texts == ["$\\Gamma$", "X", "U|K", "$\\Gamma$"]
    assert positions == [0.0, *(d[-1] for d in bands.distances)]


def test_thermal_curves_hold_each_property_with_its_unit(properties, models):
    figure = plot_thermal(properties["reference"], models)
    for axes, (field, unit) in zip(
        figure.axes,
        [
            ("free_energy", "kJ/mol"),
            ("entropy", "J/K/mol"),
            ("heat_capacity", "J/K/mol"),
        ],
        strict=True,
    ):
        assert unit in axes.get_ylabel()
        assert axes.get_xlabel() == "Temperature (K)"
        for line, label in zip(axes.lines, ["reference", *models], strict=True):
            expected = getattr(properties[label], field)
            np.testing.assert_array_equal(line.get_ydata(), expected)
            np.testing.assert_array_equal(
                line.get_xdata(), properties[label].temperatures
            )


def test_parity_has_dft_across_and_the_model_up():
    columns = random_columns(20)
    figure = plot_parity({"a": columns}, temperature=250.0)
    for axes, quantity in zip(figure.axes, PARITY, strict=True):
        (points,) = axes.collections
        expected = np.stack([columns[f"reference_{quantity}"], columns[quantity]], 1)
        np.testing.assert_array_equal(points.get_offsets(), expected)
        assert QUANTITIES[quantity][1] in axes.get_xlabel()
        assert axes.get_xlim() == axes.get_ylim()
    assert "250 K" in figure.axes[1].get_title()


def test_parity_shows_what_lies_far_outside_on_its_edge():
    columns = random_columns(20)
    columns["max_frequency"][3] = 1e6
    axes = plot_parity({"a": columns}).axes[0]
    assert axes.get_ylim()[1] < 20
    assert "1 beyond the axis" in axes.get_title()
    hollow = axes.collections[1].get_offsets()
    assert hollow[0, 1] == axes.get_ylim()[1]


def test_histograms_count_every_material_even_without_error():
    columns = {label: random_columns(50, seed) for seed, label in enumerate("ab")}
    columns["a"]["entropy_error"][:5] = 0.0
    figure = plot_error_histograms(columns)
    for axes, quantity in zip(figure.axes, HISTOGRAMS, strict=True):
        assert QUANTITIES[quantity][1] in axes.get_xlabel()
        for index, label in enumerate(columns):
            # A closed outline: up, along and down each bin, then back along zero.
            outline = axes.patches[index].get_xy()
            n_bins = len(np.unique(outline[:, 0])) - 1
            assert outline[1 : 2 * n_bins : 2, 1].sum() == 50
            median = np.median(columns[label][quantity])
            assert any(median == line.get_xdata()[0] for line in axes.lines)


def test_softening_has_one_point_per_material():
    columns = random_columns(12)
    columns["frequency_ratio"][0] = -3.0
    figure = plot_softening({"a": columns})
    points, hollow = figure.axes[0].collections
    np.testing.assert_array_equal(
        points.get_offsets()[:, 1], columns["frequency_ratio"][1:]
    )
    np.testing.assert_array_equal(hollow.get_offsets()[:, 1], [0.0])


def test_ticks_of_softening_stay_apart_for_many_materials():
    figure = plot_softening({"a": random_columns(3000)})
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in figure.axes[1].get_xticklabels()]
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0


def test_the_density_counts_every_force_constant(properties):
    density = ForceConstantDensity()
    reference = properties["reference"].force_constants
    density.add(reference, properties["base"].force_constants)
    density.add(reference, 1e6 * np.ones_like(reference))
    assert density.counts.sum() == 2 * reference.size
    figure = plot_force_constants({"base": density})
    assert "eV/Å²" in figure.axes[0].get_xlabel()
    np.testing.assert_array_equal(
        figure.axes[0].collections[0].get_array().filled(0), density.counts.T
    )


@pytest.mark.parametrize("upstream", [True, False])
def test_gain_and_forgetting_are_the_totals(upstream):
    totals = {
        label: {name: {"mean": 2.0 + i, "median": 1.0 + i} for name in GAIN}
        for i, label in enumerate("ab")
    }
    totals["b"]["entropy_error"] = {"mean": None, "median": None}
    forgetting = {"a": {"forces_mae": 0.5}, "b": {"forces_mae": 0.7}}
    figure = plot_gain_and_forgetting(totals, forgetting if upstream else {})
    drawn = {
        axes.get_title(): [bar.get_height() for bar in axes.patches]
        for axes in figure.axes
    }
    assert drawn["frequency MAE (THz)"] == [2.0, 3.0]
    assert drawn["$S$ error (J/K/mol)"] == [2.0]
    assert drawn.get("forces MAE (eV/Å)") == ([0.5, 0.7] if upstream else None)


def test_a_trade_off_is_drawn_through_its_mixes_with_the_knee_in_a_ring():
    places = {0.0: (0.0, 0.0), 0.5: (0.1, 0.4), 1.0: (0.5, 0.5), None: (0.2, 0.1)}
    points = [
        Point(
            label=f"mix_{mix}" if mix is not None else "$other",
            mix=mix,
            gain=gain,
            forgetting=forgetting,
            changes={"entropy_error": -gain, "forces_mae": forgetting, "unknown": 0.0},
            n_materials=3,
        )
        for mix, (forgetting, gain) in places.items()
    ]
    figure = plot_trade_off({"points": points, "knee": 0.5, "remark": ""})
    curve, changes = figure.axes
    drawn = [line.get_xydata().tolist() for line in curve.lines]
    assert drawn[0] == [[0, 0], [0.1, 0.4], [0.5, 0.5]]
    assert [[0.1, 0.4]] in drawn[2:]
    assert [[0.2, 0.1]] in drawn[2:]
    assert {"0", "0.5", "1"} == {text.get_text() for text in curve.texts}
    by_name = {line.get_label(): line.get_xydata().tolist() for line in changes.lines}
    assert by_name["$S$ error"] == [[0, 0], [0.5, -0.4], [1, -0.5]]
    assert by_name["forces MAE"] == [[0, 0], [0.5, 0.1], [1, 0.5]]
    # Without a knee, and without anything known.
    for point in points:
        point.update(gain=None, forgetting=None, changes={})
    plot_trade_off({"points": points, "knee": None, "remark": "x"}).canvas.draw()


def test_names_are_drawn_as_they_are(properties):
    names = ["_hidden", "$x_", "a$b$c", "x" * 100]
    models = dict.fromkeys(names, properties["base"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # How an older matplotlib calls a newer pyparsing.
        warnings.filterwarnings("ignore", message=".*deprecated")
        figure = plot_bands(properties["reference"], models, title="$a_b")
        figure.canvas.draw()
    assert legend_texts(figure) == ["DFT", *map(plain, names)]
    assert len(plain("x" * 100)) < 40


def test_figures_without_any_number_say_so():
    columns = {name: np.array([]) for name in random_columns(1)}
    for plot in (plot_parity, plot_error_histograms):
        axes = plot({"a": columns}).axes[0]
        assert axes.texts[0].get_text() == "no data"
    plot_softening({"a": columns}).canvas.draw()
