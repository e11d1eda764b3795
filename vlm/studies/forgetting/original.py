"""An encoder as it was before fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from vlm.adapters.hub import locate, read_stored
from vlm.checkpoint.checkpoint import CheckpointError, load_model
from vlm.checkpoint.sharing import is_shared
from vlm.core.features import masked_mean
from vlm.core.part import Part, build, check_parts
from vlm.image.positions import PREFIX
from vlm.model import PARTS
from vlm.pretrained.weights import differences, misfit
from vlm.studies.forgetting.run import FineTuned, read_run
from vlm.text.base import TextEncoder
from vlm.text.tokenizer import Tokenizer
from vlm.text.vectors import VectorTokenizer

ENCODERS = ("image_encoder", "text_encoder")
VECTORS = "embedding.weight"
"""What the encoders that take a table of word vectors call it."""


class WordVectors(TextEncoder):
    """The mean of a sentence's word vectors (vocab_size, D).

    Stands in for an encoder with only pretrained word vectors (such as `BagOfWords` with GloVe):
    its other weights began at random, so there is nothing to forget.
    """

    def __init__(self, tokenizer: Tokenizer, vectors: Tensor) -> None:
        super().__init__(vectors.shape[1], tokenizer)
        self.embedding = nn.Embedding.from_pretrained(vectors)

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens: Tensor = self.embedding(ids)
        return tokens, masked_mean(tokens, mask)

    def layer_names(self) -> list[list[str]]:
        return [[VECTORS]]


@dataclass(frozen=True)
class Original:
    """What an encoder started from.

    `encoder` is a `WordVectors` if only word vectors were pretrained; `arguments` loaded the
    weights, and are empty if these are another run's or a shared model's.
    """

    source: str
    encoder: Part
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that fine-tuning may have changed, named as in the run's own encoder."""
        return came_with(self.encoder)

    def view(self, encoder: Part) -> Part:
        """The measured part of the run's own encoder: all of it, or its word vectors."""
        if isinstance(self.encoder, WordVectors):
            assert isinstance(encoder, TextEncoder)
            return WordVectors(encoder.tokenizer, encoder.state_dict()[VECTORS])
        return encoder


def came_with(encoder: Part) -> dict[str, Tensor]:
    """Its weights, without the positions, which are not pretrained."""
    state: dict[str, Tensor] = encoder.state_dict()
    return {name: value for name, value in state.items() if not name.startswith(PREFIX)}


def original(run: FineTuned, part: str, encoder: Part, trust: bool = False) -> Original | None:
    """A run's encoder as first loaded; None if its weights began at random.

    For a run that started from another one (`model.tuning.init_from`) it is that run's original or,
    if that began at random, the encoder that run ended with; for one that started from a shared
    model, that model's encoder. `encoder` is the run's own, without LoRA.

    Raises:
        CheckpointError: the weights' architecture differs from the checkpoint's.
        OSError: the weights are not available.
        ValueError: the weights cannot be read.
    """
    found = _original(run, part, trust)
    if found is None:
        return None
    if isinstance(found.encoder, WordVectors) and VECTORS not in encoder.state_dict():
        return None
    if lines := differences(came_with(found.view(encoder)), found.weights):
        raise CheckpointError(
            f"{misfit(found.source, lines)}\nSo {run.checkpoint.path} did not begin with them."
        )
    return found


def _original(run: FineTuned, part: str, trust: bool) -> Original | None:
    tuning = run.config["model"].get("tuning") or {}
    if (earlier := tuning.get("init_from")) and part in (tuning.get("init_parts") or PARTS):
        if is_shared(folder := locate(earlier)):
            model = load_model(read_stored(folder, trust), trust)
            return Original(f"the model {earlier}", getattr(model, part))
        before = read_run(folder)
        encoder = getattr(load_model(before.checkpoint, trust), part)
        return original(before, part, encoder, trust) or Original(f"the run {earlier}", encoder)
    asked, stored = run.init_args(part), run.checkpoint.model[part]
    # A transformers or open_clip model given as plain data has no weights.
    if not asked.get("pretrained") or asked.get("config") is not None:
        return _vectors(run, part)
    arguments: dict[str, Any] = stored["init_args"] | {"pretrained": asked["pretrained"]}
    if "config" in arguments:
        arguments["config"] = None  # else it would be used instead of the weights
    if "model_args" in asked:
        arguments["model_args"] = asked["model_args"]  # which may say where the weights are
    check_parts(stored, trust)
    # The weights named here come from the run's own configuration.
    encoder = build({"class_path": stored["class_path"], "init_args": arguments}, trust=True)
    from_file = isinstance(arguments["pretrained"], str)
    source = arguments["pretrained"] if from_file else f"the weights of {arguments['name']}"
    return Original(source, encoder.eval(), arguments)


def _vectors(run: FineTuned, part: str) -> Original | None:
    """The word vectors that initialised an encoder's table."""
    asked, stored = run.init_args(part), run.checkpoint.model[part]["init_args"]
    source = ((asked.get("tokenizer") or {}).get("init_args") or {}).get("vectors")
    if not source:
        return None
    arguments = stored["tokenizer"]["init_args"]
    tokenizer = VectorTokenizer(source, None, arguments["size"], arguments["max_length"])
    if tokenizer.words != arguments["words"]:
        raise CheckpointError(
            f"{source}: its words are not those of {run.checkpoint.path}, so the run did not begin "
            f"with them."
        )
    assert tokenizer.vectors is not None
    return Original(source, WordVectors(tokenizer, tokenizer.vectors).eval())
