"""Operations against hand-computed numbers, and the images that a scenario gives to the network and the observers."""

import pytest
import torch
from conftest import build, configure
from torchvision.transforms import v2

from rowgrad.errors import UserError
from rowgrad.randomness import Draw
from rowgrad.scenario.operations import read_operation, with_greys
from rowgrad.scenario.scenario import Scenario

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
        ("quantise 2", [1, 1, 1]),
    ],
)
def test_operations_give_hand_computed_values(text, first_row):
    assert read_operation(text)(IMAGE, DRAW)[0, 0, 0].tolist() == first_row


def test_blur_averages_with_gaussian_weights():
    image = torch.zeros(1, 1, 9, 9)
    image[..., 4, 4] = 1
    blurred = read_operation("blur 1")(image, DRAW)[0, 0]
    weight = torch.exp(-(torch.arange(-3, 4) ** 2) / 2)
    weight /= weight.sum()
    torch.testing.assert_close(blurred[1:8, 1:8], weight[:, None] * weight)


@pytest.mark.parametrize(("operation", "mean"), [("noise 0.5", 100), ("static 0.5", 0)])
def test_noise_is_added_to_the_image_and_static_replaces_it(operation, mean):
    result = read_operation(operation)(torch.full((50, 1, 28, 28), 100.0), DRAW)
    assert abs(result.std() - 0.5) < 0.01
    assert abs(result.mean() - mean) < 0.01


@pytest.mark.parametrize(
    ("levels", "expected"),
    [("2", [-1, -1, -1, 3, 3, 3]), ("3", [-1, -1, 1, 1, 3, 3]), ("5", [-1, 0, 1, 1, 3, 3])],
)
def test_quantise_takes_the_nearest_of_evenly_spaced_greys_from_black_to_white(levels, expected):
    images = torch.tensor([-9.0, -0.2, 0.9, 1.4, 2.9, 50.0])[None, None, None]
    quantise = with_greys(read_operation(f"quantise {levels}"), black=-1.0, white=3.0)
    assert quantise(images, DRAW).flatten().tolist() == expected


def test_quantise_knows_the_data_sets_black_and_white():
    data, module = build(configure("data=digits", "scenario.operation=quantise 2"))
    assert (data.dataset.black, data.dataset.white) == (pytest.approx(-0.3050 / 0.3244), pytest.approx(0.6950 / 0.3244))
    pixels = (torch.tensor([0.0, 127.0, 128.0, 255.0]) / 255 - 0.3050) / 0.3244
    binary = module.scenario.operation(pixels[None, None, None], DRAW).flatten().tolist()
    assert binary == pytest.approx([data.dataset.black] * 2 + [data.dataset.white] * 2)


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
        ("quantise 2 0 1", "quantise takes levels"),
        ("quantise 1", "levels=1.0 is not a whole number of at least 2"),
        ("quantise 2.5", "levels=2.5 is not a whole number of at least 2"),
        ("quantise inf", "inf is not a finite number"),
        ("", "there is no operation ''"),
        ("RandomRotation", "torchvision's RandomRotation says"),
        ("functional", "there is no operation 'functional'"),
    ],
)
def test_an_unknown_operation_is_an_error_that_names_the_accepted_ones(text, words):
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


def draws(count, seed=0):
    return [Draw(seed, step) for step in range(count)]


def mask_of(scenario, draw, count=5):
    return scenario.mask(torch.zeros(count, 1, 28, 2), draw).expand(count, 1, 28, 1)[:, 0, :, 0]


@pytest.mark.parametrize("k", [0, 1, 6, 7])
def test_k_of_the_selected_rows_are_drawn_at_each_step(k):
    scenario = Scenario(rows=["3:9", -1], random_rows=k, height=28)
    masks = torch.stack([mask_of(scenario, draw) for draw in draws(300)])
    assert (masks.sum(-1) == k).all()
    assert masks.eq(masks[:, :1]).all()  # all images of a step have the same rows
    assert not masks[..., [0, 1, 2, *range(9, 27)]].any()
    shares = masks[:, 0, [*range(3, 9), 27]].float().mean(0)
    assert (shares - k / 7).abs().max() < 0.1


def test_random_rows_are_a_function_of_seed_and_step():
    def masks(seed, first):
        scenario = Scenario(rows="all", random_rows=9, height=28)
        return torch.stack([mask_of(scenario, Draw(seed, step, first)) for step in range(20)])

    assert masks(0, 0).equal(masks(0, 64))  # for every micro-batch
    assert not masks(0, 0).equal(masks(1, 0))
    assert len({tuple(row.tolist()) for row in masks(0, 0)[:, 0]}) == 20


