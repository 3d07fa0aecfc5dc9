"""The quality of generated images: distances in the features of a classifier of the real ones, and their classes."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bundle.manifest import Quality
from evaluate.classifier import features, identity, predict, trained
from evaluate.fidelity import class_entropy, frechet_distance, precision_recall
from models import data
from models.data import Dataset


class Judge:
    """Compares images with the test set. Distances are in the classifier's own features: they are not Inception's FID.

    `labels` are the classes that the compared images should have: those of `images` test images, drawn once. The same
    test images are the real ones of precision and recall. The Fréchet distance is to the whole test set.
    """

    def __init__(self, train: Dataset, test: Dataset, size: int, images: int, folder: Path) -> None:
        self.name = identity(train, size)
        self.classes = len(test.classes)
        self.classifier = trained(train, size, folder)
        self.real = self._features(torch.from_numpy(data.to_model(test.images, size)))
        drawn = np.random.default_rng(0).permutation(len(test.labels))[:images]
        self.drawn = self.real[drawn]
        self.labels: NDArray[np.int64] = test.labels[drawn]
        real = np.random.default_rng(1).permutation(len(train.labels))[:images]
        self.of_training_images = self.measure(
            torch.from_numpy(data.to_model(train.images[real], size)), torch.from_numpy(train.labels[real])
        )

    def measure(self, images: Tensor, labels: Tensor) -> Quality:
        """The quality of images (n, C, size, size) that were requested with the classes `labels` (n,)."""
        generated = self._features(images)
        precision, recall = precision_recall(self.drawn, generated)
        predicted = predict(self.classifier, images)
        return Quality(
            images=len(images),
            frechet_distance=round(frechet_distance(self.real, generated), 3),
            precision=round(precision, 4),
            recall=round(recall, 4),
            class_agreement=round((predicted == labels).double().mean().item(), 4),
            class_coverage=len(predicted.unique()) / self.classes,
            class_entropy=round(class_entropy(predicted.numpy(), self.classes), 4),
        )

    def _features(self, images: Tensor) -> NDArray[np.float64]:
        return features(self.classifier, images).double().numpy()
