"""The loop that everybody writes by hand."""

from benchmarks.problem import Problem, loss_function


def fit(problem: Problem) -> None:
    """Train for one epoch."""
    model = problem.model()
    optimizer = problem.optimizer(model)
    for inputs, labels in problem.loader():
        loss = loss_function(model(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
