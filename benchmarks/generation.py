"""Writing answers: our greedy and beam search beside transformers' `generate`, on the same weights.

    python benchmarks/generation.py                               # all of it, some five minutes
    python benchmarks/generation.py --repeats 3 --only scratch    # a quick look, rough figures
    python benchmarks/generation.py --output generation.md        # keep the table

Decoders, all with random weights:
  scratch   `vlm.heads.TransformerDecoder` and the GPT-2 with cross-attention that is the same
            function, its weights copied (`as_gpt2`)
  causal    a GPT-2 that reads the joint tokens as its prefix, in our search and in `generate`
  encoder   a T5 that reads them as its encoder's output, likewise
Both sides get the same memory, with padding, and must write the same ids, or the row says how many
texts differ. Preparing the memory (projection to the decoder's width) is in neither figure.

How to read the table:
  ms        median of writing the answers of the whole batch
  ours/ref  median of the ratios of neighbouring runs; below 1 we are faster. The two sides take
            turns, so that the machine's mood falls on both. In brackets the 95 % bootstrap interval
            of that median: over the runs of this call, not over machines
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from pairs import Pairs, machine, markdown, take_turns, timed
from torch import Tensor
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from vlm.heads import HuggingFaceDecoder, TransformerDecoder
from vlm.heads.generation.beam_search import search
from vlm.heads.generation.decoder import AnswerDecoder, Memory
from vlm.heads.generation.tokenizer import ByteTokenizer

QUESTIONS, TOKENS, DIM = 64, 62, 256
"""Of the batch: as many questions with joint tokens of this width."""

Ids = list[list[int]]


class Case(NamedTuple):
    """The two ways to write the likeliest text of each question, its end left out."""

    ours: Callable[[], Ids]
    theirs: Callable[[], Ids]


def as_gpt2(decoder: TransformerDecoder) -> Any:
    """transformers' GPT-2 with cross-attention that is the same function of the projected memory
    (`decoder.memory`), in evaluation mode."""
    layer: Any = decoder.layers[0]
    config = GPT2Config(
        vocab_size=decoder.tokenizer.vocab_size,
        n_positions=decoder.max_length,
        n_embd=decoder.embedding.embedding_dim,
        n_layer=len(decoder.layers),
        n_head=layer.self_attention.num_heads,
        n_inner=layer.feedforward[1].out_features,
        activation_function="gelu",
        add_cross_attention=True,
        bos_token_id=decoder.tokenizer.begin,
        eos_token_id=decoder.tokenizer.end,
        pad_token_id=decoder.tokenizer.end,
    )
    weights = {
        "transformer.wte.weight": decoder.embedding.weight,
        "transformer.wpe.weight": decoder.positions.weight,
        "lm_head.weight": decoder.embedding.weight,
    } | named("transformer.ln_f", decoder.norm)
    for number, layer in enumerate(decoder.layers):
        to = f"transformer.h.{number}"
        own, cross = layer.self_attention, layer.cross_attention
        weights |= named(f"{to}.ln_1", layer.self_norm)
        weights |= named(f"{to}.ln_cross_attn", layer.cross_norm)
        weights |= named(f"{to}.attn.c_attn", own.query, own.key_value, turned=True)
        weights |= named(f"{to}.attn.c_proj", own.out, turned=True)
        weights |= named(f"{to}.crossattention.q_attn", cross.query, turned=True)
        weights |= named(f"{to}.crossattention.c_attn", cross.key_value, turned=True)
        weights |= named(f"{to}.crossattention.c_proj", cross.out, turned=True)
        weights |= named(f"{to}.ln_2", layer.feedforward[0])
        weights |= named(f"{to}.mlp.c_fc", layer.feedforward[1], turned=True)
        weights |= named(f"{to}.mlp.c_proj", layer.feedforward[4], turned=True)
    model = GPT2LMHeadModel(config)
    model.load_state_dict(weights)
    return model.eval()


def named(name: str, *modules: Any, turned: bool = False) -> dict[str, Tensor]:
    """Weight and bias of modules, one below the other; GPT-2 keeps its matrices transposed."""
    weight = torch.cat([module.weight for module in modules])
    bias = torch.cat([module.bias for module in modules])
    return {f"{name}.weight": weight.T if turned else weight, f"{name}.bias": bias}


def spread(module: torch.nn.Module, std: float) -> None:
    """Weights so large that texts differ and some of them end."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)


def memory() -> Memory:
    """Questions with 15 to all of the joint tokens."""
    lengths = torch.randint(15, TOKENS + 1, (QUESTIONS,))
    lengths[0] = TOKENS
    mask = torch.arange(TOKENS) < lengths[:, None]
    return Memory(torch.randn(QUESTIONS, TOKENS, DIM), mask)


def ours(decoder: AnswerDecoder, given: Memory, beams: int) -> Callable[[], Ids]:
    return lambda: [texts[0].ids for texts in search(decoder, given, beams, 0, 0.0)]


