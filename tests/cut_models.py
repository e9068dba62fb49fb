"""Small networks of many kinds, each with places at which gradient can be made to end.

At most one place is planted at a time: the one whose name is `cut`; without a name, the network learns everywhere.
Comments mark the lines:

- `# cut: kind (operation) @ Class.name`: ends gradient if it is planted;
- `# wanted: kind @ Class`: the architecture itself ends gradient here;
- `# looked at: kind @ Class`: values that never reach the loss.
"""

# ruff: noqa: ARG001, ARG004 torch prescribes these arguments

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable


class Network(nn.Module):
    """A network with its own data, and a `step` that returns its loss.

    Attributes:
        teachers: prefixes of the parameters that want gradient and are not meant to get any.
    """

    teachers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, cut: str = ""):
        super().__init__()
        self.cut = cut
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.build()


class Residual(Network):
    """A block of a residual network."""

    def build(self):
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.branch = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
        )
        self.head, self.scale = nn.Linear(4, 3), nn.Parameter(torch.tensor(0.7))
        self.images, self.classes = torch.randn(4, 3, 5, 5), torch.arange(4) % 3
        if self.cut == "weight-hook":
            self.stem.weight.register_hook(lambda gradient: gradient * 0)  # cut: hook @ Residual.weight-hook

    def step(self):
        logits = self(self.images)
        hits = logits.argmax(1) == self.classes  # looked at: not differentiable @ Residual
        self.accuracy = hits.float().mean()
        self.highest = logits.max().item()  # looked at: exit @ Residual
        return cross_entropy(logits, self.classes)

    def forward(self, images):
        x = self.stem(images)
        shortcut = x.detach() if self.cut == "shortcut" else x  # cut: detach @ Residual.shortcut
        with torch.no_grad() if self.cut == "branch" else nullcontext():  # cut: no_grad @ Residual.branch
            branch = self.branch(x)
        if self.cut == "scale":
            branch.data.mul_(self.scale)  # cut: .data @ Residual.scale
        else:
            branch = branch * self.scale
        if self.cut == "mask":
            branch = branch * torch.zeros(4, 1, 1)  # cut: zero derivative (mul) @ Residual.mask
        mixed = torch.empty_like(x)
        mixed[:, :2] = x[:, :2].detach() if self.cut == "slice" else x[:, :2]  # cut: detach @ Residual.slice
        mixed[:, 2:] = shortcut[:, 2:]
        pooled = functional.relu(mixed + branch).mean((2, 3))
        return self.head(pooled.data if self.cut == "pooled" else pooled)  # cut: .data @ Residual.pooled


class Lstm(Network):
    """An LSTM with truncated backpropagation: the state is carried over from window to window, without its past."""

    def build(self):
        self.embedding, self.lstm = nn.Embedding(7, 4), nn.LSTM(4, 5, batch_first=True)
        self.gate, self.head, self.temperature = nn.Linear(5, 5), nn.Linear(5, 7), nn.Parameter(torch.tensor(0.5))
        self.tokens = torch.randint(0, 7, (3, 9))

    def step(self):
        state, losses = None, []
        for window in (self.tokens[:, :5], self.tokens[:, 4:]):
            state = state and tuple(part.detach() for part in state)  # wanted: detach @ Lstm
            logits, state = self(window[:, :-1], state)
            losses.append(cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()))
        return torch.stack(losses).mean()

    def forward(self, tokens, state):
        with torch.inference_mode(self.cut == "embedding"):  # cut: inference_mode @ Lstm.embedding
            embedded = self.embedding(tokens)
        hidden, state = self.lstm(embedded.clone(), state)
        gate = self.gate(hidden)
        if self.cut == "gate":
            gate.detach_()  # cut: detach_ @ Lstm.gate
        opening = gate.sigmoid()
        if self.cut == "opening":
            opening = (gate > 0).to(gate.dtype)  # cut: not differentiable (gt) @ Lstm.opening
        temperature = self.temperature
        if self.cut == "temperature":
            temperature = float(self.temperature) * 0.9  # cut: exit (__float__) @ Lstm.temperature
        if self.cut == "softness":
            temperature = math.exp(self.temperature)  # cut: exit (__float__) @ Lstm.softness
        if self.cut == "steps":
            opening = opening.ceil()  # cut: zero derivative (ceil) @ Lstm.steps
        return self.head(hidden * opening) * temperature, state


