"""Tell benign from malignant tumours by 30 measurements, with a plugin of our own.

    python examples/tabular.py
    callboard fit examples/tabular.py --epochs 20 --schedule one-cycle --lr 0.01

The data is scikit-learn's breast cancer set (Wolberg et al. 1995, 569 patients). This
file is a plugin too: a module with a function marked ``@hookimpl`` can be given in
``cbs`` like any callback.
"""

import sys

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from callboard import DataLoaders, Learner, hookimpl
from callboard_recorder import epoch_metric

# What this module says about itself as a plugin.
name = "plain-words"
role = "observe"
run_after = "recorder"


@hookimpl
def after_epoch(learner: Learner) -> None:
    """Say in words when the ranking of patients is nearly perfect."""
    area = learner.results["roc_auc_score"]
    if area is not None and area > 0.995:
        print(f"  {area:.2%} of all pairs of patients are ranked right")


def tumours(batch_size: int = 32) -> DataLoaders:
    """The measurements, standardised by the training patients; a quarter validates."""
    data = load_breast_cancer()
    inputs = torch.tensor(data.data, dtype=torch.float32)
    labels = torch.tensor(data.target, dtype=torch.float32).unsqueeze(1)
    split = torch.Generator().manual_seed(0)
    chosen = random_split(range(len(inputs)), [0.75, 0.25], generator=split)
    rows = list(chosen[0])
    inputs = (inputs - inputs[rows].mean(0)) / inputs[rows].std(0)
    train, valid = (TensorDataset(inputs[list(c)], labels[list(c)]) for c in chosen)
    return DataLoaders(
        DataLoader(train, batch_size, shuffle=True), DataLoader(valid, 4 * batch_size)
    )


def learner(hidden: int = 32, seed: int = 7, path: str = "runs/tabular") -> Learner:
    """Everything that is trained together.

    Args:
        hidden: Width of the hidden layer.
        seed: What every random number of the run derives from.
        path: Folder for the log and the model.
    """
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(30, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, 1)
    )
    return Learner(
        tumours(),
        model,
        nn.BCEWithLogitsLoss(),
        torch.optim.AdamW,
        lr=0.01,
        metrics=epoch_metric(roc_auc_score, higher_is_better=True),
        cbs=["early-stopping", "save-model", "csv-logger", sys.modules[__name__]],
        path=path,
        seed=seed,
    )


def main() -> None:
    learn = learner()
    print(learn.cbs, end="\n\n")
    learn.early_stopping.patience = 5
    learn.fit_one_cycle(20, 0.01)
    results = learn.validate()
    print(f"\narea under the ROC curve: {results['roc_auc_score']:.4f}")
    print(f"log:   {learn.path / 'history.csv'}")
    print(f"model: {learn.save_model.last_saved_path}")
    if results["roc_auc_score"] < 0.98:
        raise SystemExit("expected at least 0.98")


if __name__ == "__main__":
    main()
