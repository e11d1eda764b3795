"""Tiny random image-text-to-text models of eight architectures, and a language model, in the layout
of the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.llava_onevision.video_processing_llava_onevision import (
    LlavaOnevisionVideoProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

WORDS = "what color is the cat red green blue yes no a dog answer question using single word phrase"
CONTROLS = ["<pad>", "<s>", "</s>", "<end>", "<image>", "<video>", "<start>", "<stop>"]
CONTROLS += ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
TEXT: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
CHAT = (
    "<s>{% for turn in messages %}{{ turn['role'] }}:{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}SLOT{% else %} {{ part['text'] }}{% endif %}{% endfor %}"
    "{% if turn['role'] == 'assistant' %}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""As LLaVA's, an answer begins with a space that is no part of the generation prompt."""


def tokenizer(**more: Any) -> PreTrainedTokenizerFast:
    """Byte pairs of a few words, and control tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=CONTROLS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([WORDS] * 3, trainer)
    named = {
        "image_token": "<image>", "video_token": "<video>", "boi_token": "<start>",
        "eoi_token": "<stop>", "start_image_token": "<start>", "end_image_token": "<stop>",
        "context_image_token": "<image>",
    }  # fmt: skip
    given: dict[str, Any] = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    given |= {"extra_special_tokens": named, **more}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **given)


def llava(tokens: Any, text: Any, ids: Any) -> tuple[Any, Any]:
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    processor = transformers.LlavaProcessor(
        images, tokens, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "projection_dim": 24},
        text_config={"model_type": "llama", **text},
        image_token_index=ids("<image>"),
        vision_feature_layer=-1,
    )
    return processor, config


def llava_onevision(tokens: Any, text: Any, ids: Any) -> tuple[Any, Any]:
    pinpoints = [[28, 28], [28, 56], [56, 28], [56, 56]]
    images = LlavaOnevisionImageProcessorPil(
        size={"height": 28, "width": 28}, image_grid_pinpoints=pinpoints
    )
    processor = transformers.LlavaOnevisionProcessor(
        images, tokens, LlavaOnevisionVideoProcessor(), num_image_tokens=4,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    config = transformers.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION},
        text_config={"model_type": "qwen2", **text},
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-1,
    )
    return processor, config


def idefics3(tokens: Any, text: Any, ids: Any) -> tuple[Any, Any]:
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    config = transformers.Idefics3Config(
        vision_config={"model_type": "idefics3_vision", **VISION},
        text_config={"model_type": "llama", **text},
        image_token_id=ids("<image>"),
        scale_factor=2,
    )
    return transformers.Idefics3Processor(images, tokens, image_seq_len=1), config


def smolvlm(tokens: Any, text: Any, ids: Any) -> tuple[Any, Any]:
    images = SmolVLMImageProcessorPil(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    config = transformers.SmolVLMConfig(
        vision_config={"model_type": "smolvlm_vision", **VISION},
        text_config={"model_type": "llama", **text},
        image_token_id=ids("<image>"),
        scale_factor=2,
    )
    videos = SmolVLMVideoProcessor()
    return transformers.SmolVLMProcessor(images, tokens, videos, image_seq_len=1), config


def qwen(kind: str) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    def make(tokens: Any, text: Any, ids: Any) -> tuple[Any, Any]:
        images = Qwen2VLImageProcessorPil(
            patch_size=14, size={"shortest_edge": 28 * 28, "longest_edge": 84 * 84}
        )
        videos = Qwen2VLVideoProcessor()
        rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
        shared = {"patch_size": 14, "spatial_merge_size": 2, "depth": 2, "num_heads": 4}
        if kind == "Qwen2VL":
            vision = {**shared, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 1}
        else:
            vision = {
                **shared, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 32,
                "fullatt_block_indexes": [1], "window_size": 56,
            }  # fmt: skip
        config = getattr(transformers, f"{kind}Config")(
            vision_config=vision,
            text_config={**text, "hidden_size": 32, "rope_parameters": rope},
            image_token_id=ids("<image>"),
            video_token_id=ids("<video>"),
            vision_start_token_id=ids("<start>"),
            vision_end_token_id=ids("<stop>"),
        )
        return getattr(transformers, f"{kind}Processor")(images, tokens, videos), config

    return make


def internvl(tokens: Any, text: Any, ids: Any) -> tuple[Any, Any]:
    images = GotOcr2ImageProcessorPil(
        size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4
    )
    config = transformers.InternVLConfig(
        vision_config={**VISION, "image_size": [28, 28], "patch_size": [14, 14]},
        text_config={"model_type": "qwen2", **text},
        image_token_id=ids("<image>"),
        downsample_ratio=0.5,
    )
    videos = InternVLVideoProcessor()
    return transformers.InternVLProcessor(images, tokens, videos, image_seq_length=1), config


def gemma3(tokens: Any, text: Any, ids: Any) -> tuple[Any, Any]:
    images = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    config = transformers.Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **VISION},
        text_config={"model_type": "gemma3_text", **text, "sliding_window": 16,
                     "layer_types": ["sliding_attention", "full_attention"],
                     "query_pre_attn_scalar": 8},
        image_token_index=ids("<image>"),
        boi_token_index=ids("<start>"),
        eoi_token_index=ids("<stop>"),
        mm_tokens_per_image=4,
    )  # fmt: skip
    return transformers.Gemma3Processor(images, tokens, image_seq_length=4), config


def paligemma(tokens: Any, text: Any, ids: Any) -> tuple[Any, Any]:
    images = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    processor = transformers.PaliGemmaProcessor(images, tokens)
    config = transformers.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        text_config={"model_type": "gemma", **text},
        image_token_index=ids("<image>"),
        projection_dim=24,
        hidden_size=24,
    )
    return processor, config


MODELS: dict[str, Callable[[Any, Any, Any], tuple[Any, Any]]] = {
    "llava": llava,
    "llava_onevision": llava_onevision,
    "idefics3": idefics3,
    "qwen2_vl": qwen("Qwen2VL"),
    "qwen2_5_vl": qwen("Qwen2_5_VL"),
    "internvl": internvl,
    "gemma3": gemma3,
    "paligemma": paligemma,
}
NEEDS_NUM2WORDS = {"smolvlm": smolvlm}
"""Its processor needs a package that the tests do not."""
SLOTS = {
    "qwen2_vl": "<start><image><stop>",
    "qwen2_5_vl": "<start><image><stop>",
    "gemma3": "<start>",
}
"""What the chat template writes for an image, where it is not <image>."""


def vlm_folder(folder: Path, kind: str, chat: str | None = CHAT, **tokens: Any) -> Path:
    """Save a tiny model of a kind in `MODELS`; `tokens` are arguments of its tokenizer."""
    torch.manual_seed(0)
    made = tokenizer(**tokens)
    ids = made.convert_tokens_to_ids
    text = {**TEXT, "vocab_size": 360, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    processor, config = (MODELS | NEEDS_NUM2WORDS)[kind](made, text, ids)
    if kind != "paligemma" and chat is not None:
        processor.chat_template = chat.replace("SLOT", SLOTS.get(kind, "<image>"))
    else:
        text["vocab_size"] = len(made)
        _, config = (MODELS | NEEDS_NUM2WORDS)[kind](made, text, ids)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # as initialised, hardly any answer depends on the image
                parameter.normal_(0, 0.3)
    # Several tokens end an answer, as with the models that were tuned to chat.
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=[2, ids("<end>")], pad_token_id=0, bos_token_id=1,
        do_sample=True, temperature=0.7, top_p=0.9,
    )  # fmt: skip
    folder.mkdir()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


STRING = CHAT.replace(
    "{% for part in turn['content'] %}{% if part['type'] == 'image' %}SLOT{% else %} "
    "{{ part['text'] }}{% endif %}{% endfor %}",
    " {{ turn['content'] }}",
)
"""The template of a language model that knows no images."""


def language_model_folder(folder: Path, chat: str | None = STRING, **tokens: Any) -> Path:
    """Save a tiny language model that knows no images, with or without a chat template."""
    made = tokenizer(**tokens)
    made.chat_template = chat
    made.save_pretrained(folder)
    text = TEXT | {"vocab_size": len(made), "bos_token_id": 1, "eos_token_id": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**text))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder
