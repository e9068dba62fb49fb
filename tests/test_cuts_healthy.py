"""Healthy networks: no cut on the way to the loss, and every parameter is reached."""

from __future__ import annotations

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
import torchvision.models as vision
from conftest import QUICK, build, configure
from torch import nn
from torch.nn import functional
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy
from torchvision.models.convnext import CNBlockConfig

import rowgrad
from rowgrad.data.batches import Batch

CLASSES = 5
BLOCKS = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
SWIN = {"patch_size": [4, 4], "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": [4, 4]}
VIT = {"image_size": 16, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
DENSE = {"growth_rate": 4, "block_config": (2, 2, 1, 1), "num_init_features": 8}
MAXVIT = {"stem_channels": 8, "partition_size": 2, "block_channels": [8], "block_layers": [1], "head_dim": 4}
# A function that makes the network, and the size of its images.
VISION = {
    "resnet18": (vision.resnet18, 32),
    "mobilenet_v3_small": (vision.mobilenet_v3_small, 32),
    "efficientnet_b0": (vision.efficientnet_b0, 32),
    "vit": (partial(vision.VisionTransformer, **VIT), 16),
    "swin": (partial(vision.SwinTransformer, **SWIN, stochastic_depth_prob=0.1), 32),
    "swin_v2": (partial(vision.SwinTransformer, **SWIN, block=vision.swin_transformer.SwinTransformerBlockV2), 32),
    "convnext": (partial(vision.ConvNeXt, BLOCKS), 32),
    "densenet": (partial(vision.DenseNet, **DENSE), 32),
    "regnet": (vision.regnet_y_400mf, 32),
    "squeezenet": (vision.squeezenet1_1, 32),
    "shufflenet": (vision.shufflenet_v2_x0_5, 32),
    "mnasnet": (vision.mnasnet0_5, 32),
    "maxvit": (partial(vision.MaxVit, (32, 32), **MAXVIT, stochastic_depth_prob=0.1), 32),
}


def assert_healthy(module, step):
    torch.manual_seed(0)
    found = rowgrad.find_cuts(module, step)
    assert not [cut for cut in found.cuts if cut.reaches_loss is not False], str(found)
    statuses = {name: one.status for name, one in found.parameters.items()}
    assert statuses == dict.fromkeys(dict(module.named_parameters()), "reached")
    return found


def assert_classifies(module, *inputs, classes=CLASSES):
    assert_healthy(module, lambda: cross_entropy(module(*inputs), torch.arange(len(inputs[0])) % classes))


@pytest.mark.parametrize("name", VISION)
def test_a_network_of_torchvision(name):
    make, size = VISION[name]
    torch.manual_seed(0)
    network = make(num_classes=CLASSES)
    if name == "vit":
        nn.init.normal_(network.heads.head.weight)  # see below
    assert_classifies(network, torch.randn(4, 3, size, size))


def test_a_head_that_starts_at_zero_lets_nothing_through():
    """So it is in torchvision: before the first step, a vision transformer's head is all that learns."""
    torch.manual_seed(0)
    network, images = vision.VisionTransformer(**VIT, num_classes=CLASSES), torch.randn(4, 3, 16, 16)
    found = rowgrad.find_cuts(network, lambda: cross_entropy(network(images), torch.arange(4)))
    (cut,) = [cut for cut in found.cuts if cut.reaches_loss is not False]
    assert (cut.kind, cut.operation, cut.module) == ("zero derivative", "linear", "heads.head")
    dead = {name for name, one in found.parameters.items() if one.status == "dead"}
    assert dead == set(found.parameters) - {"heads.head.weight", "heads.head.bias"}


def test_a_detach_of_a_library_is_named_in_the_library():
    torch.manual_seed(0)
    network = vision.optical_flow.raft_small(weights=None)
    images = torch.randn(2, 1, 3, 128, 128)
    found = rowgrad.find_cuts(network, lambda: sum(flow.abs().mean() for flow in network(*images, num_flow_updates=2)))
    (cut,) = [cut for cut in found.cuts if cut.reaches_loss and cut.kind == "detach"]
    assert cut.file == vision.optical_flow.raft.__file__
    assert cut.code.startswith("coords1 = coords1.detach()")
    assert cut.count == 2
    assert {one.status for one in found.parameters.values()} == {"reached"}


def test_a_network_with_auxiliary_losses():
    torch.manual_seed(0)
    network = vision.googlenet(num_classes=CLASSES, init_weights=False)
    images, classes = torch.randn(2, 3, 64, 64), torch.arange(2)
    assert_healthy(
        network, lambda: {part: cross_entropy(out, classes) for part, out in network(images)._asdict().items()}
    )


def test_a_segmentation_network():
    torch.manual_seed(0)
    network = vision.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=CLASSES)
    images, classes = torch.randn(2, 3, 32, 32), torch.randint(0, CLASSES, (2, 32, 32))
    assert_healthy(network, lambda: cross_entropy(network(images)["out"], classes))


