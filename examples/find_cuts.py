"""A small model that answers questions about pictures. Parts of it learn nothing: where does gradient end?

python examples/find_cuts.py

The model has three mistakes, in this file and in `find_cuts_parts.py`. Can you find them before you run it?
"""

import torch
from find_cuts_parts import Pictures
from torch import nn
from torch.nn.functional import cross_entropy

import rowgrad


class Answers(nn.Module):
    """Pictures (B, 3, 32, 32) and questions (B, T) of 50 words -> logits (B, 10) of ten answers."""

    def __init__(self):
        super().__init__()
        self.pictures = Pictures()
        self.words = nn.Embedding(50, 16)
        self.question = nn.GRU(16, 16, batch_first=True)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, pictures, questions):
        seen = self.pictures(pictures)
        with torch.no_grad():
            _, last = self.question(self.words(questions))
        both = torch.cat([seen, last[0]], dim=1)
        return self.head(both)


def main():
    torch.manual_seed(0)
    model = Answers()
    pictures, questions, answers = torch.randn(8, 3, 32, 32), torch.randint(50, (8, 6)), torch.randint(10, (8,))

    def step():
        return cross_entropy(model(pictures, questions), answers)

    found = rowgrad.find_cuts(model, step)
    print(found)
    # How to read it: each number is a place, with its line of code and the function that it is in. "without it,
    # gradient would reach" names the parameters that learn nothing because of this line alone. "it stops" is the share
    # of the squared gradient that ends there: 0.2 % of all is the whole gradient of the first layer. A cosine near 1
    # says that the whole gradient points almost the same way without the place. The last list has all parameters
    # without gradient, and the numbers of the places that cut them. An unused one has no place: look for its layer in
    # `forward`. You decide which places are mistakes. Here, all are.
    return found


if __name__ == "__main__":
    main()
