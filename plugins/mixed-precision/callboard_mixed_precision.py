"""Predict in half precision where that is safe, and scale gradients that need it.

Listens to  before_fit, do_predict, do_loss, before_backward, before_step, do_step, and
            all that ends a step without taking it
Changes     the precision of predictions and of the loss on their way; loss_grad; takes
            the optimizer's step through a scaler (fp16)
Source      Micikevicius et al. 2018, arXiv:1710.03740; torch.amp; fastai's
            ``MixedPrecision`` (Apache-2.0), written anew
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from callboard import Callback, hookimpl
from callboard.errors import OptionError
from callboard.optim import needs_closure

if TYPE_CHECKING:
    from callboard import Learner
    from callboard.testing import Specimen

Mode = Literal["fp16", "bf16"]
DTYPES: Mapping[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
LOW = frozenset(DTYPES.values())


def in_full_precision(held: Any) -> Any:
    """Half-precision tensors in tuples, lists and mappings as float32."""
    if isinstance(held, Tensor):
        return held.float() if held.dtype in LOW else held
    if isinstance(held, tuple) and hasattr(held, "_fields"):
        return type(held)(*map(in_full_precision, held))
    if isinstance(held, tuple | list):
        return type(held)(map(in_full_precision, held))
    if isinstance(held, Mapping):
        parts = {key: in_full_precision(part) for key, part in held.items()}
        if all(part is held[key] for key, part in parts.items()):
            return held
        return parts if type(held) is dict else _like(held, parts)
    return held


def _like(original: Mapping[Any, Any], parts: dict[Any, Any]) -> Mapping[Any, Any]:
    try:
        return type(original)(parts)  # type: ignore[call-arg]
    except TypeError:
        return parts


class MixedPrecision(Callback):
    """Runs model and loss under ``torch.autocast``; weights stay in float32.

    In fp16 small gradients would vanish. The loss is scaled before backward and the
    gradients back before the step; a step whose gradients overflow is left out, and the
    scale goes down. The scale belongs to the saved state of a run.

    Args:
        amp_mode: ``"fp16"``, or ``"bf16"``, which needs no scaler and newer devices.
        init_scale: The scale of the first step (fp16).
        growth_factor: What the scale grows by, above 1.
        backoff_factor: What it shrinks by at an overflow, between 0 and 1.
        growth_interval: After how many steps without an overflow it grows, from 1 on.

    Raises:
        OptionError: An option has a value that cannot be used.
    """

    name = "mixed-precision"
    role = "modify"
    run_after = "gradient-accumulation"
    run_before = "gradient-clip"
    stages = ("fit", "lr-find", "validate", "predict")

    def __init__(
        self,
        amp_mode: Mode = "fp16",
        *,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        self.amp_mode = amp_mode
        self.init_scale = init_scale
        self.growth_factor = growth_factor
        self.backoff_factor = backoff_factor
        self.growth_interval = growth_interval
        self._check_options()
        self.dtype = DTYPES[amp_mode]
        self._scaler: torch.amp.GradScaler | None = None
        self._saved: dict[str, Any] | None = None
        self._is_step_open = False

    def _check_options(self) -> None:
        interval = self.growth_interval
        is_count = isinstance(interval, int) and not isinstance(interval, bool)
        for option, is_right, needed in (
            ("amp_mode", self.amp_mode in DTYPES, '"fp16" or "bf16"'),
            ("init_scale", self.init_scale > 0, "above 0; use 65536.0"),
            ("growth_factor", self.growth_factor > 1, "above 1; use 2.0"),
            ("backoff_factor", 0 < self.backoff_factor < 1, "from 0 to 1; use 0.5"),
            ("growth_interval", is_count and interval >= 1, "from 1 on; use 2000"),
        ):
            if not is_right:
                raise OptionError(
                    f"{self.name}: {option} must be {needed}, got "
                    f"{getattr(self, option)!r}."
                )

    @property
    def scale(self) -> float:
        """The scale of the gradients at the next step; reading it waits for the device.

        1.0 where nothing is scaled.
        """
        return 1.0 if self._scaler is None else float(self._scaler.get_scale())

    # ---- a fit ------------------------------------------------------------------

    def before_fit(self) -> None:
        """See that device, weights and optimizer can do it, and get a scaler ready."""
        device = self.learn.device
        self._check_device(device)
        self._is_step_open = False
        if self.amp_mode == "bf16":
            return
        self._check_learner(self.learn)
        if self._scaler is None or torch.device(self._scaler._device) != device:
            self._make_scaler(device)

    def _make_scaler(self, device: torch.device) -> None:
        state = self.state_dict()
        self._scaler, self._saved = self._new_scaler(device.type), None
        self._scaler.load_state_dict(state)

    def _new_scaler(self, kind: str) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(
            kind,
            init_scale=self.init_scale,
            growth_factor=self.growth_factor,
            backoff_factor=self.backoff_factor,
            growth_interval=self.growth_interval,
        )

    def _check_device(self, device: torch.device) -> None:
        if not torch.amp.is_autocast_available(device.type):
            raise OptionError(
                f"{self.name}: torch {torch.__version__} has no automatic mixed "
                f"precision on {device.type}. Leave it out there."
            )
        is_new_enough = device.type != "cuda" or torch.cuda.is_bf16_supported()
        if self.amp_mode == "bf16" and not is_new_enough:
            raise OptionError(
                f"{self.name}: {torch.cuda.get_device_name(device)} has no bfloat16. "
                'Use amp_mode="fp16".'
            )

    def _check_learner(self, learner: Learner) -> None:
        if needs_closure(learner.opt):
            raise OptionError(
                f"{self.name}: {type(learner.opt).__name__} works the loss out again "
                "while it steps, which no scaler can follow. Use "
                'amp_mode="bf16", or another optimizer.'
            )
        for name, parameter in learner.model.named_parameters():
            if parameter.requires_grad and parameter.dtype == torch.float16:
                raise OptionError(
                    f"{self.name}: the weight {name} is float16, whose gradients no "
                    "scaler can save. Keep the model in float32 (model.float()); it "
                    "predicts in half precision all the same."
                )

    # ---- predicting ---------------------------------------------------------------

    @hookimpl(wrapper=True)
    def do_predict(self) -> Generator[None, Any, Any]:
        """Let the model predict in mixed precision; what it says comes as float32."""
        with torch.autocast(self.learn.device.type, self.dtype):
            pred = yield
        return in_full_precision(pred)

    @hookimpl(wrapper=True)
    def do_loss(self) -> Generator[None, Any, Any]:
        """Let the loss be worked out in mixed precision; it comes as float32."""
        with torch.autocast(self.learn.device.type, self.dtype):
            loss = yield
        return in_full_precision(loss)

    # ---- backward and step (fp16) ---------------------------------------------------

    def before_backward(self) -> None:
        """Scale the loss that backward runs on."""
        loss = self.learn.loss_grad
        if self._scaler is not None and loss is not None:
            self.learn.loss_grad = self._scaler.scale(loss)

    def before_step(self) -> None:
        """Scale the gradients back."""
        self._close_step()
        if self._scaler is not None and _has_gradients(self.learn):
            self._scaler.unscale_(self.learn.opt)
            self._is_step_open = True

    def do_step(self) -> bool | None:
        """Step unless the gradients have overflown, and fit the scale to that."""
        if self._scaler is None or not self._is_step_open:
            return None
        self._scaler.step(self.learn.opt)
        self._close_step()
        return True

    def after_cancel_step(self) -> None:
        """Close a step that was not taken."""
        self._close_step()

    after_cancel_batch = after_cancel_step
    after_cancel_train = after_cancel_step
    after_cancel_epoch = after_cancel_step
    after_cancel_fit = after_cancel_step
    teardown = after_cancel_step

    def _close_step(self) -> None:
        if self._is_step_open:
            assert self._scaler is not None
            self._scaler.update()
            self._is_step_open = False

    # ---- state ----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The scale, and how many steps it has held."""
        if self.amp_mode == "bf16":
            return {}
        if self._scaler is None:
            return self._saved or dict(self._new_scaler("cpu").state_dict())
        return dict(self._scaler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self._saved = dict(state) or None
        if self._scaler is not None and state:
            self._scaler.load_state_dict(dict(state))
            self._saved = None


def _has_gradients(learner: Learner) -> bool:
    groups = learner.opt.param_groups
    return any(p.grad is not None for group in groups for p in group["params"])


def to_fp16(learner: Learner, **options: Any) -> Learner:
    """Train and predict in fp16 from now on; returns the Learner.

    Args:
        options: Those of ``MixedPrecision``.
    """
    return _replaced(learner, MixedPrecision("fp16", **options))


def to_bf16(learner: Learner) -> Learner:
    """Train and predict in bf16 from now on; returns the Learner."""
    return _replaced(learner, MixedPrecision("bf16"))


def to_fp32(learner: Learner) -> Learner:
    """Train and predict in full precision from now on; returns the Learner."""
    if any(isinstance(callback, MixedPrecision) for callback in learner.cbs):
        learner.remove_cb(MixedPrecision)
    return learner


def _replaced(learner: Learner, callback: MixedPrecision) -> Learner:
    return to_fp32(learner).add_cb(callback)


def callboard_specimens() -> dict[str, Specimen]:
    """What the conformance suite needs to try half precision out."""
    from callboard.testing import Specimen

    rounding = "half precision rounds what it predicts"
    stays = "it adds the callback, which stays until removed"
    return {
        "mixed-precision": Specimen(
            make=lambda: MixedPrecision(growth_interval=2),
            exempt={"removable": rounding},
        ),
        **{
            name: Specimen(exempt={"removable": stays})
            for name in ("to_fp16", "to_bf16", "to_fp32")
        },
    }
