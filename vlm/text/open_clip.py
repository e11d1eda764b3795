"""Any text tower of open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm.core.features import masked_mean
from vlm.core.safe_config import nothing
from vlm.pretrained.open_clip import (
    BOTH,
    FOLDER,
    build_tower,
    check_stored,
    full_name,
    load_tower,
    read_config,
)
from vlm.pretrained.pruning import prune, stored_config
from vlm.text.base import TextEncoder
from vlm.text.clip_tokenizer import ClipTokenizer
from vlm.text.huggingface import hidden_states, model_from_config
from vlm.text.subword import SubwordTokenizer
from vlm.text.tokenizer import Tokenizer
from vlm.text.transformer import attended


class OpenClipTextEncoder(TextEncoder):
    """The text tower of a CLIP (arXiv 2103.00020) of open_clip, by name, with its own tokenizer.

    Tokens are the words before the tower's own pooling and its projection to the space of images;
    `pooled` is their mean. The model is loaded once together with an `OpenClipImageEncoder` of the
    same name and `pretrained`. Towers with attention in both directions (SigLIP) also read their
    padding, up to the length with which they were trained; vlm always pads to this length.

    After construction, `arguments` holds the tower's configuration and its tokenizer as plain data,
    so `vlm.core.part.build(encoder.config)` needs neither hub nor cache nor folder.

    Args:
        words: words of the training questions, the first argument of every text encoder. Not used,
            because CLIP has its own subwords.
        name: a model of `open_clip.list_models()`, `hf-hub:OWNER/NAME`, or a local folder with
            `open_clip_config.json`.
        pretrained: a tag that open_clip has for the name, or a file; True for the weights of a
            repository or a folder.
        config: the configuration itself instead of a name; needs a `tokenizer`, and the weights are
            then random.
        tokenizer: tokenizer to use instead of the model's own.

    Raises:
        ValueError: an unknown name or tag, weights or a tokenizer that do not fit.
        OSError: the weights are neither in the cache nor available.

    Example:
        >>> vision = {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2}
        >>> sizes = {"context_length": 16, "width": 64, "heads": 2, "layers": 2}
        >>> config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": sizes}
        >>> tokenizer = vlm.text.ClipTokenizer(max_length=16)
        >>> encoder = vlm.text.OpenClipTextEncoder(config=config, tokenizer=tokenizer)
        >>> encoder(*encoder.tokenizer(["what color is it?", "is it red?"]))
        Features(2 x 7 x 64, 6-7 real)
    """

    model: Any
    stored: ClassVar = {"pretrained": nothing, "config": check_stored}

    def __init__(
        self,
        words: Sequence[str] = (),
        name: str = "ViT-B-32",
        pretrained: bool | str = False,
        config: dict[str, Any] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        if config is not None and pretrained:
            raise ValueError(BOTH)
        if config is None:
            full = read_config(name, pretrained)
            tokenizer = tokenizer or _tokenizer(name, full["text_cfg"])
            model: Any = load_tower("text", name, pretrained, full)
            parts = ("embed_dim", "quick_gelu", "text_cfg")
            plain: dict[str, Any] = {key: full[key] for key in parts if key in full}
        elif tokenizer is None:
            raise ValueError("tokenizer: got None with a config; expected the model's tokenizer.")
        else:
            plain = config
            model = (
                model_from_config(plain) if "model_type" in plain else build_tower("text", plain)
            )
        if hasattr(model, "config"):  # a tower of transformers, within open_clip's or on its own
            model = getattr(model, "transformer", model)
            plain = stored_config(model.config)
            positions = tokenizer.max_length
            known = plain["vocab_size"]
        else:
            # Parameters of the pooling, and no modules that `prune` could remove.
            model.text_projection = None
            if model.cls_emb is not None:  # CoCa's normalisation follows its pooling
                model.cls_emb, model.ln_final = None, nn.Identity()
            positions, known = model.context_length, model.vocab_size
        model_name = repr(name) if config is None else "the configuration"
        if tokenizer.vocab_size > known or tokenizer.max_length > positions:
            raise ValueError(
                f"tokenizer: got {tokenizer.vocab_size} ids and max_length="
                f"{tokenizer.max_length}; {model_name} has {known} and {positions} "
                f"positions."
            )
        ids = torch.tensor([[tokenizer.pad_id]])
        model.eval()
        states = prune(model, lambda: _states(model, ids, torch.ones_like(ids, dtype=torch.bool)))
        super().__init__(states.shape[2], tokenizer)
        self.model = model.train()
        self.arguments.update(words=(), pretrained=False, config=plain, tokenizer=tokenizer)

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = _states(self.model, ids, mask, self.tokenizer.pad_id)
        return tokens, masked_mean(tokens, mask)


def _states(model: Any, ids: Tensor, mask: Tensor, pad_id: int = 0) -> Tensor:
    """The last layer: ids (B, L), mask (B, L) -> (B, L, D)."""
    if hasattr(model, "config"):
        return hidden_states(model, ids, attended(mask))
    length = ids.shape[1]
    if model.attn_mask is None:  # looks at what follows
        ids = F.pad(ids, (0, model.context_length - length), value=pad_id)
    # Not the tower's own `forward`, which takes only texts padded to the full length.
    x = model.token_embedding(ids) + model.positional_embedding[: ids.shape[1]]  # (B, L, D)
    future = model.attn_mask
    x = model.transformer(x, attn_mask=None if future is None else future[:length, :length])
    return model.ln_final(x)[:, :length]


def _tokenizer(name: str, text: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a model's configuration names."""
    length = text.get("context_length", 77)
    options = dict(text.get("tokenizer_kwargs") or {})
    clean = options.pop("clean", None)
    source = text.get("hf_tokenizer_name")
    if options or text.get("tokenizer_mode"):
        raise ValueError(
            f"name: {name} cleans its words in a way of its own ({options or 'tokenizer_mode'}), "
            f"which only open_clip does; give a `tokenizer`, or choose another model."
        )
    if not source:
        return ClipTokenizer(length, clean or "lower")
    name = full_name(name)
    # A folder holds its tokenizer itself.
    source = name.removeprefix(FOLDER) if name.startswith(FOLDER) else source
    plain = SubwordTokenizer(source, max_length=length)
    return canonical(plain) if clean == "canonicalize" else plain


def canonical(tokenizer: SubwordTokenizer) -> SubwordTokenizer:
    """The same without capitals and punctuation, as SigLIP was trained."""
    from string import punctuation

    from tokenizers import Regex, normalizers
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_str(tokenizer.arguments["json"])
    marks = "".join("\\" + mark for mark in punctuation.replace("_", ""))
    steps = [
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex(f"[{marks}]"), ""),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    own = [backend.normalizer] if backend.normalizer is not None else []
    backend.normalizer = normalizers.Sequence([*steps, *own])
    return SubwordTokenizer(json=backend.to_str(), max_length=tokenizer.max_length)
