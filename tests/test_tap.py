"""A tap without Lightning: its output and its gradient, against `torch.autograd.grad`."""

import copy
import io
import shutil

import pytest
import torch
from conftest import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from rowgrad.errors import UserError
from rowgrad.tap import RowTap
from rowgrad.watch.norms import row_norms

pytestmark = pytest.mark.gpu


class Net(nn.Module):
    """A tap between two convolutions; without it (`tapped=False`) the same in plain torch."""

    def __init__(self, *, tapped=True):
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3)
        self.tap = RowTap() if tapped else nn.Identity()

    def forward(self, images):
        features = self.tap(self.before(images))
        return self.after(nn.functional.gelu(features)).square().mean((1, 2, 3)).sum()


def oracle(net, images):
    """∂L/∂features for each image, with the features as a leaf of their own."""
    features = net.before(images).detach().requires_grad_()
    loss = net.after(nn.functional.gelu(features)).square().mean((1, 2, 3)).sum()
    return torch.autograd.grad(loss, features)[0]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def net(device):
    torch.manual_seed(0)
    return Net().to(device)


def images_of(net, count=5, height=8, width=6):
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, height, width, generator=generator).to(next(net.parameters()))


ODD = [0.0, -0.0, 1.5, -1.5, float("inf"), -float("inf"), float("nan"), 1e-42, -1e-42, 3e38]


@pytest.mark.filterwarnings("ignore")  # some compilers' own
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_tensor_goes_through_bit_for_bit(device, dtype, compiled):
    x = torch.tensor(ODD, dtype=torch.float64).repeat(4).view(2, 2, 10).to(dtype).to(device)
    tap = RowTap()
    through = torch.compile(tap, backend="aot_eager") if compiled else tap
    for given_ in (x, x.clone().requires_grad_()):
        out = through(given_)
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
        assert out.dtype == dtype
        assert out.detach().view(bits).equal(x.view(bits))


def test_what_comes_back_is_the_gradient_summed_over_the_batch(net):
    for count in (5, 5, 3, 1):  # a smaller batch, and a last one of a single image
        images = images_of(net, count)
        net(images).backward()
        assert net.tap.grad.equal(oracle(net, images).sum(0))
        net.tap.reset()
        assert not net.tap.grad.any()


def test_batches_add_up_as_they_do_in_a_parameter(net):
    several = [images_of(net, count) for count in (4, 2, 7)]
    for images in several:
        net(images).backward()
    wanted = sum(oracle(net, images).sum(0) for images in several)
    torch.testing.assert_close(net.tap.grad, wanted, rtol=1e-6, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=3, max_size=5), seed=st.integers(0, 99))
def test_any_shape_that_has_rows_can_be_tapped(shape, seed):
    torch.manual_seed(seed)
    x, weight = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    tap = RowTap()
    (tap(x).sin() * weight).sum().backward()
    torch.testing.assert_close(tap.grad, (x.cos() * weight).sum(0))
    assert x.grad is None  # it needs none itself


def test_a_tap_that_is_used_twice_keeps_the_sum(device):
    x = torch.randn(4, 3, 2, device=device)
    tap = RowTap()
    (tap(x) * 2 + tap(tap(x)) * 5).sum().backward()
    assert tap.grad.equal(torch.full((3, 2), 4 * (2 + 5 + 5.0), device=device))


def test_a_tap_without_gradient_is_exactly_zero(device):
    tap = RowTap()
    assert tap.grad is None
    x = torch.randn(4, 3, 2, device=device, requires_grad=True)
    (tap(x).detach() * x).sum().backward()
    assert tap.grad.equal(torch.zeros(3, 2, device=device))
    rows = tap(x)
    torch.cat([rows[:, :1].detach(), rows[:, 1:]], 1).sum().backward()
    assert tap.grad.tolist() == [[0, 0], [4, 4], [4, 4]]


def test_it_is_in_no_optimizer_no_checkpoint_and_survives_a_copy(net):
    net(images_of(net)).backward()
    assert len(list(net.parameters())) == 4
    assert not [name for name in net.state_dict() if "tap" in name]
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    for other in (copy.deepcopy(net), torch.load(file, weights_only=False)):
        other.tap.reset()
        other(images_of(net, 2)).backward()
        assert other.tap.grad.equal(oracle(net, images_of(net, 2)).sum(0))
    assert net.tap.grad.equal(oracle(net, images_of(net)).sum(0))
    other = Net().double()
    other(images_of(other)).backward()
    assert other.tap.grad.dtype == torch.float64


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_with_gradients_off_it_returns_its_input(net, off):
    net.eval()
    with off():
        x = images_of(net)
        assert net.tap(x) is x
        net(x)
    assert net.tap.grad is None