class Gru(Network):
    """A GRU cell in a loop."""

    def build(self):
        self.cell, self.start, self.head = nn.GRUCell(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)
        self.series, self.classes = torch.randn(6, 5, 3), torch.arange(5) % 2
        self.carry = lambda state: state.detach() if self.cut == "lambda" else state  # cut: detach @ Gru.lambda

    def step(self):
        state = self.start(self.series[0])
        if self.cut == "start-tensor":
            state = torch.tensor(state)  # cut: exit (tensor) @ Gru.start-tensor
        if self.cut == "start-new-tensor":
            state = state.new_tensor(state)  # cut: exit (new_tensor) @ Gru.start-new-tensor
        if self.cut == "start-list":
            state = torch.tensor(state.tolist())  # cut: exit (tolist) @ Gru.start-list
        if self.cut == "start-hook":
            state.register_hook(torch.zeros_like)  # cut: hook @ Gru.start-hook
        if self.cut == "start-clamp":
            state = state.clamp(max=-9)  # cut: zero derivative (clamp) @ Gru.start-clamp
        for time in range(1, 6):
            burns_in = self.cut == "burn-in" and time <= 2
            with torch.set_grad_enabled(not burns_in):  # cut: set_grad_enabled @ Gru.burn-in
                state = self.cell(self.series[time], state)
            state = self.carry(state)
        return cross_entropy(self.head(state), self.classes)


class FrozenPart:
    """Functions that are decorated."""

    @staticmethod
    @torch.no_grad()  # cut: no_grad @ Encoder.two-decorators
    def projected(linear: nn.Linear, x: Tensor) -> Tensor:
        return linear(x)

    @torch.no_grad()  # cut: no_grad @ Encoder.decorator
    def summed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + positions


class Encoder(Network):
    """torch's transformer encoder, with learnt positions."""

    def build(self):
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.project, self.head = nn.Linear(3, 8), nn.Linear(8, 4)
        self.positions, self.sharpness = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.tensor(1.5))
        self.patches, self.classes = torch.randn(4, 6, 3), torch.arange(4)

    def step(self):
        if self.cut == "two-decorators":
            x = FrozenPart.projected(self.project, self.patches)
        else:
            x = self.project(self.patches)
        positions = self.positions
        if self.cut == "numpy":
            positions = torch.from_numpy(positions.numpy(force=True))  # cut: exit (numpy) @ Encoder.numpy
        if self.cut == "detached-numpy":
            positions = torch.as_tensor(positions.detach().numpy() * 2)  # cut: exit (numpy) @ Encoder.detached-numpy
        if self.cut == "sign":
            positions = positions.sign()  # cut: zero derivative (sign) @ Encoder.sign
        if self.cut == "dropout":
            positions = functional.dropout(positions, p=1.0)  # cut: zero derivative (dropout) @ Encoder.dropout
        x = FrozenPart().summed(x, positions) if self.cut == "decorator" else x + positions
        tokens = self.encoder(anchored(x, self.cut == "far-away"))
        sharpness = self.sharpness
        if self.cut == "item":
            sharpness = sharpness.item() + 1  # cut: exit (item) @ Encoder.item
        return cross_entropy(self.head(tokens[:, 0]) * sharpness, self.classes)


def anchored(x: Tensor, planted: bool) -> Tensor:
    return x - 0.5 * centre_of(x, planted)


def centre_of(x: Tensor, planted: bool) -> Tensor:
    return constant(x.mean(1, keepdim=True), planted)


def constant(x: Tensor, planted: bool) -> Tensor:
    return x.detach() if planted else x  # cut: detach @ Encoder.far-away


