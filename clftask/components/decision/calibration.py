"""Calibration: logits to calibrated probabilities.

To add one: subclass `CalibrationSpec`, return a fitted `Calibration`, and add the class to
`AnyCalibration`.
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, field_validator

from clftask.array_types import Float32, Floats
from clftask.components.labels import Task
from clftask.spec import BareKind, Spec, bare_kind

Scale = Annotated[float, Field(gt=0, le=1e6)]
Shift = Annotated[float, Field(ge=-1e6, le=1e6)]
Probability = Annotated[float, Field(ge=0, le=1)]
Knots = tuple[tuple[Probability, Probability], ...]

# Standard deviations of the normal priors of (log) scale and shift: of all labels around the
# identity, and of each label around all labels. Narrow ones prevent overfitting of rare labels.
_ALL_SD = (0.5, 1.0)
_LABEL_SD = (0.1, 0.25)
# Platt scales stay positive, so that probabilities increase with logits.
_MIN_SCALE = 0.01
_CLOSE = 1e-5
_MAX_PAIRS = 5_000_000
_BLOCK = 10_000_000


def probabilities_of(logits: Floats, task: Task) -> Float32:
    """Return (rows, labels) float32: softmax for multiclass, sigmoid for multilabel."""
    from scipy import special

    x = logits.astype(np.float32)
    return np.asarray(special.expit(x) if task == "multilabel" else special.softmax(x, axis=1))


class Calibration(Spec):
    """A fitted calibration: p = map(σ(scale · logit + shift)), or softmax for multiclass.

    Attributes:
        kind: The kind of calibration that was fitted.
        scale: One for all labels, or one per label.
        shift: One for all labels, or one per label.
        maps: The (probability, calibrated probability) knots of each label's piecewise linear
            map; no knots: the identity. None for calibrations without maps.
        is_folded: Whether the model's last layer already includes scale and shift.
    """

    kind: Literal["none", "temperature", "platt", "isotonic"] = "none"
    scale: Scale | tuple[Scale, ...] = 1.0
    shift: Shift | tuple[Shift, ...] = 0.0
    maps: tuple[Knots, ...] | None = None
    is_folded: bool = False

    @field_validator("maps")
    @classmethod
    def _rise(cls, maps: tuple[Knots, ...] | None) -> tuple[Knots, ...] | None:
        steps = [step for knots in maps or () for step in pairwise(knots)]
        if any(x > next_x or y > next_y for (x, y), (next_x, next_y) in steps):
            raise ValueError("must rise")
        return maps

    def probabilities(self, logits: Floats, task: Task) -> Float32:
        """Return (rows, labels) float32 calibrated probabilities from the model's logits."""
        if not self.is_folded and self.kind != "none":
            logits = logits * np.asarray(self.scale) + np.asarray(self.shift)
        found = probabilities_of(logits, task)
        return found if self.maps is None else _mapped(found, self.maps, task)

    def raw(self, logits: Floats) -> Floats:
        """Return the uncalibrated logits of a model, also if its last layer is folded."""
        if not self.is_folded:
            return logits
        return np.asarray((logits - np.asarray(self.shift)) / np.asarray(self.scale))

    def level(self, num_labels: int) -> tuple[float, ...]:
        """Return each label's calibrated probability where the uncalibrated one is 0.5."""
        at_half = self.model_copy(update={"is_folded": False})
        found = at_half.probabilities(np.zeros((1, num_labels)), "multilabel")[0]
        return tuple(round(float(p), 6) for p in np.clip(found, 1e-6, 1 - 1e-6))

    def is_close(self, other: Calibration) -> bool:
        """Tell whether two calibrations match up to rounding, folded or not.

        Folding and unfolding changes the last bits.
        """
        if (self.kind, self.maps) != (other.kind, other.maps):
            return False
        pairs = ((self.scale, other.scale), (self.shift, other.shift))
        return all(
            np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=_CLOSE, atol=_CLOSE)
            for a, b in pairs
        )

    def folded(self, layer: Any) -> Calibration:
        """Fold scale and shift into the last layer, a torch Linear; maps cannot be folded.

        Returns:
            The calibration for the changed layer. If the layer has no bias for the shift,
            nothing is folded.
        """
        if self.is_folded or (layer.bias is None and np.any(self.shift)):
            return self
        _affine(layer, np.asarray(self.scale), np.asarray(self.shift))
        return self.model_copy(update={"is_folded": True})

    def unfolded(self, layer: Any) -> Calibration:
        """Remove scale and shift from the last layer.

        Returns:
            The calibration for the original layer.
        """
        if not self.is_folded:
            return self
        _affine(layer, 1 / np.asarray(self.scale), -np.asarray(self.shift) / np.asarray(self.scale))
        return self.model_copy(update={"is_folded": False})


