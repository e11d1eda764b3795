"""English words that do not say what a question is about."""

FUNCTION_WORDS = frozenset(
    """
    a an the this that these those
    i me my you your he him his she her it its we us our they them their
    what which who whom whose when where why how
    is are was were be been being am do does did have has had
    can could will would shall should may might must
    isn't aren't wasn't weren't don't doesn't didn't hasn't haven't can't couldn't won't wouldn't
    what's who's where's how's it's that's there's he's she's i'm you're they're
    not no any some all each every both one ones other
    and or but if than as so too very just also
    in on at of to for from with by about into over under
    there here
    """.split()  # noqa: SIM905  a list would take a line a word
)
"""Articles, pronouns, question words, auxiliary verbs, quantifiers, conjunctions, prepositions."""