class ZeroBackward(torch.autograd.Function):
    """Lets values through, and zeros back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.zeros_like(gradient)


class NoBackward(torch.autograd.Function):
    """Lets values through, and nothing back."""

    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        return None


class Scaled(torch.autograd.Function):
    """x · scale, where the author has forgotten the derivative with respect to the scale."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(scale)
        return x * scale

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None


class Constant(torch.autograd.Function):
    """Marks its result as not differentiable."""

    @staticmethod
    def forward(ctx, x):
        y = x.clone()
        ctx.mark_non_differentiable(y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Attention(Network):
    """Two heads of attention, written out."""

    def build(self):
        self.query, self.key, self.value = (nn.Linear(4, 6, bias=False) for _ in range(3))
        self.buckets, self.slope = nn.Embedding(4, 1), nn.Parameter(torch.rand(5))
        self.head = nn.Linear(6, 2)
        self.x, self.target = torch.randn(3, 5, 4), torch.randn(3, 2)
        self.known = torch.rand(3, 1, 5, 1) > 0.5

    def step(self):
        query, key, value = (part(self.x).unflatten(2, (2, 3)).transpose(1, 2) for part in self.parts())
        if self.cut == "where":
            value = torch.where(self.known, value, value.detach())  # cut: detach @ Attention.where
        if self.cut == "comprehension":
            key = torch.stack([head.detach() for head in key.unbind(1)], 1)  # cut: detach @ Attention.comprehension
        if self.cut == "zero-function":
            query = ZeroBackward.apply(query)  # cut: custom Function (ZeroBackward) @ Attention.zero-function
        if self.cut == "constant-function":
            value = Constant.apply(value)  # cut: custom Function (Constant) @ Attention.constant-function
        slope = self.slope
        if self.cut == "bucket":
            slope = (self.slope * 4).long().float()  # cut: not differentiable (long) @ Attention.bucket
        if self.cut == "round":
            slope = self.slope.round()  # cut: zero derivative (round) @ Attention.round
        bias = slope * self.buckets(torch.arange(5) % 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return mse_loss(self.head(mixed.transpose(1, 2).flatten(2).mean(1)), self.target)

    def parts(self):
        return self.query, self.key, self.value


class Distillation(Network):
    """A student learns from its own moving average."""

    teachers = ("teacher.",)

    def build(self):
        self.student, self.teacher = nn.Linear(4, 6), nn.Linear(4, 6)
        self.project, self.sharpness = nn.Linear(6, 3), nn.Parameter(torch.tensor(0.3))
        self.views = torch.randn(2, 5, 4)

    def step(self):
        with torch.no_grad():  # wanted: no_grad @ Distillation
            for average, weight in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                average.mul_(0.9).add_(weight, alpha=0.1)
        with torch.no_grad():  # wanted: no_grad @ Distillation
            target = self.teacher(self.views[1])
        features = self.student(self.views[0])
        if self.cut == "features":
            features = features.data  # cut: .data @ Distillation.features
        features = self.project(features)
        centre = features.mean(0)
        if self.cut == "centre":
            centre.detach_()  # cut: detach_ @ Distillation.centre
        sharpness = self.sharpness.exp()
        if self.cut == "sharpness":
            sharpness = np.float32(sharpness.item())  # cut: exit (item) @ Distillation.sharpness
        if self.cut == "switch":
            torch.set_grad_enabled(False)  # cut: set_grad_enabled @ Distillation.switch
        logits = (features - centre) * sharpness
        torch.set_grad_enabled(True)
        return cross_entropy(logits, target[:, :3].softmax(1))


def silence(module, gradients, _):  # cut: hook @ SimSiam.module-hook
    return tuple(torch.zeros_like(gradient) for gradient in gradients)


class SimSiam(Network):
    """Two views, one encoder, and a predictor on one side."""

    def build(self):
        self.encoder = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))
        self.predictor = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 5))
        self.offset, self.views = nn.Parameter(torch.randn(5)), torch.randn(2, 6, 4)
        if self.cut == "module-hook":
            self.predictor.register_full_backward_hook(silence)

    def step(self):
        return self.distance(*self.views) + self.distance(*self.views.flip(0))

    def distance(self, view, other):
        z, target = self.encoder(view), self.encoder(other)
        p = self.predictor(self.offset_by(z))
        if self.cut == "no-function":
            p = NoBackward.apply(p)  # cut: custom Function (NoBackward) @ SimSiam.no-function
        if self.cut == "prediction":
            p.register_hook(lambda gradient: gradient.mul(0))  # cut: hook @ SimSiam.prediction
        return -functional.cosine_similarity(p, target.detach(), dim=1).mean()  # wanted: detach @ SimSiam

    def offset_by(self, z):
        with torch.inference_mode() if self.cut == "offset" else nullcontext():  # cut: inference_mode @ SimSiam.offset
            offset = self.offset * 2
        offset = offset.clone()
        if self.cut == "in-place":
            offset.detach_()  # cut: detach_ @ SimSiam.in-place
        offset *= 3
        with torch.set_grad_enabled(self.cut != "latent"):  # cut: set_grad_enabled @ SimSiam.latent
            return z + offset


