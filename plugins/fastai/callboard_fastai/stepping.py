"""What fastai's optimizers do that torch's do not, as torch optimizers.

Parameter groups hold torch's names for hyper-parameters, where it has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Container, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Group = dict[str, Any]


class Sparing(torch.optim.Optimizer):
    """Spares some parameters weight decay, whatever group they are in.

    fastai keeps biases and normalisation layers from decaying without groups of their
    own, so that callbacks see as many groups as the splitter made.

    Attributes:
        spared: The parameters.
    """

    spared: Collection[nn.Parameter] = ()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step; for that long, those spared are in groups without weight decay."""
        groups = self.param_groups
        known = {id(p) for p in self.spared}
        self.param_groups = [part for g in groups for part in self._parts(g, known)]
        try:
            return self._step(closure)
        finally:
            self.param_groups = groups

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        # torch has put its hooks around the step of this class already.
        step: Any = super().step
        hooked = getattr(step, "__func__", step)
        if getattr(hooked, "hooked", False):
            return hooked.__wrapped__(self, closure)
        return step(closure)

    def _parts(self, group: Group, spared: Container[int]) -> Iterator[Group]:
        """Copies of a group: what of it decays, and what does not."""
        rest = [p for p in group["params"] if id(p) in spared]
        if not rest or not group["weight_decay"]:
            yield dict(group)
            return
        yield {**group, "params": [p for p in group["params"] if id(p) not in spared]}
        yield {**group, "params": rest, "weight_decay": 0.0}


class MomentumSGD(Sparing, torch.optim.SGD):
    """SGD whose weight decay shrinks weights, or goes into the gradients.

    Args:
        params: Groups of parameters.
        lr: Learning rate.
        mom: Momentum; made with 0 there will be none, whatever is set later.
        wd: Weight decay.
        decoupled_weight_decay: Whether it leaves the gradients alone.
    """

    def __init__(
        self, params: Any, *, lr: Any, mom: float, wd: float, **more: Any
    ) -> None:
        super().__init__(params, lr=lr, momentum=mom, weight_decay=wd)
        for options in (self.defaults, *self.param_groups):
            options.update(has_momentum=mom != 0, **more)

    def _parts(self, group: Group, spared: Container[int]) -> Iterator[Group]:
        for part in super()._parts(group, spared):
            if not part["has_momentum"]:
                part["momentum"] = 0.0
            yield part

    @torch.no_grad()
    def _step(self, closure: Callable[[], Any] | None) -> Any:
        for group in self.param_groups:
            if group["decoupled_weight_decay"] and group["weight_decay"]:
                shrink = 1 - group["lr"] * group["weight_decay"]
                group["weight_decay"] = 0
                for p in group["params"]:
                    if p.grad is not None:
                        p.mul_(shrink)
        return super()._step(closure)


class ByParameter(torch.optim.Optimizer):
    """Steps one parameter after the other, by the rule of a derived class.

    Args:
        params: Parameters, or groups of them.
        options: Hyper-parameters; ``lr``, ``weight_decay`` and
            ``decoupled_weight_decay`` among them.

    Attributes:
        spared: Parameters that do not decay.
    """

    spared: Collection[nn.Parameter] = ()

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Decay and step every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        spared = {id(p) for p in self.spared}
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    decay = 0.0 if id(p) in spared else group["weight_decay"]
                    self._step_one(p, decay, group)
        return loss

    def _step_one(self, p: nn.Parameter, decay: float, group: Group) -> None:
        grad: Any = p.grad
        if decay and group["decoupled_weight_decay"]:
            p.mul_(1 - group["lr"] * decay)
        elif decay:
            grad = grad.add(p, alpha=decay)
        self._update(p, grad, self.state[p], group)

    def _update(
        self, p: nn.Parameter, grad: Tensor, state: dict[str, Any], group: Group
    ) -> None:
        raise NotImplementedError


class ScaledSGD(ByParameter):
    """RMSProp: the step is divided by the root of the mean square of gradients."""

    def _update(
        self, p: nn.Parameter, grad: Tensor, state: dict[str, Any], group: Group
    ) -> None:
        square = _mean_square(state, grad, group["alpha"])
        if group["has_momentum"]:
            grad = _sum_of(state, grad, group["momentum"])
        p.addcdiv_(grad, square.sqrt().add_(group["eps"]), value=-group["lr"])


class RectifiedAdam(ByParameter):
    """RAdam; with ``beta`` the divisor is smoothed by a softplus."""

    def _update(
        self, p: nn.Parameter, grad: Tensor, state: dict[str, Any], group: Group
    ) -> None:
        mean, square = _means(state, grad, group["betas"])
        sqr_mom, step = group["betas"][1], state["step"]
        longest = 2 / (1 - sqr_mom) - 1
        length = longest - 2 * step * sqr_mom**step / (1 - sqr_mom**step)
        if length <= 5:
            p.add_(mean, alpha=-group["lr"])
            return
        seen = (length - 4) * (length - 2) * longest
        whole = (longest - 4) * (longest - 2) * length
        divisor = square.sqrt().add_(group["eps"])
        if group["beta"]:
            divisor = F.softplus(divisor, group["beta"])
        p.addcdiv_(mean, divisor, value=-group["lr"] * math.sqrt(seen / whole))


