"""accelerate: a loop by hand around an Accelerator; it has no callbacks."""

import csv

import torch
from accelerate import Accelerator
from tqdm import tqdm

from benchmarks.problem import Problem, loss_function


def fit(problem: Problem) -> None:
    """Train for one epoch."""
    accelerator = Accelerator(cpu=True)
    model = problem.model()
    optimizer = problem.optimizer(model)
    schedule = problem.schedule(optimizer)
    model, optimizer, loader, schedule = accelerator.prepare(
        model, optimizer, problem.loader(), schedule
    )
    is_everyday = problem.is_everyday
    total = torch.zeros(())
    for inputs, labels in tqdm(loader) if is_everyday else loader:
        loss = loss_function(model(inputs), labels)
        accelerator.backward(loss)
        optimizer.step()
        if is_everyday:
            schedule.step()
            total += loss.detach()
        optimizer.zero_grad()
    if is_everyday:
        with open(problem.folder / "history.csv", "w") as file:
            csv.writer(file).writerow([0, float(total) / problem.num_steps])
        accelerator.save_model(model, problem.folder)