def test_it_has_its_own_switch_which_the_modules_methods_leave_alone(net):
    net.tap.enabled = False
    net(images_of(net)).backward()
    assert net.tap.grad is None
    net.tap.enabled = True
    net.requires_grad_(False)
    net.eval()  # a tap in a frozen network is still on
    net(images_of(net)).backward()
    net.zero_grad()
    assert net.tap.grad.equal(oracle(net, images_of(net)).sum(0))


def test_its_output_may_be_changed_in_place(device):
    x = torch.randn(4, 3, 2, device=device, requires_grad=True)
    tap = RowTap()
    nn.functional.relu(tap(x * 2), inplace=True).square().sum().backward()
    torch.testing.assert_close(tap.grad, (4 * x).clamp_min(0).detach().sum(0))


def test_only_backward_counts_and_a_gradient_penalty_counts_as_it_should(device):
    x = torch.randn(4, 3, 2, device=device, dtype=torch.float64, requires_grad=True)
    tap = RowTap()

    def critic(images, through):
        return (through(images) ** 3).sum()

    (slope,) = torch.autograd.grad(critic(x, tap), x, create_graph=True)
    assert not tap.grad.any()  # what the model takes for itself is not the loss's
    ((slope**2).sum() + critic(x, tap)).backward()
    # With τ added to the images: L = Σ (3(x+τ)²)² + Σ (x+τ)³, so ∂L/∂τ = Σ 36 x³ + 3 x².
    torch.testing.assert_close(tap.grad, (36 * x**3 + 3 * x**2).sum(0).detach())


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_activations_count_once(net, reentrant):
    images = images_of(net).requires_grad_()
    checkpoint(net, images, use_reentrant=reentrant).backward()
    assert net.tap.grad.equal(oracle(net, images).sum(0))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_module_is_tapped_without_a_break_in_its_graph(net):
    net(images_of(net)).backward()  # the tap takes its size from its first batch
    net.tap.reset()
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True)
    for count in (5, 3):
        compiled(images_of(net, count)).backward()
        torch.testing.assert_close(net.tap.grad, oracle(net, images_of(net, count)).sum(0), rtol=1e-4, atol=1e-6)
        net.tap.reset()
    with torch.no_grad():
        compiled(images_of(net))
    assert not net.tap.grad.any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_module_is_compiled_without_a_batch_before(net):
    torch.compiler.reset()
    compiled = torch.compile(net, backend="aot_eager")
    for _ in range(2):
        compiled(images_of(net)).backward()
        torch.testing.assert_close(net.tap.grad, oracle(net, images_of(net)).sum(0), rtol=1e-5, atol=1e-7)
        net.tap.reset()


def test_channels_last_keeps_its_memory_format(net):
    net.to(memory_format=torch.channels_last)
    images = images_of(net).contiguous(memory_format=torch.channels_last)
    assert net.tap(net.before(images)).is_contiguous(memory_format=torch.channels_last)
    net(images).backward()
    torch.testing.assert_close(net.tap.grad, oracle(net, images).sum(0), rtol=1e-5, atol=1e-8)


def test_half_precision_is_summed_in_single(net, device):
    images = images_of(net, 64)
    with torch.autocast(device, torch.bfloat16):
        net(images).backward()
    assert net.tap.grad.dtype == torch.float32
    wanted = oracle(net, images).sum(0)
    assert (net.tap.grad - wanted).norm() / wanted.norm() < 0.02
    tap, x = RowTap(), torch.ones(4097, 1, 1, dtype=torch.bfloat16, device=device)
    tap(x).sum().backward()
    assert float(tap.grad) == 4097  # which bfloat16 cannot say


