"""How much of a text a scorer can use.  All references are looked at, and what share is usable is
said.

rouge-score keeps runs of a-z and 0-9 in lower case and nothing else. BLEU compares words, and a
script that writes no blanks between them, such as Chinese or Thai, is one word a sentence to most
of sacreBLEU's tokenisers: one wrong letter and all of it is wrong. Text in subword pieces has no
words at all.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, Self

ENOUGH = 0.5  # a smaller share is refused
NEARLY_ALL = 0.95  # a smaller share is said

MARKS = ("▁", "@@ ")  # of sentencepiece and of subword-nmt
# Letters: a longer "word" of Chinese or Japanese, or of another script without blanks, is none
LONG, LONG_OTHERS = 3, 6
NOT_KEPT = re.compile("[^a-z0-9]+")
KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9d"
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Thai and Lao, Tibetan, Burmese, Khmer
OTHERS = "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
UNSPACED, OTHER = re.compile(f"[{KANA}{HAN}{OTHERS}]"), re.compile(f"[{OTHERS}]")
# Of sacreBLEU, for text with such letters
TOKENISERS = {"ja-mecab": KANA, "zh": HAN, "char": OTHERS}


class Coverage(NamedTuple):
    """Counts over texts that have letters or digits.  A share is 1 where there are none."""

    texts: int = 0
    letters: int = 0  # and digits, of any script
    kept: int = 0  # of these a-z and 0-9
    whole: int = 0  # texts whose words the tokeniser does not tell apart
    pieces: int = 0  # texts with the marks of subwords
    tokeniser: str = "char"  # that would tell words apart

    @classmethod
    def of(cls, texts: Iterable[str], tokenise: Callable[[str], str] = str) -> Self:
        """Look at all texts; `tokenise` puts blanks between words, as sacreBLEU's tokenisers do."""
        many = letters = kept = whole = pieces = 0
        scripts = dict.fromkeys(TOKENISERS, 0)
        for text in texts:
            lower = text.lower()
            found = sum(map(str.isalnum, lower))
            if not found:
                continue
            many, letters, kept = many + 1, letters + found, kept + len(NOT_KEPT.sub("", lower))
            pieces += any(mark in f"{text} " for mark in MARKS)
            unspaced, others = len(UNSPACED.findall(text)), len(OTHER.findall(text))
            long = LONG_OTHERS if others > unspaced / 2 else LONG
            if unspaced >= found / 2 and found > long * len(tokenise(text).split()):
                whole += 1
                for name, letters_of in TOKENISERS.items():
                    scripts[name] += bool(re.search(f"[{letters_of}]", text))
        # Japanese has both, and Chinese no kana.
        chosen = next((name for name, count in scripts.items() if count > whole / 2), "char")
        return cls(many, letters, kept, whole, pieces, chosen)

    @property
    def rouge(self) -> float:
        """Share of the letters and digits that rouge-score counts."""
        return self.kept / self.letters if self.letters else 1.0

    @property
    def bleu(self) -> float:
        """Share of the texts whose words the tokeniser tells apart."""
        return 1 - self.whole / self.texts if self.texts else 1.0

    @property
    def words(self) -> float:
        """Share of the texts that are in words, not in pieces."""
        return 1 - self.pieces / self.texts if self.texts else 1.0
