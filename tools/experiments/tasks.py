"""What the experiments train: data, models, and how good a model is.

prepare() makes the data's files from Debian's packages; the rest needs numpy and torch alone. A task
numbers its training examples; a batch is a tensor of their numbers.
"""

import functools
import pathlib
import re
import subprocess
import sys

import numpy
import torch
from torch import nn
from torch.nn import functional

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "docs" / "examples"))
import fashion_mnist  # noqa: E402
import speech  # noqa: E402

VOCABULARY = 4096
CONTEXT = 64
SPEECH_FRAMES = 32  # Of a recording, 0.48 seconds.


def prepare(folder):
    """Writes the files of the tasks' data, where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "fashion_mnist.npz").exists():
        name, train, test = fashion_mnist.load_data()
        if name != "Fashion-MNIST":
            raise SystemExit("the package dataset-fashion-mnist is not installed")
        numpy.savez_compressed(folder / "fashion_mnist.npz", images=train[0], labels=train[1],
                               test_images=test[0], test_labels=test[1])
    if not (folder / "kjv.npz").exists():
        numpy.savez_compressed(folder / "kjv.npz", **read_bible())
    if not (folder / "speech.npz").exists():
        numpy.savez_compressed(folder / "speech.npz", **speech.read())


def read_bible():
    """The King James Bible as word numbers; every 20th chapter is for the test."""
    text = subprocess.run(["bible", "-f", "Gen1:1-Rev22:21"], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=True).stdout
    parts = {"train": [], "test": []}
    chapter, chapters = None, 0
    for line in text.splitlines():
        place, verse = line.split(" ", 1)
        if place.split(":")[0] != chapter:
            chapter, chapters = place.split(":")[0], chapters + 1
        part = "test" if chapters % 20 == 0 else "train"
        parts[part] += re.findall(r"[a-z']+|[^\sa-z']", verse.lower())
    words, counts = numpy.unique(parts["train"], return_counts=True)
    kept = words[numpy.argsort(-counts, kind="stable")[:VOCABULARY - 1]]
    numbers = {word: number for number, word in enumerate(kept, 1)}  # 0: any other word.
    return {part: numpy.array([numbers.get(word, 0) for word in sequence], numpy.uint16)
            for part, sequence in parts.items()}


class _Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential() if inputs == outputs else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, inputs):
        hidden = functional.relu(self.norm1(self.conv1(inputs)))
        return functional.relu(self.norm2(self.conv2(hidden)) + self.shortcut(inputs))


def resnet20(width=16):
    """He et al. 2015, for images of one channel: 20 layers, 272,186 parameters at width 16."""
    widths = [width] * 4 + [2 * width] * 3 + [4 * width] * 3
    blocks = [_Block(inputs, outputs, 1 if inputs == outputs else 2)
              for inputs, outputs in zip(widths, widths[1:])]
    return nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                         *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4 * width, 10))


def perceptron(hidden=2048):
    """Three layers, 10.0 million parameters at 2,048: much to send for little to compute."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(),
                         nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                         nn.Linear(hidden, 10))


class _Layer(nn.Module):
    """A Transformer's layer, normalised before each part."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, hidden):
        parts = self.attention_in(self.norm1(hidden)).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.attention_out(mixed.transpose(1, 2).flatten(2))
        return hidden + self.narrow(functional.gelu(self.wide(self.norm2(hidden))))


class Transformer(nn.Module):
    """A language model of words; the embedding is also the output layer. 929,280 parameters."""

    def __init__(self, width=128, layers=2, heads=4):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(CONTEXT, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)
        self.layers = nn.Sequential(*(_Layer(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, words):
        hidden = self.embedding(words) + self.position.weight
        return self.norm(self.layers(hidden)) @ self.embedding.weight.t()


class Listener(nn.Module):
    """Which language a piece of a recording is in: an LSTM of two layers. 824,581 parameters."""

    def __init__(self, width=256):
        super().__init__()
        self.lstm = nn.LSTM(speech.BANDS, width, num_layers=2, batch_first=True)
        self.out = nn.Linear(width, len(speech.LANGUAGES))

    def forward(self, frames):
        return self.out(self.lstm(frames)[0].mean(1))


class _Classification:
    """inputs(batch, is_test) and labels[is_test] are those of a batch's places."""

    measure = "accuracy"

    def loss(self, model, batch):
        return functional.cross_entropy(model(self.inputs(batch)), self.labels[False][batch])

    def test(self, model, batch):
        """(right answers, answers), to be summed over the test's examples."""
        right = model(self.inputs(batch, is_test=True)).argmax(1) == self.labels[True][batch]
        return right.sum(), right.numel()

    @staticmethod
    def value(total, count):
        return total / count


