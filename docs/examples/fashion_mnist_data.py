"""Fashion-MNIST for the examples, from Debian's package dataset-fashion-mnist; where it is not installed,
scikit-learn's digits."""

import gzip
import pathlib
import sys

import numpy

FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")


def read_idx(path):
    """An array in the IDX format: two zero bytes, type, rank, extents (big endian), elements."""
    data = gzip.decompress(path.read_bytes())
    dimensions = data[3]
    shape = numpy.frombuffer(data, ">i4", dimensions, 4)
    return numpy.frombuffer(data, numpy.uint8, -1, 4 + 4 * dimensions).reshape(shape)


def read_part(part):
    """Images (uint8, N x H x W) and labels (uint8) of the package's "train" or "t10k"."""
    return [read_idx(FASHION_MNIST / f"{part}-{content}.gz")
            for content in ("images-idx3-ubyte", "labels-idx1-ubyte")]


def read_digits():
    """scikit-learn's, as large as the package's images: training images and labels, and for the test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("There is nothing to train with: install Debian's package dataset-fashion-mnist, or scikit-learn "
                 "(pip install scikit-learn).")
    digits = load_digits()
    images = (digits.images * 15).astype(numpy.uint8).repeat(4, 1).repeat(4, 2)[:, 2:30, 2:30]
    labels = digits.target.astype(numpy.uint8)
    return images[:1500], labels[:1500], images[1500:], labels[1500:]


def load_data():
    """Name, training and test images (uint8, N x H x W) and labels (int32)."""
    if FASHION_MNIST.is_dir():
        arrays = [*read_part("train"), *read_part("t10k")]
        name = "Fashion-MNIST"
    else:
        arrays = read_digits()
        name = "scikit-learn's digits (dataset-fashion-mnist is not installed)"
    train, train_labels, test, test_labels = arrays
    return name, (train, train_labels.astype(numpy.int32)), (test, test_labels.astype(numpy.int32))
