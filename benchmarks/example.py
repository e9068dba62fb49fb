"""Training time to 99 %: the default run and PyTorch's MNIST example, until that first reaches 99.0 % (minutes).

The example: two convolutions (32 and 64 of 3×3) with ReLU, max-pooling, dropout 0.25, 9216–128, dropout 0.5, 128–10;
Adadelta at 1.0, times 0.7 after each epoch; batch 64 from torchvision's data set, shuffled. Tested after every epoch;
the test's time is not counted.
"""

from __future__ import annotations

import torch
from bare import now
from measure import Result, apart, configure, main, say
from recipe import default_run
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

GOAL = 99.0


@apart
def example(device: str, seed: int, root: str, *, quick: bool) -> tuple[float, list[float]]:
    """Seconds of training until the test accuracy is 99.0 %, and the accuracy in percent after each epoch."""
    torch.manual_seed(seed)
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    train, test = (datasets.MNIST(root, train=part, transform=steps) for part in (True, False))
    more = {"num_workers": 1, "pin_memory": True, "persistent_workers": True} if device == "cuda" else {}
    loader = DataLoader(train, 64, shuffle=True, **more)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.Adadelta(network.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
    seconds, accuracy = 0.0, [0.0]
    while accuracy[-1] < GOAL and len(accuracy) <= 14:  # noqa: PLR2004  (the example's own number of epochs)
        begun = now()
        network.train()
        for number, (images, labels) in enumerate(loader):
            loss = cross_entropy(network(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if quick and number == 2:  # noqa: PLR2004
                return now() - begun, [0.0]
        schedule.step()
        seconds += now() - begun
        network.eval()
        with torch.inference_mode():
            hits = [(network(i.to(device)).argmax(1).cpu() == t).sum() for i, t in DataLoader(test, 1000)]
        accuracy.append(100 * int(sum(hits)) / len(test))
        say(f"epoch {len(accuracy) - 1}: {accuracy[-1]:.2f} % after {seconds:.1f} s")
    return seconds, accuracy[1:]


def measure(device: str, quick: bool = False) -> list[Result]:
    """Runs the example once, which takes minutes, and default runs before and after it."""
    runs = [default_run(device, seed, quick=quick) for seed in range(1 if quick else 3)]
    seconds, epochs = example(device, 0, configure().data.root, quick=quick)
    runs += [default_run(device, seed, quick=quick) for seed in range(3, 3 if quick else 6)]
    what = "training time to 99.0 % ÷ that of PyTorch's MNIST example until it first reaches 99.0 %"
    values = {"default run": [time for time, *_ in runs], "example": [seconds]}
    notes = {
        "test accuracy in percent": {"default run": [reached for _, reached, _ in runs]},
        "of the example after epoch": {str(number): [reached] for number, reached in enumerate(epochs, 1)},
    }
    bound = "≤ 0.04" if device == "cpu" else "≤ 0.02"
    return [Result("example", what, ("default run", "example"), bound, "s", values, notes)]


if __name__ == "__main__":
    main(__doc__, measure)
