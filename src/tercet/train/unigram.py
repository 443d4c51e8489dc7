"""Trains a tokenizer of the XLM-RoBERTa family from text.

The pieces are learned by the `tokenizers` library; their order, the special ids (<s> 0, <pad> 1,
</s> 2, <unk> 3, <mask> last) and how text is prepared are XLM-RoBERTa's. Knows nothing of models or
files.
"""

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from tercet.errors import InputError
from tercet.tokens import MASK, UNK, Tokenizer, sanitise
from tercet.train.vocabulary import FIRST, SPACE

LONGEST = 16  # characters of a piece: sentencepiece's default, which XLM-RoBERTa was made with


def train_unigram(texts: Iterable[str], size: int) -> Tokenizer:
    """A Unigram tokenizer of at most size ids from texts; every character seen is a piece.

    Raises InputError where there is no text, or size has no room for the characters.
    """
    backend = Backend(models.Unigram())
    prepare(backend)
    trainer = trainers.UnigramTrainer(
        vocab_size=size,
        special_tokens=[*FIRST, MASK],
        unk_token=UNK,
        max_piece_length=LONGEST,
        show_progress=False,
    )
    special = {*FIRST, MASK}
    room = size - len(special)
    characters: set[str] = set()
    watcher = Backend(models.Unigram())  # the trained one is locked meanwhile
    prepare(watcher)

    def watched() -> Iterable[str]:
        for raw in texts:
            text = sanitise(raw)
            normal = watcher.normalizer.normalize_str(text)
            for word, _ in watcher.pre_tokenizer.pre_tokenize_str(normal):
                characters.update(word)
            if len(characters) > room:
                raise InputError(
                    f"{size} ids are too few: the text has {len(characters)} different characters"
                    " or more, and each must stay"
                )
            yield text
        if not characters - {SPACE}:
            raise InputError("a tokenizer is trained from text, but there is none")

    backend.train_from_iterator(watched(), trainer)
    learned = {
        str(piece): float(score)
        for piece, score in json.loads(backend.to_str())["model"]["vocab"]
        if piece not in special
    }
    return assemble(learned, characters, room)


def assemble(learned: dict[str, float], characters: set[str], room: int) -> Tokenizer:
    """The best pieces in the order of their scores, with every character, around the special ids.

    Scores are rounded to six digits, as in published files: sums of many threads differ after that.
    """
    scores = {piece: float(f"{score:.6g}") for piece, score in learned.items()}
    floor = min(scores.values(), default=0.0) - 1.0
    for character in characters:
        scores.setdefault(character, floor)
    ranked = sorted(scores.items(), key=lambda item: (item[0] not in characters, -item[1], item[0]))
    chosen = sorted(ranked[:room], key=lambda item: (-item[1], item[0]))
    vocab = [(token, 0.0) for token in FIRST] + chosen + [(MASK, 0.0)]
    backend = Backend(models.Unigram(vocab, unk_id=FIRST.index(UNK)))
    prepare(backend)
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in FIRST])
    backend.add_special_tokens([AddedToken(MASK, lstrip=True, normalized=False)])
    return Tokenizer(backend)


def prepare(backend: Backend) -> None:
    """Text as XLM-RoBERTa prepares it: NFKC, no control characters, words with their space."""
    backend.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