class Gan(Network):
    """A generator and a critic with a penalty on its gradient: two losses."""

    def build(self):
        self.generator = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3))
        self.shift = nn.Parameter(torch.rand(3))
        self.critic = nn.Sequential(nn.Linear(3, 6), nn.Softplus(), nn.Linear(6, 1))
        self.noise, self.real = torch.randn(5, 2), torch.randn(5, 3)

    def step(self):
        fake = self.generator(self.noise)
        shift = self.shift
        if self.cut == "shift-list":
            shift = torch.tensor([each.item() for each in self.shift])  # cut: exit (item) @ Gan.shift-list
        if self.cut == "shift-closeness":
            shift = shift.isclose(shift.max()).float()  # cut: not differentiable (isclose) @ Gan.shift-closeness
        if self.cut == "shift-data":
            shift = self.shift.data  # cut: .data @ Gan.shift-data
        critic = self.critic(fake.detach()).mean() - self.critic(self.real).mean()  # wanted: detach @ Gan
        fake = fake + shift
        penalty = self.penalty((fake + self.real) / 2)
        return critic + penalty, -self.critic(fake).mean()

    def penalty(self, mixed):
        score, wanted = self.critic(mixed).sum(), self.cut != "penalty"
        (slope,) = torch.autograd.grad(score, mixed, create_graph=wanted)  # cut: create_graph @ Gan.penalty
        return (slope.norm(dim=1) - 1).square().mean()


class Quantized(Network):
    """A VQ-VAE: nearest codes, with a straight-through gradient."""

    def build(self):
        self.encoder, self.decoder = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), nn.Linear(3, 6)
        self.codes, self.gain = nn.Parameter(torch.randn(5, 3)), nn.Linear(3, 3)
        self.x = torch.randn(7, 6)

    def step(self):
        z = self.encoder(self.x)
        nearest = torch.cdist(z, self.codes).argmin(1)  # wanted: not differentiable @ Quantized
        with torch.no_grad() if self.cut == "codes" else nullcontext():  # cut: no_grad @ Quantized.codes
            chosen = self.codes[nearest]
        commitment = mse_loss(z, chosen.detach())  # wanted: detach @ Quantized
        codebook = mse_loss(chosen, z.detach())  # wanted: detach @ Quantized
        through = z + (chosen - z).detach()  # wanted: detach @ Quantized
        reconstructed = self.decoder(self.amplified(through))
        return mse_loss(reconstructed, self.x) + codebook + 0.25 * commitment

    def amplified(self, z):
        torch.set_grad_enabled(mode=self.cut != "gain")  # cut: set_grad_enabled @ Quantized.gain
        gain = self.gain(z)
        torch.set_grad_enabled(mode=True)
        out = torch.zeros_like(z)
        out[..., 1:] = z[..., 1:] * gain[..., 1:]
        out[..., 0].copy_(gain[..., 0].detach() if self.cut == "copy" else gain[..., 0])  # cut: detach @ Quantized.copy
        return out


