"""Opens tokenizers; special tokens that a text spells out are text."""

from __future__ import annotations

import json
import re
from typing import Any

from clftask.components.truncation import LongTextSpec
from clftask.spec import fingerprint


def load_tokenizer(base: str, config: Any = None, is_bundle: bool = False) -> Any:
    """Open the tokenizer of a base or bundle, without remote code.

    It reads the beginning of long texts, and splits special tokens within a text: `</s>` in a
    text would end the sequence for BART and T5. It pads after the text: on the left, padding
    shifts the positions of most models (GPT2, BERT), so that a text's probabilities depend on
    the others of its batch. Bundles keep these settings, so that plain transformers has the same
    inputs. A tokenizer without a padding token, as many decoders have, pads with the end of text:
    padding is masked, and models that read the last token find it by this token.

    Args:
        base: A local folder or hub id.
        config: The model's configuration; without it, the tokenizer pads on its own side.
        is_bundle: Whether it is a bundle, which has a padding token of its own.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        base, trust_remote_code=False, split_special_tokens=True, truncation_side="right"
    )
    if tokenizer.pad_token is None and not is_bundle:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if config is not None and getattr(config, "summary_type", None) != "last":
        tokenizer.padding_side = "right"  # XLNet reads the last position, padding or not
    return _fenced(tokenizer) if _leaking(tokenizer) else tokenizer


def _special(tokenizer: Any) -> dict[int, str]:
    """Return the special tokens by id, without the one of unknown pieces."""
    found = tokenizer.added_tokens_decoder.items()
    unknown = tokenizer.unk_token_id
    return {i: str(token) for i, token in found if token.special and i != unknown}


def _leaking(tokenizer: Any) -> list[str]:
    """Return the special tokens that a text still becomes, although they are split.

    tokenizers: a piece of the vocabulary is matched in any text, a special one as well. Unigram
    models (T5, mBART) have `</s>` among their pieces.
    """
    special = _special(tokenizer)
    if not getattr(tokenizer, "is_fast", False):
        return []
    probes = [f"a {word} a{word}{word}a" for word in special.values()]
    rows = tokenizer(probes, add_special_tokens=False)["input_ids"] if probes else []
    found = {i for ids in rows for i in ids if i in special}
    return [special[i] for i in sorted(found) if len(special[i]) > 1]


def _fenced(tokenizer: Any) -> Any:
    """Return a tokenizer that splits the special tokens of a text after their first character.

    transformers rebuilds the pre-tokenizer of its own classes (T5Tokenizer) when it opens them;
    only the general class keeps the one of `tokenizer.json`.
    """
    from tokenizers import Regex, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [w for w in _special(tokenizer).values() if len(w) > 1]
    places = "|".join(f"(?<={re.escape(w[0])})(?={re.escape(w[1:])})" for w in words)
    fence = pre_tokenizers.Split(Regex(places), "isolated")
    backend = tokenizer.backend_tokenizer
    own = backend.pre_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([own, fence]) if own else fence
    names = (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "split_special_tokens",
        "pad_token_type_id",
        "model_input_names",
        "clean_up_tokenization_spaces",
    )
    kept = {name: getattr(tokenizer, name) for name in names if hasattr(tokenizer, name)}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokenizer.special_tokens_map, **kept)


def reading(tokenizer: Any, max_length: int, long_text: LongTextSpec) -> str | None:
    """Return a hash of what decides on the tokens of a text; None for a tokenizer in Python."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend |= {"truncation": None, "padding": None}  # those of the last call
    sides = [tokenizer.truncation_side, *tokenizer.model_input_names]
    return fingerprint([backend, sides, max_length, long_text.dump()])
