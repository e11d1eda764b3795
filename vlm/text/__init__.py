"""Text encoders: questions in, words out."""

from vlm.core.clean_text import clean_text
from vlm.text.bag import BagOfWords
from vlm.text.base import TextEncoder
from vlm.text.clip_tokenizer import ClipTokenizer
from vlm.text.huggingface import HuggingFaceEncoder
from vlm.text.open_clip import OpenClipTextEncoder
from vlm.text.prompt import Prompt, PromptTokenizer
from vlm.text.recurrent import Recurrent
from vlm.text.subword import SubwordTokenizer
from vlm.text.tokenizer import Tokenizer, WordTokenizer
from vlm.text.transformer import Transformer
from vlm.text.vectors import VectorTokenizer
from vlm.text.words import count_words, split_words

__all__ = [
    "BagOfWords",
    "ClipTokenizer",
    "HuggingFaceEncoder",
    "OpenClipTextEncoder",
    "Prompt",
    "PromptTokenizer",
    "Recurrent",
    "SubwordTokenizer",
    "TextEncoder",
    "Tokenizer",
    "Transformer",
    "VectorTokenizer",
    "WordTokenizer",
    "clean_text",
    "count_words",
    "split_words",
]