def test_per_image_keeps_the_gradient_of_each_image(net):
    net.tap.per_image = True
    images = images_of(net)
    net(images).backward()
    assert net.tap.image_grads.equal(oracle(net, images))
    net.tap.per_image = False
    net(images_of(net, 2)).backward()  # counts for the sum, not for the images
    assert net.tap.image_grads.equal(oracle(net, images))
    wanted = oracle(net, images).sum(0) + oracle(net, images_of(net, 2)).sum(0)
    torch.testing.assert_close(net.tap.grad, wanted, rtol=1e-6, atol=1e-9)
    net.tap.reset()
    assert net.tap.image_grads is None


def test_sequences_of_different_lengths_are_aligned_at_their_start(device):
    tap, fixed = RowTap(), RowTap(rows=6)
    for length, slope in ((2, 1.0), (4, 10.0), (3, 100.0)):
        for one in (tap, fixed):
            (one(torch.zeros(2, length, 1, device=device)) * slope).sum().backward()
    assert tap.grad.flatten().tolist() == [222, 222, 220, 20]
    assert fixed.grad.flatten().tolist() == [222, 222, 220, 20, 0, 0]


def test_unused_lengths_are_forgotten(device):
    tap = RowTap()
    for length in range(1, 40):
        tap(torch.zeros(2, length, 1, device=device)).sum().backward()
        assert tap.grad.shape == (length, 1)
        tap.reset()
    assert len(tap._sums) == 1


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(4, 3), r"a RowTap got float32 of shape \(4, 3\)"),
        (torch.zeros(4, 3, 2, dtype=torch.long), r"a RowTap got int64 of shape \(4, 3, 2\).*images \(B, C, H, W\)"),
    ],
)
def test_tensors_without_rows_or_gradient_are_refused(x, words):
    with pytest.raises(UserError, match=words):
        RowTap()(x)


LAYOUTS = {
    "Swin and ConvNeXt (B, H, W, C), image rows": ((3, 5, 6, 7), 1),
    "(B, H, W, C), image columns": ((3, 5, 6, 7), 2),
    "1-D convolutions (B, D, T), time steps": ((3, 5, 6), -1),
    "(B, D, T), channels": ((3, 5, 6), 1),
    "volumes (B, C, D, H, W), slices": ((2, 3, 4, 5, 6), 2),
    "volumes, channels": ((2, 3, 4, 5, 6), 1),
}


@pytest.mark.parametrize(("shape", "dim"), LAYOUTS.values(), ids=LAYOUTS)
def test_any_dimension_can_be_rows(shape, dim, device):
    torch.manual_seed(0)
    x, weight = (torch.randn(shape, device=device) for _ in range(2))
    tap, leaf = RowTap(dim=dim), x.clone().requires_grad_()
    (tap(leaf) * weight).sin().sum().backward()
    gradient = weight * (x * weight).cos()  # by hand
    expected = [gradient.select(dim, row).sum(0).norm() for row in range(shape[dim])]
    torch.testing.assert_close(row_norms(tap.grad[None])[0].float(), torch.stack(expected))


WRONG = [
    ({"kind": ""}, "kind=''"),
    ({"labels": "abc"}, "labels='abc'"),
    ({"labels": [1]}, "labels="),
    ({"dim": "rows"}, "dim='rows' is not a whole number"),
    ({"batch_dim": 1.5}, "batch_dim=1.5 is not a whole number"),
    ({"rows": -1}, "rows=-1 is not a whole number of at least 0"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_a_tap_refuses_what_it_cannot_mean(words, message):
    with pytest.raises(UserError, match=message):
        RowTap(**words)


@pytest.mark.parametrize("dims", [{"dim": 3}, {"dim": -4}, {"dim": 0}, {"batch_dim": 1, "dim": -2}, {"batch_dim": 9}])
def test_a_tap_refuses_a_tensor_without_its_dimensions(dims):
    with pytest.raises(UserError, match=r"a RowTap got shape \(2, 4, 5\), which does not have both a batch dimension"):
        RowTap(**dims)(torch.ones(2, 4, 5))


def test_a_tap_of_ones_own_may_have_parameters_and_parts():
    class Scaled(RowTap):
        def __init__(self):
            super().__init__()
            self.scale, self.part = nn.Parameter(torch.ones(())), nn.Linear(2, 2)

    assert [*dict(Scaled().named_parameters())] == ["scale", "part.weight", "part.bias"]


def test_what_rows_are_is_said_in_words():
    assert repr(RowTap(kind="head", labels=["a"])) == "RowTap(kind=head, labels=('a',))"
