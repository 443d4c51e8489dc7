"""What the language model is asked: the question's prompt, and the second try after a bad answer.

Knows nothing of endpoints.
"""

from string import Formatter

from tercet.data.synthesize.articles import Article
from tercet.errors import InputError

# The idea is the paper's (a specific, self-contained question on a paragraph), the words are ours.
PROMPT = """\
Here is a paragraph from a longer text. Write one question that somebody could ask and that this \
paragraph answers.

Rules:
- Write in {language}.
- Be specific: ask for one fact, reason, number, name, condition or method that the paragraph gives.
- The question must stand on its own. Whoever reads it sees neither the paragraph nor the text, so \
name the people, things, places and rules that it is about. Never write "it", "he", "they" or \
"this" for something that the question has not named, and never mention a paragraph, passage, \
text, article, document or author.
- Use your own words; do not copy a sentence.
- One sentence that ends as a question, at most 40 words.

Answer with the question alone: nothing before or after it, no quotation marks.

Title of the longer text: {title}

Paragraph:
{paragraph}
"""
NO_TITLE = "(none)"
PLACEHOLDERS = ("paragraph", "language", "title")

# English names of the languages with the most text; the others are called by their code.
NAMES = dict(
    entry.split("=")
    for entry in """
    ar=Arabic bg=Bulgarian bn=Bengali ca=Catalan cs=Czech da=Danish de=German el=Greek en=English
    es=Spanish et=Estonian fa=Persian fi=Finnish fr=French he=Hebrew hi=Hindi hr=Croatian
    hu=Hungarian hy=Armenian id=Indonesian it=Italian ja=Japanese ka=Georgian ko=Korean
    lt=Lithuanian lv=Latvian ms=Malay nl=Dutch no=Norwegian pl=Polish pt=Portuguese ro=Romanian
    ru=Russian sk=Slovak sl=Slovenian sr=Serbian sv=Swedish sw=Swahili ta=Tamil te=Telugu th=Thai
    tr=Turkish uk=Ukrainian ur=Urdu vi=Vietnamese yo=Yoruba zh=Chinese
    """.split()
)


def check_prompt(template: str, where: str) -> None:
    """Raises InputError where a template lacks {paragraph} or has what cannot be filled in."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"{where}: {error}: write a brace as {{{{ or }}}}") from error
    names = [name for _, name, _, _ in parsed if name is not None]
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    for _, name, spec, conversion in parsed:
        if name is not None and (name not in PLACEHOLDERS or spec or conversion):
            raise InputError(
                f"{where}: {{{name}}} cannot be filled in: there are {known}; write a brace as "
                "{{ or }}"
            )
    if "paragraph" not in names:
        raise InputError(f"{where}: {{paragraph}} is missing: without it there is nothing to ask")


def prompt_of(template: str, article: Article, lang: str) -> str:
    """The prompt on an article's paragraph, in the language with a code, or the paragraph's."""
    base = lang.partition("-")[0].lower()
    if base in NAMES:
        language = NAMES[base]
    else:
        language = "the language of the paragraph" + (f" (code {lang})" if lang else "")
    return template.format(
        paragraph=article.paragraph, title=article.title or NO_TITLE, language=language
    )


def again(problem: str) -> str:
    """What is said to an answer that was refused."""
    return (
        f"That cannot be used: {problem}. Write another question on the same paragraph, by the "
        "same rules. Answer with the question alone."
    )