class QuasiHyperbolicAdam(ByParameter):
    """QHAdam: a share of each mean is that of the batch itself."""

    def _update(
        self, p: nn.Parameter, grad: Tensor, state: dict[str, Any], group: Group
    ) -> None:
        mean, square = _means(state, grad, group["betas"])
        step = grad.lerp(mean, group["nu_1"])
        divisor = grad.square().lerp_(square, group["nu_2"]).sqrt_()
        p.addcdiv_(step, divisor.add_(group["eps"]), value=-group["lr"])


class LayerwiseSGD(ByParameter):
    """LARC, or LARS without ``clip``: a rate in proportion to the layer's weights."""

    def _update(
        self, p: nn.Parameter, grad: Tensor, state: dict[str, Any], group: Group
    ) -> None:
        size = p.norm()
        whole = grad.norm() + size * group["weight_decay"] + group["eps"]
        rate = group["lr"] * group["trust_coeff"] * size / whole
        if group["clip"]:
            rate = rate.clamp(max=group["lr"])
        if group["has_momentum"]:
            grad = _sum_of(state, grad, group["momentum"])
        p.sub_(grad * rate)


class LayerwiseAdam(ByParameter):
    """LAMB: the step is at most ten times as long as in proportion to the weights."""

    def _update(
        self, p: nn.Parameter, grad: Tensor, state: dict[str, Any], group: Group
    ) -> None:
        mean, square = _means(state, grad, group["betas"])
        step = mean / square.sqrt().add_(group["eps"])
        size, length = (x.square().mean().sqrt() for x in (p, step))
        ratio = (size / length).clamp(max=10)
        is_known = (size != 0) & (length != 0)
        p.sub_(step * torch.where(is_known, ratio, 1.0) * group["lr"])


class Lookahead(torch.optim.Optimizer):
    """Pulls weights back half-way to what they were k steps ago (arXiv:1907.08610).

    Groups and state are those of the optimizer inside, and in its state are the slow
    weights, so that they are saved and forgotten together.

    Args:
        opt: The optimizer inside.
        k: Steps from one pull to the next.
        alpha: How far slow weights go towards the others, 0 to 1.
    """

    opt: Any

    def __init__(self, opt: Any, k: int = 6, alpha: float = 0.5) -> None:
        self.opt, self.k, self.alpha = getattr(opt, "opt", opt), k, alpha
        super().__init__(self.opt.param_groups, self.opt.defaults)
        self.__setstate__({"state": self.opt.state})

    @property
    def spared(self) -> Collection[nn.Parameter]:
        """Parameters that do not decay."""
        return getattr(self.opt, "spared", ())

    @spared.setter
    def spared(self, params: Collection[nn.Parameter]) -> None:
        self.opt.spared = params

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let the optimizer inside step, and pull the weights back where it is time."""
        begun = {
            p: p.clone()
            for group in self.param_groups
            for p in group["params"]
            if "slow" not in self.state.get(p, ())
        }
        loss = self.opt.step(closure)
        # Not before: an empty state is by what optimizers know a first step.
        for p, slow in begun.items():
            self.state[p].update(slow=slow, num_steps=0)
        for group in self.param_groups:
            for p in group["params"]:
                self._pull(p, self.state[p])
        return loss

    def _pull(self, p: nn.Parameter, state: dict[str, Any]) -> None:
        state["num_steps"] += 1
        if state["num_steps"] % self.k == 0:
            state["slow"].lerp_(p, self.alpha)
            p.copy_(state["slow"])

    def __getstate__(self) -> dict[str, Any]:
        inside = {"opt": self.opt, "k": self.k, "alpha": self.alpha}
        return {**super().__getstate__(), **inside}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.opt.state, self.opt.param_groups = self.state, self.param_groups


def _mean_square(state: dict[str, Any], grad: Tensor, share: float) -> Tensor:
    if "sqr_avg" not in state:
        state["sqr_avg"] = torch.zeros_like(grad)
    square: Tensor = state["sqr_avg"]
    return square.mul_(share).addcmul_(grad, grad, value=1 - share)


def _sum_of(state: dict[str, Any], grad: Tensor, share: float) -> Tensor:
    if "grad_avg" not in state:
        state["grad_avg"] = torch.zeros_like(grad)
    total: Tensor = state["grad_avg"]
    return total.mul_(share).add_(grad)


def _means(
    state: dict[str, Any], grad: Tensor, shares: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Running means of gradients and of their squares, as if begun with the first."""
    if "grad_avg" not in state:
        state.update(grad_avg=torch.zeros_like(grad), step=0)
    state["step"] += 1
    mean, square = state["grad_avg"], _mean_square(state, grad, shares[1])
    mean.lerp_(grad, 1 - shares[0])
    mean_weight, square_weight = (1 - share ** state["step"] for share in shares)
    return mean / mean_weight, square / square_weight
