"""Recorded speech as frames: the prompts of Debian's asterisk-core-sounds-*-wav, in five languages.

Each language has one speaker, so to tell them apart is to tell languages and voices apart. The files
have 8,000 samples a second.
"""

import pathlib
import wave

import numpy

SOUNDS = pathlib.Path("/usr/share/asterisk/sounds")
LANGUAGES = ("en", "es", "fr", "it", "ru")
BANDS = 32
SCALE = 8  # Of int8 to a band's deviation.
_WINDOW, _HOP = 256, 120  # Samples: 32 ms, every 15 ms.
_SILENCE_DB = 40  # A frame so far below the file's loudest is left out.


def read():
    """Arrays: frames (int8, frames x bands), and of each file lengths (frames), labels and is_test.

    A prompt is for the test in all languages or in none; these are every 10th.
    """
    bands = _mel_bands()
    paths = {path: label for label, language in enumerate(LANGUAGES)
             for folder in SOUNDS.glob(f"{language}_*") for path in sorted(folder.rglob("*.wav"))
             if "silence" not in path.parts}
    prompts = sorted({_prompt(path) for path in paths})
    test = set(prompts[::10])
    files = [(_frames(path, bands), label, _prompt(path) in test) for path, label in paths.items()]
    return {"frames": numpy.concatenate([frames for frames, _, _ in files]),
            "lengths": numpy.array([len(frames) for frames, _, _ in files]),
            "labels": numpy.array([label for _, label, _ in files]),
            "is_test": numpy.array([is_test for _, _, is_test in files])}


def _prompt(path):
    return str(path.relative_to(SOUNDS).relative_to(path.relative_to(SOUNDS).parts[0]))


def _mel_bands():
    """Triangular bands of equal width in mel up to 4,000 Hz: frequencies x bands."""
    frequencies = numpy.linspace(0, 4000, _WINDOW // 2 + 1)
    edges = 700 * (numpy.exp(numpy.linspace(numpy.log1p(100 / 700), numpy.log1p(4000 / 700),
                                            BANDS + 2)) - 1)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequencies[:, None] - low) / (middle - low)
    falling = (high - frequencies[:, None]) / (high - middle)
    return numpy.maximum(0, numpy.minimum(rising, falling))


def _frames(path, bands):
    """Logarithms of a file's energies, each band with mean 0 and deviation 1, times SCALE as int8: what
    a recording's loudness and channel add is the same in all its frames, and so taken away."""
    with wave.open(str(path)) as file:
        samples = numpy.frombuffer(file.readframes(file.getnframes()), "<i2").astype(numpy.float32)
    samples = numpy.pad(samples, (0, max(0, _WINDOW - len(samples))))
    windows = numpy.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    power = numpy.abs(numpy.fft.rfft(windows * numpy.hanning(_WINDOW))) ** 2
    loudness = 10 * numpy.log10(power.sum(1) + 1)
    energies = numpy.log(power[loudness > loudness.max() - _SILENCE_DB] @ bands + 1)
    energies = (energies - energies.mean(0)) / (energies.std(0) + 1e-3)
    return numpy.clip(numpy.round(SCALE * energies), -127, 127).astype(numpy.int8)
