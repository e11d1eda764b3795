"""A language model that looks at the image from inside, through gates, as Flamingo does."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from vlm.core.validation import check_divides, check_positive
from vlm.fusion.attention import Context
from vlm.fusion.perceiver import GatedLayer
from vlm.heads.generation.decoder import Memory
from vlm.heads.generation.language_model import LanguageModel
from vlm.heads.generation.pretrained_decoder import Prefix
from vlm.heads.generation.tokenizer import AnswerTokenizer

Seen = tuple[Context, Tensor]
"""Keys and values of the image tokens of Q questions, and their mask (Q, N)."""
SEEN: ContextVar[dict[nn.Module, Seen]] = ContextVar("seen", default={})  # noqa: B039  not changed
"""What each gated layer looks at during a forward pass of this thread; a layer that is not there
leaves the language model alone."""


class GatedLanguageModel(LanguageModel):
    """A `LanguageModel` whose prompt holds no image tokens: gated layers inside it attend to them.

    Before every `every`-th layer of the language model, a new layer lets the words attend to the
    tokens that the connector made of the image (Alayrac et al. 2022, arXiv 2204.14198, section 2.2,
    figure 4):

        words = words + tanh(alpha) Attention(LayerNorm(words) -> image tokens)
        words = words + tanh(beta) FFN(LayerNorm(words))

    The gates alpha and beta start closed, at 0: the model starts as the language model alone. The
    paper's connector is `vlm.fusion.Resampler`; any other will do. With
    `model.tuning.head.frozen: true` the language model stays as it is, as in the paper, and the new
    layers learn. Image tokens take none of the model's positions. A question without an image is
    answered as if alpha were 0.

    Args:
        memory_dim, name, pretrained, config, tokenizer, image_id, max_length: as for
            `LanguageModel`.
        every: one layer in so many has a gated one before it, the first included.
        num_heads: attention heads of the gated layers; divides `memory_dim`.
        dropout: share dropped from attention weights and residual branches of the gated layers.
        first_gate: alpha and beta before training. While they are 0, no gradient reaches the image;
            they themselves learn from the first step on.

    Raises:
        ValueError: as `LanguageModel` does, a width that `num_heads` does not divide, or a model
            whose layers are not one list.
        OSError: the model is neither in the cache nor available.

    Example:
        >>> from functools import partial
        >>> sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4}
        >>> decoder = partial(
        ...     vlm.heads.GatedLanguageModel,
        ...     config={"model_type": "llama", "vocab_size": 258, **sizes},
        ...     tokenizer=vlm.heads.ByteTokenizer(),
        ...     image_id=257,
        ...     every=2,
        ... )
        >>> len(vlm.heads.Generation(in_dim=64, decoder=decoder).decoder.gated)
        2
    """

    def __init__(
        self,
        memory_dim: int,
        name: str = "HuggingFaceTB/SmolLM2-135M-Instruct",
        pretrained: bool = True,
        config: dict[str, Any] | None = None,
        tokenizer: AnswerTokenizer | None = None,
        image_id: int | None = None,
        max_length: int = 32,
        every: int = 1,
        num_heads: int = 8,
        dropout: float = 0.0,
        first_gate: float = 0.0,
    ) -> None:
        check_positive(every=every)
        check_divides("memory_dim", memory_dim, "num_heads", num_heads)
        super().__init__(memory_dim, name, pretrained, config, tokenizer, image_id, max_length)
        layers = _layers(self.model)[::every]
        self.gated = nn.ModuleList(
            GatedLayer(memory_dim, num_heads, dropout, first_gate) for _ in layers
        )
        self.looks = [Look(gated) for gated in self.gated]
        for layer, look in zip(layers, self.looks, strict=True):
            layer.register_forward_pre_hook(look, with_kwargs=True)
        for module in self.model.modules():
            # The image is there during the forward pass alone: no layer can be computed again.
            if getattr(module, "supports_gradient_checkpointing", False):
                module.supports_gradient_checkpointing = False

    def train_new(self) -> None:
        self.gated.requires_grad_(True)

    def start(self, memory: Memory) -> GatedPrefix:
        image, mask = memory.tokens, memory.mask
        words = self.sequence(memory._replace(tokens=image[:, :0], mask=mask[:, :0]))
        image = image.masked_fill(~mask[..., None], 0)
        seen = [(look.gated.attention.keys_and_values(image), mask) for look in self.looks]
        return GatedPrefix(self.model, words, self.looks, seen)


class Look:
    """A hook before a layer of the language model: its words go through a gated layer first.

    Attributes:
        gated: the gated layer.
    """

    def __init__(self, gated: nn.Module) -> None:
        assert isinstance(gated, GatedLayer)
        self.gated = gated

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        seen = SEEN.get().get(self.gated)
        if seen is None:
            return None
        words = args[0] if args else options["hidden_states"]  # (R, T, D)
        # All texts of a question look at its image in one go: it is never copied.
        grouped = words.reshape(len(seen[1]), -1, words.shape[2])
        words = self.gated(grouped, *seen).view_as(words)
        return ((words, *args[1:]), options) if args else (args, options | {"hidden_states": words})


class GatedPrefix(Prefix):
    """A prompt without its image, which the layers look at while they run."""

    def __init__(self, model: Any, memory: Memory, looks: list[Look], seen: list[Seen]) -> None:
        super().__init__(model, memory, begins=False)
        self.looks, self.seen = looks, seen

    def logits(self, ids: Tensor) -> Tensor:
        token = SEEN.set(dict(zip((look.gated for look in self.looks), self.seen, strict=True)))
        try:
            return super().logits(ids)
        finally:
            SEEN.reset(token)


def _layers(model: Any) -> nn.ModuleList:
    """The layers of a causal model of transformers, whatever it calls them."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(lists) != 1:
        raise ValueError(
            f"name: got a model of the kind {model.config.model_type!r} with {len(lists)} lists of "
            f"{count} layers; expected one. Take another language model, or LanguageModel."
        )
    return lists[0]