class Images(_Classification):
    """Fashion-MNIST."""

    def __init__(self, folder, device, make_model=resnet20):
        arrays = numpy.load(folder / "fashion_mnist.npz")
        self.make_model = make_model
        self.images, self.labels = (
            {is_test: torch.from_numpy(arrays[f"{prefix}{part}"]).to(device)
             for is_test, prefix in ((False, ""), (True, "test_"))} for part in ("images", "labels"))
        self.train_count, self.test_count = len(self.images[False]), len(self.images[True])

    def inputs(self, batch, is_test=False):
        return fashion_mnist.to_input(self.images[is_test][batch])


class Words:
    """The King James Bible: the next of 4,096 words from up to 64 before it."""

    measure = "perplexity"
    make_model = Transformer

    def __init__(self, folder, device):
        arrays = numpy.load(folder / "kjv.npz")
        self.train_words, self.test_words = (
            torch.from_numpy(arrays[part].astype(numpy.int64)).to(device)
            for part in ("train", "test"))
        self.offsets = torch.arange(CONTEXT + 1, device=device)
        self.train_count, self.test_count = ((len(words) - 1) // CONTEXT
                                             for words in (self.train_words, self.test_words))

    def _sequences(self, words, batch):
        return words[batch.unsqueeze(1) * CONTEXT + self.offsets]

    def inputs(self, batch):
        return self._sequences(self.train_words, batch)[:, :-1]

    def _losses(self, model, words, batch, reduction):
        sequences = self._sequences(words, batch)
        return functional.cross_entropy(model(sequences[:, :-1]).flatten(0, 1),
                                        sequences[:, 1:].flatten(), reduction=reduction)

    def loss(self, model, batch):
        return self._losses(model, self.train_words, batch, "mean")

    def test(self, model, batch):
        """(sum of the losses, words)"""
        return self._losses(model, self.test_words, batch, "sum"), batch.numel() * CONTEXT

    @staticmethod
    def value(total, count):
        return numpy.exp(total / count)


class Speech(_Classification):
    """Recorded prompts: the language of 0.48 seconds."""

    make_model = Listener

    def __init__(self, folder, device):
        arrays = numpy.load(folder / "speech.npz")
        self.frames = torch.from_numpy(arrays["frames"]).to(device)
        self.offsets = torch.arange(SPEECH_FRAMES, device=device)
        self.starts, self.labels = {}, {}
        begins = numpy.cumsum(arrays["lengths"]) - arrays["lengths"]
        for is_test in (False, True):
            pieces = [(start, label) for begin, length, label, tested
                      in zip(begins, arrays["lengths"], arrays["labels"], arrays["is_test"])
                      if tested == is_test for start in
                      range(begin, begin + length - SPEECH_FRAMES + 1, SPEECH_FRAMES // 2)]
            self.starts[is_test], self.labels[is_test] = torch.tensor(pieces, device=device).T
        self.train_count, self.test_count = len(self.starts[False]), len(self.starts[True])

    def inputs(self, batch, is_test=False):
        return self.frames[self.starts[is_test][batch].unsqueeze(1) + self.offsets].float() / speech.SCALE


TASKS = {"resnet20": Images, "transformer": Words, "lstm": Speech,
         "perceptron": functools.partial(Images, make_model=perceptron)}