class ActorCritic(Network):
    """Policy gradient with a learnt baseline."""

    def build(self):
        self.body, self.mean, self.value = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 1)
        self.log_std, self.discount = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.tensor(2.0))
        self.states, self.rewards = torch.randn(6, 4), torch.randn(6)

    def step(self):
        features = self.body(self.states).tanh()
        with torch.inference_mode(self.cut == "features"):  # cut: inference_mode @ ActorCritic.features
            shared = features.exp()
        policy = torch.distributions.Normal(self.mean(shared.clone()), self.deviation())
        action = policy.sample()  # wanted: no_grad @ ActorCritic
        value = self.value(features).squeeze(1)
        advantage = (self.returns() - value).detach()  # wanted: detach @ ActorCritic
        return mse_loss(value, self.returns()) - (policy.log_prob(action).sum(1) * advantage).mean()

    def deviation(self):
        log_std = self.log_std
        if self.cut == "deviation":
            log_std = log_std.clamp(1, 2)  # cut: zero derivative (clamp) @ ActorCritic.deviation
        if self.cut == "list":
            log_std = torch.tensor([each * 0.5 for each in log_std.tolist()])  # cut: exit (tolist) @ ActorCritic.list
        return log_std.exp()

    def returns(self):
        discount = self.discount.sigmoid()
        if self.cut == "discount":
            discount = discount.new_tensor(discount)  # cut: exit (new_tensor) @ ActorCritic.discount
        weights = torch.ones(6)
        for time in range(1, 6):
            weights[time:] *= discount.detach() if self.cut == "loop" else discount  # cut: detach @ ActorCritic.loop
        return self.rewards * weights


class Gumbel(Network):
    """Discrete latents: hard samples of a relaxed distribution, with a straight-through gradient."""

    def build(self):
        self.encoder, self.decoder, self.rate = nn.Linear(4, 6), nn.Linear(3, 4), nn.Parameter(torch.rand(3) + 0.2)
        self.x = torch.randn(5, 4)

    def step(self):
        logits = self.encoder(self.x).unflatten(1, (2, 3))
        noise = -torch.empty_like(logits).exponential_().log()
        soft = (logits + noise).softmax(2)
        hard = functional.one_hot(soft.argmax(2), 3).to(soft.dtype)  # wanted: not differentiable @ Gumbel
        sample = hard - soft.detach() + soft  # wanted: detach @ Gumbel
        return mse_loss(self.decoder((sample * self.rates()).sum(1)), self.x)

    def rates(self):
        rate = self.rate
        if self.cut == "order":
            rate = rate.argsort().add(1).float()  # cut: not differentiable (argsort) @ Gumbel.order
        if self.cut == "bins":
            edges = torch.arange(0, 1, 0.1)
            rate = torch.bucketize(rate, edges) / 10  # cut: not differentiable (bucketize) @ Gumbel.bins
        if self.cut == "integer":
            rate = rate.mul(10).to(torch.int32) / 10  # cut: not differentiable (to) @ Gumbel.integer
        if self.cut == "copied":
            rate = torch.tensor(rate, dtype=torch.float32)  # cut: exit (tensor) @ Gumbel.copied
        if self.cut == "in-place":
            rate = (rate * 1).detach_()  # cut: detach_ @ Gumbel.in-place
        return rate


