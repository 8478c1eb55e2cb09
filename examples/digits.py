"""Train a small convolutional net on scikit-learn's handwritten digits.

    python examples/digits.py
    callboard fit examples/digits.py --epochs 20 --schedule one-cycle --lr 0.01

Mixup, one-cycle, early stopping, the best model saved and a CSV log: each is a package
of its own. 1,797 images of 8 x 8 pixels, half a minute on a CPU, about 99 % accuracy.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from callboard import DataLoaders, Learner
from callboard.callbacks import (
    CSVLogger,
    EarlyStoppingCallback,
    MixUp,
    SaveModelCallback,
)
from callboard_recorder import accuracy


def digits(batch_size: int = 64) -> DataLoaders:
    """The digits as pictures with values from 0 to 1; every fifth one validates."""
    data = load_digits()
    pictures = torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1)
    dataset = TensorDataset(pictures, torch.tensor(data.target))
    split = torch.Generator().manual_seed(0)
    train, valid = random_split(dataset, [0.8, 0.2], generator=split)
    return DataLoaders(
        DataLoader(train, batch_size, shuffle=True), DataLoader(valid, 4 * batch_size)
    )


def net(width: int = 32) -> nn.Module:
    """Three convolutions, each with batch normalisation, and a linear head."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    return nn.Sequential(
        block(1, width, 1),
        block(width, 2 * width, 2),
        block(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


def learner(
    width: int = 32, alpha: float = 0.2, seed: int = 42, path: str = "runs/digits"
) -> Learner:
    """Everything that is trained together.

    Args:
        width: Channels of the first convolution.
        alpha: Strength of mixup.
        seed: What every random number of the run derives from.
        path: Folder for the log and the model.
    """
    torch.manual_seed(seed)
    return Learner(
        digits(),
        net(width),
        nn.CrossEntropyLoss(),
        torch.optim.AdamW,
        lr=0.01,
        metrics=accuracy,
        cbs=[
            MixUp(alpha),
            EarlyStoppingCallback("accuracy", patience=8),
            SaveModelCallback("accuracy", fname="best"),
            CSVLogger("history.csv"),
        ],
        path=path,
        seed=seed,
    )


def main() -> None:
    learn = learner()
    print(learn.cbs, end="\n\n")
    learn.fit_one_cycle(20, 0.01)
    results = learn.validate()
    print(f"\naccuracy of the best model: {results['accuracy']:.2%}")
    print(f"log:   {learn.path / 'history.csv'}")
    print(f"model: {learn.save_model.last_saved_path}")
    if results["accuracy"] < 0.98:
        raise SystemExit("expected at least 98 %")


if __name__ == "__main__":
    main()
