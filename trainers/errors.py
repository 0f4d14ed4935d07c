"""What a worker refuses, in words that the job's owner can act on."""

from __future__ import annotations


class Unusable(ValueError):
    """The model, the data or the settings cannot be trained as they are; `param` names the field to change."""

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param


class Diverged(Unusable):
    """The loss or the gradient is no longer a finite number."""

    def __init__(self, step: int, *, of: str = "training") -> None:
        super().__init__(
            f"the {of} loss is not a finite number at step {step}: lower the learning rate or beta",
            code="loss_not_finite",
            param="method",
        )