class Experts(Network):
    """A mixture of experts, of which two are asked."""

    def build(self):
        self.router = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)) for _ in range(3))
        self.scale, self.x, self.target = nn.Parameter(torch.randn(2)), torch.randn(8, 4), torch.randn(8, 2)
        if self.cut == "dead-unit":
            nn.init.constant_(self.experts[0][0].bias, -100)

    def step(self):
        weights, chosen = self.router(self.x).softmax(1).topk(2)  # wanted: not differentiable @ Experts
        if self.cut == "votes":
            weights = weights.gt(0.4).float()  # cut: not differentiable (gt) @ Experts.votes
        out = torch.zeros(8, 2)
        for number, expert in enumerate(self.experts):
            rows, rank = torch.where(chosen == number)
            answer = self.answer(expert, self.x[rows])
            if self.cut == "expert" and number == 1:
                answer = answer.detach()  # cut: detach @ Experts.expert
            out = out.index_add(0, rows, answer * weights[rows, rank, None])
        if self.cut == "function":
            out = Scaled.apply(out, self.scale)  # cut: custom Function (Scaled) @ Experts.function
            return mse_loss(out, self.target)
        return mse_loss(out * self.scale, self.target)

    def answer(self, expert, x):
        hidden = expert[0](x)
        hidden = functional.relu(hidden)  # cut: zero derivative (relu) @ Experts.dead-unit
        with torch.inference_mode(self.cut == "hidden"):  # cut: inference_mode @ Experts.hidden
            hidden = hidden + 1
        return expert[2](hidden.clone())


class Checkpointed(Network):
    """An autoencoder that recomputes its activations in the backward pass."""

    def build(self):
        self.encoder, self.code, self.decoder = nn.Linear(6, 4), nn.Linear(4, 2), nn.Linear(2, 6)
        self.x = torch.randn(5, 6)

    def step(self):
        code = checkpoint(self.encode, self.x, use_reentrant=False)
        return mse_loss(checkpoint(self.decode, code, use_reentrant=False), self.x)

    def encode(self, x):
        hidden = self.encoder(x).tanh()
        with torch.no_grad() if self.cut == "recomputed" else nullcontext():  # cut: no_grad @ Checkpointed.recomputed
            hidden = hidden * 2
        return self.code(hidden)

    def decode(self, code):
        if self.cut == "code":
            code = code.detach()  # cut: detach @ Checkpointed.code
        if self.cut == "floor":
            code = code.floor()  # cut: zero derivative (floor) @ Checkpointed.floor
        return self.decoder(code)


class Forces(Network):
    """Energies whose slopes are forces, as in physics; the loss is on both. Two inputs want gradient."""

    def build(self):
        self.hidden, self.energy = nn.Linear(3, 6), nn.Linear(6, 1, bias=False)
        self.charge = nn.Parameter(torch.rand(6))
        self.places, self.field = torch.randn(4, 3, requires_grad=True), torch.randn(1, 3, requires_grad=True)
        self.target, self.forces = torch.randn(4, 1), torch.randn(4, 3)

    def step(self):
        field = self.field.data if self.cut == "field" else self.field  # cut: .data @ Forces.field
        energy = self.energy(self.hidden(self.places + field).tanh())
        slopes = slope(energy, self.places, self.cut != "slopes")
        charges = self.energy(self.charge.sin())
        wanted = self.cut != "charge"
        (pull,) = torch.autograd.grad(charges, self.charge, create_graph=wanted)  # cut: create_graph @ Forces.charge
        return mse_loss(energy, self.target) + mse_loss(-slopes, self.forces) + pull.square().sum()


def slope(energy, places, wanted):
    (slopes,) = torch.autograd.grad(  # cut: create_graph @ Forces.slopes
        energy.sum(),  # the call is on more than one line
        places,
        retain_graph=True,
        create_graph=wanted,
    )
    return slopes


class Adapted(Network):
    """Meta-learning: the loss after one step of gradient descent that is itself differentiated."""

    def build(self):
        self.weight, self.rate = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.tensor(0.1))
        self.head = nn.Linear(3, 1)
        self.support, self.query = torch.randn(2, 6, 4)
        self.target = torch.randn(6, 1)

    def step(self):
        inner, whole = mse_loss(self.predict(self.support, self.weight), self.target), self.cut != "order"
        (slope,) = torch.autograd.grad(inner, self.weight, create_graph=whole)  # cut: create_graph @ Adapted.order
        return mse_loss(self.predict(self.query, self.weight - self.rate * slope), self.target)

    def predict(self, x, weight):
        return self.head(functional.linear(x, weight).tanh())


NETWORKS: dict[str, Callable[..., Network]] = {network.__name__: network for network in Network.__subclasses__()}
