"""Answer heads: joint features in, scored answers out."""

from vlm.heads.auxiliary import AuxiliaryClassification
from vlm.heads.base import AnswerHead, Ranked
from vlm.heads.classification import Classification
from vlm.heads.generation import (
    AnswerDecoder,
    AnswerTokenizer,
    ByteTokenizer,
    Drawing,
    GatedLanguageModel,
    Generation,
    HuggingFaceDecoder,
    LanguageModel,
    PictureCodes,
    SubwordAnswers,
    TransformerDecoder,
    WordsAndCodes,
)
from vlm.heads.learned_mixin import LearnedMixin
from vlm.heads.multi_task import MultiTask
from vlm.heads.multiple_choice import ChoiceScores, MultipleChoice
from vlm.heads.vocabulary import AnswerVocabulary, count_answers

__all__ = [
    "AnswerDecoder",
    "AnswerHead",
    "AnswerTokenizer",
    "AnswerVocabulary",
    "AuxiliaryClassification",
    "ByteTokenizer",
    "ChoiceScores",
    "Classification",
    "Drawing",
    "GatedLanguageModel",
    "Generation",
    "HuggingFaceDecoder",
    "LanguageModel",
    "LearnedMixin",
    "MultiTask",
    "MultipleChoice",
    "PictureCodes",
    "Ranked",
    "SubwordAnswers",
    "TransformerDecoder",
    "WordsAndCodes",
    "count_answers",
]
