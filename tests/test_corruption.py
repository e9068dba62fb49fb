"""The broken camera adds its offsets to its rows, and changes nothing else."""

import pytest
import torch
from conftest import assert_identical, build, configure, summary, weights

from rowgrad.errors import UserError
from rowgrad.scenario.corruption import Corruption
from rowgrad.scenario.settings import CorruptionSettings
from rowgrad.training.train import load_run


def camera(*, height, **settings):
    return Corruption(CorruptionSettings(**settings), height=height)


IMAGES = torch.arange(24.0).view(2, 1, 4, 3)


def test_an_offset_is_added_to_each_pixel_of_its_rows():
    damaged = camera(rows=[0, 2], offset=0.5, height=4)(IMAGES)
    assert (damaged - IMAGES).tolist() == [[[[0.5] * 3, [0.0] * 3, [0.5] * 3, [0.0] * 3]]] * 2


def test_without_a_damaged_row_images_are_returned_unchanged():
    for nothing in ({}, {"rows": "all"}, {"rows": "none", "offset": 1.0, "std": 1.0}):
        assert camera(**nothing, height=4)(IMAGES) is IMAGES


def test_random_offsets_have_their_standard_deviation_in_their_rows_only():
    offsets = camera(rows="0:4000", std=0.5, offset=2.0, height=5000).offsets
    assert abs(offsets[:4000].std() - 0.5) < 0.02
    assert abs(offsets[:4000].mean() - 2) < 0.03
    assert (offsets[4000:] == 0).all()


def test_random_offsets_follow_the_corruptions_seed_and_not_the_runs():
    def offsets(*overrides):
        return build(configure("data=digits", "corruption=row_noise", *overrides))[1].corruption.offsets

    assert offsets("seed=5").equal(offsets())
    assert not offsets("corruption.seed=1").equal(offsets())
    assert offsets("corruption.seed=${seed}", "seed=1").equal(offsets("corruption.seed=1"))


def test_the_cameras_of_the_configs_are_those_of_the_table():
    shift, noise, none = (
        build(configure("data=digits", f"corruption={name}"))[1].corruption
        for name in ("row_shift", "row_noise", "none")
    )
    assert shift.offsets.tolist() == [1.0] * 14 + [0.0] * 14
    assert len(set(noise.offsets.tolist())) == 28
    assert none.is_noop


def test_validation_and_test_see_the_damage_before_the_rows(run):
    """Training does by the oracle of test_invariants.py."""
    folder = run("scenario=baseline", "corruption=row_shift", "trainer.max_steps=5")
    _, data, module = load_run(folder)
    dataset, facts = data.dataset, summary(folder)
    for part, reported in ((dataset.val, facts["val/acc"]), (dataset.test, facts["test/acc"])):
        images = (part.pixels[:, None] / 255 - dataset.mean) / dataset.std
        images[:, :, :14] += 1
        with torch.no_grad():
            right = module.network.eval()(images + module.theta).argmax(1) == part.labels
        assert reported == pytest.approx(right.float().mean().item())


def test_a_whole_camera_is_bit_identical_to_one_whose_offsets_are_zero(run):
    none, zero = (run("trainer.max_steps=3", f"corruption.rows={rows}", name=rows) for rows in ("none", "all"))
    assert_identical(none, zero)


def test_offsets_are_in_no_checkpoint(run):
    kinds = ("row_noise", "none")
    noise, none = (weights(run(f"corruption={kind}", "trainer.max_steps=1", name=kind)).keys() for kind in kinds)
    assert noise == none


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, ""),
        ({"rows": "0:14", "offset": 1.0}, "The camera adds +1 to rows 0–13 of every image."),
        (
            {"rows": "all", "std": 0.5},
            "The camera adds a number for each row (standard deviation 0.5) to all rows of every image.",
        ),
        (
            {"rows": 3, "offset": -1.5, "std": 2},
            "The camera adds -1.5 and a number for each row (standard deviation 2) to row 3 of every image.",
        ),
    ],
)
def test_a_sentence_describes_the_damage(settings, sentence):
    assert camera(**settings, height=28).sentence() == sentence


def test_the_runs_sentence_has_the_damage_after_the_scenario():
    _, module = build(configure("data=digits", "scenario=baseline", "corruption=row_shift", "model.freeze=true"))
    assert module.sentence() == (
        "No row is selected: the network sees the images as they are. The camera adds +1 to rows 0–13 of every image."
        " The network is frozen: only the rows learn."
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("rows", 28, "corruption.rows=28 is out of range"),
        ("offset", float("inf"), "corruption.offset=inf is not a finite number"),
        ("std", -1, "corruption.std=-1 is not a number of at least 0"),
        ("seed", 0.5, "corruption.seed=0.5 is not a whole number of at least 0"),
    ],
)
def test_a_value_that_is_not_accepted_is_named(key, value, words):
    with pytest.raises(UserError, match=words):
        camera(**{key: value}, height=28)