def _affine(layer: Any, scale: Floats, shift: Floats) -> None:
    """Change a torch Linear in place so that it returns scale · output + shift."""
    import torch

    a, b = (torch.tensor(x, dtype=layer.weight.dtype, device=layer.weight.device)
            for x in (scale, shift))  # fmt: skip
    with torch.no_grad():
        layer.weight.mul_(a.reshape(-1, 1))
        if layer.bias is not None:
            layer.bias.mul_(a).add_(b)


AnyFitted = Annotated[Calibration, BeforeValidator(bare_kind)]


def _mapped(probabilities: Float32, maps: tuple[Knots, ...], task: Task) -> Float32:
    """Map each label, then normalise the classes of a row (Zadrozny & Elkan 2002)."""
    found = probabilities.copy()
    for i, knots in enumerate(maps):
        if knots:
            x, y = zip(*knots, strict=True)
            found[:, i] = np.interp(probabilities[:, i], x, y)
    if task == "multiclass":
        total = found.sum(1, keepdims=True)
        found = np.where(total > 0, found / np.maximum(total, 1e-12), probabilities)
    return found.astype(np.float32)


# ------------------------------------------------------------------ fitting


class CalibrationSpec(Spec):
    """Base class of the calibrations of job files.

    Attributes:
        falls_back: Whether no calibration replaces it where it is worse.
    """

    falls_back: ClassVar[bool] = False

    @abstractmethod
    def fit(self, logits: Floats, targets: Floats, task: Task) -> Calibration:
        """Return the calibration fitted on held-out rows.

        Args:
            logits: (rows, labels).
            targets: (rows, labels) of 0 and 1.
            task: multiclass or multilabel.
        """


class NoCalibration(CalibrationSpec):
    """The model's own probabilities."""

    kind: Literal["none"] = "none"

    def fit(self, logits: Floats, targets: Floats, task: Task) -> Calibration:
        return Calibration()


class TemperatureScaling(CalibrationSpec):
    """One temperature for all logits, which minimises the log loss (Guo et al. 2017)."""

    kind: Literal["temperature"] = "temperature"

    def fit(self, logits: Floats, targets: Floats, task: Task) -> Calibration:
        return Calibration(kind="temperature", scale=_inverse_temperature(logits, targets, task))


class PlattScaling(CalibrationSpec):
    """A scale and a shift per label (Platt 1999); for multiclass vector scaling (Guo et al.).

    A normal prior shrinks each label's values to those of all labels together, the more the
    fewer positives the label has.
    """

    kind: Literal["platt"] = "platt"

    def fit(self, logits: Floats, targets: Floats, task: Task) -> Calibration:
        fit = _fit_labels if task == "multilabel" else _fit_classes
        scale, shift = fit(logits.astype(np.float64), targets.astype(np.float64))
        scale = np.maximum(scale, _MIN_SCALE)
        return Calibration(kind="platt", scale=_rounded(scale), shift=_rounded(shift))


class IsotonicCalibration(CalibrationSpec):
    """Platt scaling, then isotonic regression per label (Zadrozny & Elkan 2002).

    Attributes:
        min_positives: Labels with fewer positives use Platt scaling only: isotonic regression
            would overfit them.
    """

    kind: Literal["isotonic"] = "isotonic"
    min_positives: int = Field(50, ge=1)

    def fit(self, logits: Floats, targets: Floats, task: Task) -> Calibration:
        first = PlattScaling().fit(logits, targets, task)
        probabilities = first.probabilities(logits, task)
        maps = tuple(
            _rising(probabilities[:, i], targets[:, i])
            if self.min_positives <= targets[:, i].sum() < len(targets)
            else ()
            for i in range(targets.shape[1])
        )
        return first.model_copy(update={"kind": "isotonic", "maps": maps})


class AutoCalibration(CalibrationSpec):
    """Temperature for multiclass, Platt for multilabel; none if that raises the log loss."""

    falls_back: ClassVar[bool] = True
    kind: Literal["auto"] = "auto"

    def fit(self, logits: Floats, targets: Floats, task: Task) -> Calibration:
        chosen = PlattScaling() if task == "multilabel" else TemperatureScaling()
        return chosen.fit(logits, targets, task)


AnyCalibration = Annotated[
    AutoCalibration | NoCalibration | TemperatureScaling | PlattScaling | IsotonicCalibration,
    Field(discriminator="kind"),
    BareKind(),
]