def test_in_evaluation_each_image_has_random_rows_of_its_own_in_any_batch():
    scenario = Scenario(rows="all", random_rows=9, height=28).eval()
    whole = mask_of(scenario, Draw(0, -1, 0), 50)
    parts = [mask_of(scenario, Draw(0, -1, 0), 20), mask_of(scenario, Draw(0, -1, 20), 30)]
    assert torch.cat(parts).equal(whole)
    assert (whole.sum(1) == 9).all()
    assert len({tuple(row.tolist()) for row in whole}) == 50


@pytest.mark.parametrize("route", ["replace", "exclude", "observe"])
def test_random_rows_are_the_rows_that_are_cut_and_changed(route):
    scenario = Scenario(rows="all", random_rows=5, operation="erase 7", route=route, black=-3.0, height=28)
    images = torch.zeros(4, 1, 28, 6, requires_grad=True)
    chosen = mask_of(scenario, DRAW, 4)[0]
    out = scenario(images, DRAW)
    value = {"replace": 7.0, "exclude": -3.0, "observe": 0.0}[route]
    assert out[:, 0, chosen].eq(value).all()
    assert out[:, 0, ~chosen].eq(0).all()
    assert scenario.observed(images, DRAW)[:, 0, chosen].eq(7).all()
    out.sum().backward()
    assert images.grad is not None
    assert images.grad[:, 0, ~chosen].eq(1).all()
    assert images.grad[:, 0, chosen].eq(1 if route == "observe" else 0).all()


def test_with_0_random_rows_images_are_returned_unchanged():
    assert Scenario(rows="all", random_rows=0, operation="shift 1", height=2)(IMAGE, DRAW) is IMAGE


def test_a_scenario_is_active_in_the_steps_of_its_schedule_only():
    scenario = Scenario(rows=0, operation="shift 1", from_step=2, to_step=4, height=2)
    active = [scenario(IMAGE, draw) is not IMAGE for draw in draws(6)]
    assert active == [False, False, True, True, False, False]
    settings = {"from_step": 2, "to_step": 4, "when": "train and eval"}
    evaluation = Scenario(rows=0, operation="shift 1", height=2, **settings).eval()
    assert [evaluation(IMAGE, Draw(0, -1), step) is not IMAGE for step in range(6)] == active
    assert not any(scenario.eval()(IMAGE, Draw(0, -1), step) is not IMAGE for step in range(6))


@pytest.mark.parametrize("operation", ["quantise 2", "scale 3", "shift 1", "flip", "noise 1", "erase 0"])
def test_straight_through_has_the_operations_values_and_the_identitys_gradient(operation):
    images = torch.linspace(-1, 2, 24).view(2, 1, 4, 3).requires_grad_()
    settings = {"rows": "0:2", "operation": operation, "detach": False, "height": 4}
    plain, through = Scenario(**settings), Scenario(**settings, straight_through=True)
    assert through(images, DRAW).equal(plain(images, DRAW))
    weights = torch.arange(24.0).view_as(images)
    (gradient,) = torch.autograd.grad((through(images, DRAW) * weights).sum(), images)
    assert gradient.equal(weights)


def test_with_detach_there_is_no_gradient_to_pass_straight_through():
    images = torch.linspace(-1, 2, 12).view(1, 1, 4, 3).requires_grad_()
    scenario = Scenario(rows="0:2", operation="quantise 2", straight_through=True, height=4)
    (gradient,) = torch.autograd.grad(scenario(images, DRAW).sum(), images)
    assert gradient[:, :, :2].eq(0).all()
    assert gradient[:, :, 2:].eq(1).all()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("random_rows", 1, "scenario.random_rows=1 is not at most 0, the number of rows in scenario.rows"),
        ("random_rows", -1, "scenario.random_rows=-1 is not a whole number of at least 0"),
        ("from_step", 0.5, "scenario.from_step=0.5 is not a whole number of at least 0"),
        ("to_step", 0, "scenario.to_step=0 is not a whole number of at least 1"),
        ("straight_through", 1, "scenario.straight_through=1 is not true or false"),
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
        (
            {"rows": "0:14", "random_rows": 3, "from_step": 200},
            (
                "3 of rows 0–13, drawn anew at each step, are detached, left as they are and fed to the network,"
                " from step 200 on."
            ),
        ),
        (
            {"rows": "all", "operation": "quantise 2", "detach": False, "straight_through": True, "to_step": 9},
            (
                "All rows are quantised to 2 levels, with their gradient passed straight through, and fed to"
                " the network, up to step 8."
            ),
        ),
        (
            {"rows": 5, "operation": "static", "straight_through": True, "from_step": 2, "to_step": 9},
            (
                "Row 5 is detached, replaced by noise of standard deviation 1 and fed to the network,"
                " from step 2 to step 8."
            ),
        ),
        ({"rows": "all", "random_rows": 0}, "No row is selected: the network sees the images as they are."),
    ],
)
def test_a_sentence_describes_the_scenario(settings, sentence):
    assert Scenario(**settings, height=28).sentence() == sentence
