"""Text encoders: questions in, words out."""

from vlm.text.bag import BagOfWords
from vlm.text.base import TextEncoder
from vlm.text.huggingface import HuggingFaceEncoder
from vlm.text.recurrent import Recurrent
from vlm.text.subword import SubwordTokenizer
from vlm.text.tokenizer import Tokenizer, WordTokenizer, count_words, split_words
from vlm.text.transformer import Transformer

__all__ = [
    "BagOfWords",
    "HuggingFaceEncoder",
    "Recurrent",
    "SubwordTokenizer",
    "TextEncoder",
    "Tokenizer",
    "Transformer",
    "WordTokenizer",
    "count_words",
    "split_words",
]