class Recurrent(nn.Module):
    """An LSTM over sequences of different lengths, packed."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, dropout=0.2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        lengths = torch.tensor([6, 4, 3])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        padded, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.head(padded.sum(1) / lengths[:, None])


def test_a_packed_lstm():
    torch.manual_seed(0)
    assert_classifies(Recurrent(), torch.randn(3, 6, 3))


class Translator(nn.Module):
    """torch's whole transformer, with masks."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(7, 8), nn.Linear(8, 7)
        self.transformer = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        decoded = self.transformer(self.tokens(source), self.tokens(target), tgt_mask=mask, tgt_is_causal=True)
        return self.head(decoded.mean(1))


def test_a_whole_transformer():
    torch.manual_seed(0)
    assert_classifies(Translator(), torch.randint(0, 7, (3, 5)), torch.randint(0, 7, (3, 4)))


class Norms(nn.Module):
    """Every normalisation, weight normalisation, tied weights, and changes in place."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(
            [nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True), nn.BatchNorm1d(4), nn.LayerNorm(6), nn.RMSNorm(6)]
        )
        self.weighted = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.heads = nn.ModuleList([nn.Linear(4, CLASSES), nn.Linear(4, CLASSES)])
        self.heads[1].weight = self.heads[0].weight

    def forward(self, x):
        for norm in self.norms:
            x = functional.leaky_relu_(norm(x) + 0.1)
        x = self.weighted(x).add_(1).mul_(0.5)
        pooled = x.max(2).values + x.mean(2)
        return self.heads[0](pooled) + self.heads[1](pooled.clone().clamp_(-9, 9))


def test_normalisations_tied_weights_and_changes_in_place():
    torch.manual_seed(0)
    network = Norms()
    assert_classifies(network, torch.randn(3, 4, 6))


def test_spectral_normalisation_has_a_power_iteration_without_gradient():
    torch.manual_seed(0)
    network, x = nn.utils.parametrizations.spectral_norm(nn.Linear(3, CLASSES)), torch.randn(4, 3)
    found = rowgrad.find_cuts(network, lambda: cross_entropy(network(x), torch.arange(4)))
    assert {one.status for one in found.parameters.values()} == {"reached"}
    assert {cut.kind for cut in found.cuts if cut.reaches_loss is not False} <= {"no_grad"}


def test_sparse_gradients():
    torch.manual_seed(0)
    bag, head = nn.EmbeddingBag(5, 3, sparse=True), nn.Linear(3, CLASSES)
    tokens = torch.tensor([[0, 1], [2, 3]])
    assert_healthy(nn.ModuleList([bag, head]), lambda: cross_entropy(head(bag(tokens)), torch.arange(2)))


def test_a_compiled_module():
    torch.manual_seed(0)
    network, x = torch.compile(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, CLASSES))), torch.randn(4, 3)
    assert_healthy(network, lambda: cross_entropy(network(x), torch.arange(4)))


class Logging(pl.LightningModule):
    """A LightningModule that logs, with a metric of torchmetrics."""

    def __init__(self):
        super().__init__()
        self.network, self.accuracy = nn.Linear(3, CLASSES), MulticlassAccuracy(CLASSES)

    def training_step(self, batch, batch_idx):
        logits = self.network(batch[0])
        loss = cross_entropy(logits, batch[1])
        self.accuracy(logits, batch[1])
        self.log_dict({"loss": loss, "accuracy": self.accuracy}, prog_bar=True)
        return loss


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_module_that_logs():
    torch.manual_seed(0)
    module, batch = Logging(), (torch.randn(4, 3), torch.arange(4))
    for found in (rowgrad.find_cuts(module, batch), assert_healthy(module, lambda: module.training_step(batch, 0))):
        assert {one.status for one in found.parameters.values()} == {"reached"}
        assert not [cut for cut in found.cuts if cut.reaches_loss is not False]
    assert module.accuracy.update_count == 0


def test_a_relaxed_discrete_variable_of_torch():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)))
    head, x = nn.Linear(3, CLASSES), torch.randn(4, 4)
    both = nn.ModuleList([network, head])

    def step():
        return cross_entropy(head(functional.gumbel_softmax(network(x), hard=True).sum(1)), torch.arange(4))

    torch.manual_seed(0)
    found = rowgrad.find_cuts(both, step)
    assert {one.status for one in found.parameters.values()} == {"reached"}


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_autocast(precision):
    torch.manual_seed(0)
    network, x = (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(64, CLASSES)),
        torch.randn(3, 1, 6, 6),
    )

    def step():
        with torch.autocast("cpu", precision):
            logits = network(x)
        return cross_entropy(logits.float(), torch.arange(3))

    assert_healthy(network, step)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(reentrant):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, CLASSES))
    x = torch.randn(3, 3, requires_grad=True)

    def step():
        hidden = torch.utils.checkpoint.checkpoint(network[:3], x, use_reentrant=reentrant)
        return cross_entropy(network[3](hidden), torch.arange(3))

    assert_healthy(network, step)


@pytest.mark.parametrize("model", ["cnn", "mlp", "rnn", "gru", "lstm", "transformer"])
def test_the_networks_of_this_project(model):
    _, module = build(configure(*QUICK, f"model={model}", "scenario=baseline"))
    batch = Batch(torch.randn(4, 1, 28, 28), torch.arange(4), 0, 1.0)
    assert_healthy(module, lambda: module.training_step(batch, 0))


def test_a_lightning_module_and_a_batch():
    _, module = build(configure(*QUICK, "model=mlp", "scenario=baseline"))
    batch = Batch(torch.randn(4, 1, 28, 28), torch.arange(4), 0, 1.0)
    found = rowgrad.find_cuts(module, batch)
    assert {one.status for one in found.parameters.values()} == {"reached"}
    assert not [cut for cut in found.cuts if cut.reaches_loss is not False]


TINY = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
TOKENS = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# Configuration and its values, class of the model.
HUGGING_FACE = {
    "bert": ("BertConfig", TINY | TOKENS, "BertForSequenceClassification"),
    "gpt2": ("GPT2Config", TOKENS | {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 8}, "GPT2LMHeadModel"),
    "t5": (
        "T5Config",
        TOKENS | {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
        "T5ForConditionalGeneration",
    ),
    "vit": ("ViTConfig", TINY | {"image_size": 16, "patch_size": 8}, "ViTForImageClassification"),
    "llama": ("LlamaConfig", TINY | TOKENS | {"num_key_value_heads": 1}, "LlamaForCausalLM"),
}


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_a_network_of_hugging_face(name):
    transformers = pytest.importorskip("transformers")
    config, values, network = HUGGING_FACE[name]
    torch.manual_seed(0)
    module = getattr(transformers, network)(getattr(transformers, config)(**values)).train()
    tokens, classes = torch.randint(3, 20, (4, 6)), torch.arange(4) % 2
    inputs = {"pixel_values": torch.randn(4, 3, 16, 16)} if name == "vit" else {"input_ids": tokens}
    labels = tokens if network.endswith(("LM", "LMHeadModel", "Generation")) else classes
    assert_healthy(module, lambda: module(**inputs, labels=labels))