# ------------------------------------------------------------------ optimisation


def _inverse_temperature(logits: Floats, targets: Floats, task: Task) -> float:
    from scipy.optimize import minimize_scalar

    rows = _sample(logits.shape)
    logits, targets = logits[rows].astype(np.float64), targets[rows].astype(np.float64)
    prior = 1 / _ALL_SD[0] ** 2

    def cost(log_scale: float) -> float:
        loss = _log_loss(np.exp(log_scale) * logits, targets, task)
        return float(loss + prior * log_scale**2 / 2)

    best = minimize_scalar(cost, bounds=(-3, 3), method="bounded", options={"xatol": 1e-7})
    return round(float(np.exp(best.x)), 6)


def _log_loss(logits: Floats, targets: Floats, task: Task) -> float:
    """Return the sum of −log p of the truth."""
    if task == "multilabel":
        return float((np.logaddexp(0, logits) - targets * logits).sum())
    top = logits.max(1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(1))
    return float((total - (targets * logits).sum(1)).sum())


def _fit_labels(logits: Floats, targets: Floats) -> tuple[Floats, Floats]:
    rows = _sample(logits.shape)
    together = logits[rows].reshape(-1, 1), targets[rows].reshape(-1, 1)
    scale, shift = _newton(*together, (1.0, 0.0), _ALL_SD)
    centre = float(scale[0]), float(shift[0])
    width = max(1, _BLOCK // max(1, len(logits)))
    parts = [
        _newton(logits[:, i : i + width], targets[:, i : i + width], centre, _LABEL_SD)
        for i in range(0, logits.shape[1], width)
    ]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _newton(
    logits: Floats, targets: Floats, centre: tuple[float, float], spread: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Return each column's scale and shift that minimise log loss + (deviation / spread)² / 2."""
    a, b = np.full((2, logits.shape[1]), np.array(centre)[:, None])
    tight_a, tight_b = 1 / spread[0] ** 2, 1 / spread[1] ** 2
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(a * logits + b, -80, 80)))
        weight, residual = p * (1 - p), p - targets
        slope_a = (residual * logits).sum(0) + tight_a * (a - centre[0])
        slope_b = residual.sum(0) + tight_b * (b - centre[1])
        aa = (weight * logits**2).sum(0) + tight_a
        ab, bb = (weight * logits).sum(0), weight.sum(0) + tight_b
        determinant = aa * bb - ab**2
        step_a = (bb * slope_a - ab * slope_b) / determinant
        step_b = (aa * slope_b - ab * slope_a) / determinant
        longest = np.maximum(np.abs(step_a), np.abs(step_b))
        shorter = 1 / np.maximum(longest, 1)  # steps of at most 1 cannot diverge
        a, b = a - shorter * step_a, b - shorter * step_b
        if longest.max() < 1e-7:
            break
    return a, b


def _fit_classes(logits: Floats, targets: Floats) -> tuple[Floats, Floats]:
    from scipy.optimize import minimize

    size, centre = logits.shape[1], _inverse_temperature(logits, targets, "multiclass")

    def cost(both: Floats) -> tuple[float, Floats]:
        scale, shift = both[:size], both[size:]
        scaled = scale * logits + shift
        residual = probabilities_of(scaled, "multiclass") - targets
        off_a, off_b = (scale - centre) / _LABEL_SD[0] ** 2, shift / _LABEL_SD[1] ** 2
        prior = ((scale - centre) @ off_a + shift @ off_b) / 2
        slope = np.concatenate([(residual * logits).sum(0) + off_a, residual.sum(0) + off_b])
        return float(_log_loss(scaled, targets, "multiclass") + prior), slope

    start = np.concatenate([np.full(size, centre), np.zeros(size)])
    best = minimize(cost, start, jac=True, method="L-BFGS-B").x
    return best[:size], best[size:]


def _rising(probabilities: Floats, targets: Floats) -> Knots:
    from sklearn.isotonic import IsotonicRegression

    least = 1 / (len(targets) + 2)  # Laplace's rule of succession: never 0 or 1
    fitted = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    fitted.fit(probabilities, targets)
    pairs = zip(fitted.X_thresholds_, fitted.y_thresholds_, strict=True)
    return tuple((round(float(x), 6), round(float(y), 6)) for x, y in pairs)


def _sample(shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return a sample of rows that is large enough for parameters shared by all labels."""
    rows = np.arange(shape[0])
    most = max(1, _MAX_PAIRS // max(1, shape[1]))
    return rows if shape[0] <= most else np.random.default_rng(0).choice(rows, most, replace=False)


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(v), 6) for v in values)
