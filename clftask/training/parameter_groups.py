"""The optimiser's parameter groups: learning rate and weight decay of each parameter."""

from __future__ import annotations

from typing import Any

from clftask.components.adapt import layer_numbers
from clftask.config.sections import TrainingSpec


def parameter_groups(
    model: Any, fresh: set[str], decayed: set[str], training: TrainingSpec
) -> list[dict[str, Any]]:
    """Return the groups of the trained parameters.

    The number of groups depends on the model alone, not on the rates: in PBT, a trial continues
    from the state of another one, with rates of its own.

    Args:
        model: The model.
        fresh: Names of newly initialised parameters; they use the head's learning rate.
        decayed: Names of the parameters with weight decay.
        training: The job's training section.
    """
    decay = training.layer_decay
    numbers = {} if decay is None else layer_numbers(model.base_model)
    prefix, top = model.base_model_prefix + ".", max(numbers.values(), default=0)
    groups: dict[tuple[bool, int, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = top - numbers.get(name.removeprefix(prefix), top)
            key = name in fresh, 0 if name in fresh else depth, name in decayed
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": training.head_rate
            if is_fresh
            else training.learning_rate * (decay or 1) ** depth,
            "weight_decay": training.weight_decay * is_decayed,
        }
        for (is_fresh, depth, is_decayed), parameters in groups.items()
    ]
