"""Random numbers as a function of (seed, step, purpose, image)."""

import pytest
import torch
from scipy import stats

from rowgrad.randomness import Draw, hash64

pytestmark = pytest.mark.gpu


def test_the_hash_is_splitmix64():
    # The first output of SplitMix64 with seed 0, as published with Java's SplittableRandom and in Vigna's C code.
    assert hash64(0) == 0xE220A8397B1DCDAF


def test_uniform_numbers_are_splitmix64_of_a_counter():
    def splitmix(state):
        mask = 2**64 - 1
        z = state & mask
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    key = hash64(7, 3, "word")
    expected = [(splitmix(key + i * 0x9E3779B97F4A7C15) >> 40) / 2**24 for i in range(6)]
    assert Draw(7, 3).uniform("word", (2, 3)).flatten().tolist() == expected


def test_an_image_gets_the_same_numbers_in_any_micro_batch(device):
    whole = Draw(1, 5).normal("noise", (8, 1, 4, 4), torch.device(device))
    parts = [Draw(1, 5, first).normal("noise", (2, 1, 4, 4), torch.device(device)) for first in range(0, 8, 2)]
    assert torch.cat(parts).equal(whole)


def test_every_device_draws_the_same_uniform_numbers(device):
    assert Draw(1, 2).uniform("x", (50, 3), torch.device(device)).cpu().equal(Draw(1, 2).uniform("x", (50, 3)))


def test_drawing_on_a_cpu_does_not_seed_the_generators_of_gpus(monkeypatch):
    def seeded(*_):
        raise AssertionError("a network on a GPU would drop other units")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    with Draw(0, 1).torch_seeded("transform", torch.device("cpu")):
        torch.rand(3)


def test_the_numbers_are_uniform_and_normal(device):
    where = torch.device(device)
    uniform = Draw(0, 0).uniform("u", (20_000,), where).cpu().numpy()
    normal = Draw(0, 0).normal("n", (20_000,), where).cpu().numpy()
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert abs(stats.pearsonr(normal[:-1], normal[1:]).statistic) < 0.03


@pytest.mark.parametrize("other", [Draw(1, 0), Draw(0, 1), Draw(0, 0, first=1000)])
def test_seeds_steps_and_images_are_independent(other):
    pair = [draw.uniform("u", (1000,)).numpy() for draw in (Draw(0, 0), other)]
    assert abs(stats.pearsonr(*pair).statistic) < 0.12


def test_torchs_generators_are_restored(device):
    where = torch.device(device)
    torch.manual_seed(0)
    expected = torch.rand(3, device=where)
    torch.manual_seed(0)
    with Draw(0, 4).torch_seeded("x", where):
        first = torch.rand(3, device=where)
    assert torch.rand(3, device=where).equal(expected)
    with Draw(0, 4).torch_seeded("x", where):
        assert torch.rand(3, device=where).equal(first)