def theirs(model: Any, decoder: AnswerDecoder, beams: int, **inputs: Any) -> Callable[[], Ids]:
    begin, end = decoder.tokenizer.begin, decoder.tokenizer.end
    settings = GenerationConfig(
        max_new_tokens=decoder.max_length,
        num_beams=beams,
        do_sample=False,
        length_penalty=0.0 if beams > 1 else None,
        bos_token_id=begin,
        decoder_start_token_id=begin,
        eos_token_id=end,
        pad_token_id=end,
    )
    # No token before the text is given back where it is among the embeddings.
    start = 0 if "inputs_embeds" in inputs else 1

    def write() -> Ids:
        # `generate` repeats an encoder's output for the beams in its place, so it gets a new one.
        given = {k: copy.copy(v) for k, v in inputs.items()}
        rows = model.generate(**given, generation_config=settings)[:, start:].tolist()
        return [row[: row.index(end)] if end in row else row for row in rows]

    return write


def scratch(beams: int) -> Case:
    decoder = TransformerDecoder(
        DIM, dim=DIM, num_layers=4, num_heads=8, feedforward_dim=4 * DIM
    ).eval()
    spread(decoder, 0.1)
    given = memory()
    read = decoder.memory(given.tokens).detach()
    decoder.memory = torch.nn.Identity()
    start = torch.full((QUESTIONS, 1), decoder.tokenizer.begin)
    mask = given.mask.long()
    return Case(
        ours(decoder, Memory(read, given.mask), beams),
        theirs(
            as_gpt2(decoder),
            decoder,
            beams,
            input_ids=start,
            attention_mask=torch.ones_like(start),
            encoder_hidden_states=read,
            encoder_attention_mask=mask,
        ),
    )


def pretrained(config: Any, std: float) -> tuple[HuggingFaceDecoder, Memory]:
    decoder = HuggingFaceDecoder(DIM, config=config.to_dict(), tokenizer=ByteTokenizer()).eval()
    spread(decoder, std)
    given = memory()
    read = decoder.projection(given.tokens).detach()
    decoder.projection = torch.nn.Identity()
    return decoder, Memory(read, given.mask)


def causal(beams: int) -> Case:
    config = GPT2Config(vocab_size=257, n_positions=128, n_embd=DIM, n_layer=4, n_head=8)
    decoder, given = pretrained(config, 0.1)
    # `generate` wants padding in front, and the embedding of the first token in the prefix.
    order = given.mask.int().argsort(dim=1, stable=True)
    prefix = given.tokens.gather(1, order[..., None].expand_as(given.tokens))
    begin = torch.full((QUESTIONS, 1), decoder.tokenizer.begin)
    prefix = torch.cat((prefix, decoder.model.get_input_embeddings()(begin).detach()), 1)
    mask = torch.cat((given.mask.gather(1, order), torch.ones_like(begin).bool()), 1).long()
    return Case(
        ours(decoder, given, beams),
        theirs(decoder.model, decoder, beams, inputs_embeds=prefix, attention_mask=mask),
    )


def encoder(beams: int) -> Case:
    config = T5Config(vocab_size=257, d_model=DIM, d_kv=32, d_ff=4 * DIM, num_layers=4, num_heads=8)
    decoder, given = pretrained(config, 0.1)
    # Ours has no encoder any more, which `generate` looks for.
    whole = T5ForConditionalGeneration(config).eval()
    whole.load_state_dict(decoder.model.state_dict(), strict=False)
    output = BaseModelOutput(last_hidden_state=given.tokens)
    return Case(
        ours(decoder, given, beams),
        theirs(whole, decoder, beams, encoder_outputs=output, attention_mask=given.mask.long()),
    )


CASES = {"scratch": scratch, "causal": causal, "encoder": encoder}
HEADINGS = "decoder | beams | ours ms | ref ms | ours/ref | texts | tokens | alike"


def compare(name: str, beams: int, repeats: int) -> tuple[Pairs, str]:
    """Times, and the row of the table."""
    torch.manual_seed(0)
    case = CASES[name](beams)
    mine, their = case.ours(), case.theirs()  # the first run of each is slower, and not timed
    alike = sum(a == b for a, b in zip(mine, their, strict=True))
    title = f"answers by {name}, {beams} beams: ours / transformers' generate"
    pairs = Pairs(title, *take_turns([partial(timed, side) for side in case], repeats))
    cells = [name, str(beams), *(f"{1e3 * seconds:.0f}" for seconds in pairs.medians)]
    cells += [pairs.interval, str(len(mine)), str(sum(map(len, mine))), f"{alike} of {len(mine)}"]
    return pairs, " | ".join(cells)


def compare_all(pairs: int) -> list[Pairs]:
    transformers.logging.set_verbosity_error()  # its advice is about things that are meant
    return [compare("scratch", beams, pairs)[0] for beams in (1, 4)]


def table(rows: list[str]) -> str:
    """Markdown."""
    sizes = f"{QUESTIONS} questions, {TOKENS} joint tokens, 4 layers of width {DIM}"
    return f"{machine()}; {sizes}.\n\n{markdown(HEADINGS, rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--threads", type=int, help="default: PyTorch's own choice")
    parser.add_argument("--repeats", type=int, default=15, help="runs of a side (15)")
    parser.add_argument("--output", type=Path, help="Markdown file, written after every row")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()  # its advice is about things that are meant
    rows: list[str] = []
    for name in given.only:
        for beams in given.beams:
            rows.append(compare(name, beams, given.repeats)[1])
            if given.output:
                given.output.write_text(table(rows))
    print(table(rows), end="")


if __name__ == "__main__":
    main()
