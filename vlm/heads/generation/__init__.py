"""A head that writes its answers, token by token."""

from vlm.heads.generation.codes import PictureCodes
from vlm.heads.generation.decoder import AnswerDecoder, TransformerDecoder
from vlm.heads.generation.drawing import Drawing
from vlm.heads.generation.gated_language_model import GatedLanguageModel
from vlm.heads.generation.head import Generation
from vlm.heads.generation.language_model import LanguageModel
from vlm.heads.generation.pretrained_decoder import HuggingFaceDecoder
from vlm.heads.generation.tokenizer import (
    AnswerTokenizer,
    ByteTokenizer,
    SubwordAnswers,
    WordsAndCodes,
)

__all__ = [
    "AnswerDecoder",
    "AnswerTokenizer",
    "ByteTokenizer",
    "Drawing",
    "GatedLanguageModel",
    "Generation",
    "HuggingFaceDecoder",
    "LanguageModel",
    "PictureCodes",
    "SubwordAnswers",
    "TransformerDecoder",
    "WordsAndCodes",
]
