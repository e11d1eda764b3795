"""Answer heads: joint features in, scored answers out."""

from vlm.heads.base import AnswerHead, Ranked
from vlm.heads.classification import Classification
from vlm.heads.vocabulary import AnswerVocabulary, count_answers

__all__ = ["AnswerHead", "AnswerVocabulary", "Classification", "Ranked", "count_answers"]
