"""Operations by hand-computed numbers, and what a scenario lets the network and the observers see."""

import pytest
import torch
from torchvision.transforms import v2

from rowgrad.errors import UserError
from rowgrad.operations import read_operation
from rowgrad.randomness import Draw
from rowgrad.scenario import Scenario

DRAW = Draw(seed=0, step=0)
IMAGE = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[None, None]


def seen(scenario, image=IMAGE):
    return scenario(image, DRAW)[0, 0].tolist()


@pytest.mark.parametrize(
    ("text", "first_row"),
    [
        ("none", [1, 2, 3]),
        ("shift 1", [2, 3, 4]),
        ("shift", [2, 3, 4]),
        ("shift -0.5", [0.5, 1.5, 2.5]),
        ("scale 2", [2, 4, 6]),
        ("flip", [3, 2, 1]),
        ("erase 7", [7, 7, 7]),
    ],
)
def test_operations_by_hand(text, first_row):
    assert read_operation(text)(IMAGE, DRAW)[0, 0, 0].tolist() == first_row


def test_blur_averages_with_gaussian_weights():
    image = torch.zeros(1, 1, 9, 9)
    image[..., 4, 4] = 1
    blurred = read_operation("blur 1")(image, DRAW)[0, 0]
    weight = torch.exp(-(torch.arange(-3, 4) ** 2) / 2)
    weight /= weight.sum()
    torch.testing.assert_close(blurred[1:8, 1:8], weight[:, None] * weight)


def test_noise_has_its_standard_deviation():
    noise = read_operation("noise 0.5")(torch.zeros(50, 1, 28, 28), DRAW)
    assert abs(noise.std() - 0.5) < 0.01
    assert abs(noise.mean()) < 0.01


def test_any_torchvision_transform_works_by_name_or_as_an_object():
    named = read_operation("RandomRotation 90")(IMAGE.repeat(1, 1, 4, 4), DRAW)
    built = read_operation(v2.RandomRotation(90))(IMAGE.repeat(1, 1, 4, 4), DRAW)
    assert named.equal(built)
    assert not named.equal(IMAGE.repeat(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shfit 1", "there is no operation 'shfit'. Accepted: none, shift, scale"),
        ("shift one", "after the name come numbers"),
        ("shift 1 2", "shift takes offset"),
        ("flip 1", "flip takes no number"),
        ("", "there is no operation ''"),
        ("RandomRotation", "torchvision's RandomRotation says"),
        ("functional", "there is no operation 'functional'"),
    ],
)
def test_an_unknown_operation_says_what_is_accepted(text, words):
    with pytest.raises(UserError, match=words):
        read_operation(text)


def test_replace_feeds_the_result_to_the_network_in_the_selected_rows_only():
    scenario = Scenario(rows=1, operation="shift 1", height=2)
    assert seen(scenario) == [[1, 2, 3], [5, 6, 7]]


def test_observe_shows_the_result_to_observers_only():
    scenario = Scenario(rows=0, operation="scale 0.5", route="observe", height=2)
    assert scenario(IMAGE, DRAW) is IMAGE
    assert scenario.observed(IMAGE, DRAW)[0, 0].tolist() == [[0.5, 1, 1.5], [4, 5, 6]]


def test_exclude_shows_the_network_black():
    scenario = Scenario(rows=1, operation="scale 2", route="exclude", black=-0.5, height=2)
    assert seen(scenario) == [[1, 2, 3], [-0.5, -0.5, -0.5]]
    assert scenario.observed(IMAGE, DRAW)[0, 0].tolist() == [[1, 2, 3], [8, 10, 12]]


@pytest.mark.parametrize(("when", "sees"), [("train", [1, 2, 3]), ("train and eval", [2, 3, 4])])
def test_when_decides_whether_evaluation_sees_the_scenario(when, sees):
    scenario = Scenario(rows=0, operation="shift 1", when=when, height=2)
    assert seen(scenario)[0] == [2, 3, 4]
    assert seen(scenario.eval())[0] == sees


def test_probability_is_per_image_and_the_others_are_cut_too():
    scenario = Scenario(rows=0, operation="shift 1", probability=0.25, height=2)
    images = torch.zeros(2000, 1, 2, 3, requires_grad=True)
    out = scenario(images, DRAW)
    shifted = out[:, 0, 0, 0] == 1
    assert 0.2 < shifted.float().mean() < 0.3
    assert out[:, 0, 1].eq(0).all()
    out.sum().backward()
    assert images.grad is not None
    assert images.grad[:, 0, 0].eq(0).all()
    assert images.grad[:, 0, 1].eq(1).all()


def test_an_operation_that_changes_the_shape_is_refused():
    scenario = Scenario(rows=0, operation=lambda images: images[..., :1], height=2)
    with pytest.raises(UserError, match=r"shape \(1, 1, 2, 3\) into \(1, 1, 2, 1\)"):
        scenario(IMAGE, DRAW)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("route", "drop", "scenario.route=drop is not one of replace, observe, exclude"),
        ("when", "eval", "scenario.when=eval is not one of train, train and eval"),
        ("detach", "maybe", "scenario.detach=maybe is not true or false"),
        ("probability", 1.5, "scenario.probability=1.5 is not a number from 0 to 1"),
        ("probability", "half", "scenario.probability=half is not a number"),
        ("rows", "0:0", "scenario.rows=0:0 names no row"),
    ],
)
def test_a_value_that_is_not_accepted_is_named(key, value, words):
    with pytest.raises(UserError, match=words):
        Scenario(**{key: value}, height=28)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "No row is selected: the network sees the images as they are."),
        (
            {"rows": "0:14", "operation": "shift 1", "probability": 0.5},
            "Rows 0–13 are detached, shifted by +1 with probability 0.5 and fed to the network.",
        ),
        (
            {"rows": 5, "operation": "scale 2", "detach": False, "route": "exclude"},
            "Row 5 is scaled by 2 for observers only; the network sees black in their place.",
        ),
    ],
)
def test_a_scenario_says_itself_in_one_sentence(settings, sentence):
    assert Scenario(**settings, height=28).sentence() == sentence
