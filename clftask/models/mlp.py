"""The MLP head, a custom model class because transformers has none.

After `clftask.register()`, `AutoModelForSequenceClassification.from_pretrained` opens
bundles with this head without remote code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from clftask.components.heads import MlpHead
from clftask.models.layers import keep_layers


class MlpClassifierConfig(PretrainedConfig):  # type: ignore[misc]
    """The encoder's configuration and the head's sizes.

    Args:
        encoder: The encoder's configuration as plain data.
        hidden: Units of the hidden layer.
        dropout: Dropout probability before and after the hidden layer.
    """

    model_type = "clftask_mlp"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        hidden: int = 512,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.encoder = encoder or {}
        self.hidden, self.dropout = hidden, dropout
        super().__init__(**kwargs)

    def encoder_config(self) -> Any:
        """Return the encoder's configuration as an object."""
        options = dict(self.encoder)
        return AutoConfig.for_model(options.pop("model_type", "bert"), **options)


class MlpClassifier(PreTrainedModel):  # type: ignore[misc]
    """Mean of the token states → dense → GELU → labels."""

    config_class = MlpClassifierConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True

    def __init__(self, config: MlpClassifierConfig) -> None:
        super().__init__(config)
        inner = config.encoder_config()
        self.encoder = AutoModel.from_config(inner)
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = nn.Identity()  # unused; some encoders call it in any case
        self.dense = nn.Linear(inner.hidden_size, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Return logits (rows, labels), and the loss if `labels` are given."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.encoder(input_ids, attention_mask=attention_mask, **types)[0]
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        hidden = nn.functional.gelu(self.dense(self.dropout(mean)))
        logits = self.classifier(self.dropout(hidden))
        loss = None if labels is None else self._loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.config.problem_type == "multi_label_classification":
            return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        return nn.functional.cross_entropy(logits, labels)


def register() -> None:
    """Register the head's classes with transformers; idempotent."""
    AutoConfig.register(MlpClassifierConfig.model_type, MlpClassifierConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(MlpClassifierConfig, MlpClassifier, exist_ok=True)


def configuration(encoder: Any, head: MlpHead, labelled: Any) -> MlpClassifierConfig:
    """Return the configuration of a classifier.

    Args:
        encoder: The encoder's configuration.
        head: The job's head.
        labelled: A configuration with the label names and the problem type.
    """
    own = {**encoder.to_diff_dict(), "model_type": encoder.model_type}
    own.pop("dtype", None)  # else transformers would build the encoder in the base's precision
    return MlpClassifierConfig(
        encoder={**own, **without_layerdrop(encoder)},
        hidden=head.hidden,
        dropout=head.dropout,
        id2label=labelled.id2label,
        label2id=labelled.label2id,
        problem_type=labelled.problem_type,
    )


def without_layerdrop(config: Any) -> dict[str, float]:
    """Return a configuration's settings that skip layers at random, set to 0.

    A skipped layer has no gradient, for which DDP waits.
    """
    names = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")
    return {name: 0.0 for name in names if getattr(config, name, 0.0)}


def build(
    base: str, head: MlpHead, labelled: Any, layers: int | None = None
) -> tuple[MlpClassifier, set[str], list[str]]:
    """Load an encoder and add the MLP head.

    Args:
        base: A local folder or hub id.
        head: The job's head.
        labelled: A configuration with the label names and the problem type.
        layers: How many of the encoder's first layers are kept; None: all.

    Returns:
        The model, the names of its new parameters, and the weights that the base lacks.
    """
    encoder, lost = open_encoder(base, layers)
    model = MlpClassifier(configuration(encoder.config, head, labelled))
    model.encoder.load_state_dict(encoder.state_dict(), strict=False)
    fresh = {n for n, _ in model.named_parameters() if not n.startswith("encoder.")}
    return model, fresh, lost


def open_encoder(base: str, layers: int | None = None, **options: Any) -> tuple[Any, list[str]]:
    """Open an encoder in fp32.

    Args:
        base: A local folder or hub id.
        layers: How many of its first layers are kept; None: all.
        options: Further options of `from_pretrained`.

    Returns:
        The encoder, and the names of its weights that the base lacks.
    """
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    keep_layers(config, layers)
    encoder, info = AutoModel.from_pretrained(
        base,
        config=config,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        **options,
    )
    return encoder, [n for n in info["missing_keys"] if not n.startswith("pooler")]
