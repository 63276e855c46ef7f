"""With one word a customer ends automatic answers, and with another one gets them again. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from enum import StrEnum

from app.domain.folding import fold

MAX_STOP_WORDS = 50
MAX_STOP_WORD_CHARACTERS = 60


class Wish(StrEnum):
    STOP = "stop"
    START = "start"


_STOP: Mapping[str, str] = {
    "stop": "", "stopp": "de",
    "stop all": "en", "stopall": "en", "unsubscribe": "en", "opt out": "en", "opt-out": "en", "optout": "en",
    "arret": "fr", "arreter": "fr", "arretez": "fr", "desabonner": "fr", "desabonnement": "fr",
    "me desabonner": "fr", "se desabonner": "fr",
    "parar": "", "baja": "es", "dar de baja": "es", "darme de baja": "es", "detener": "es", "alto": "es",
    "pare": "pt", "sair": "pt", "descadastrar": "pt", "cancelar inscricao": "pt",
    "abmelden": "de", "abbestellen": "de", "annulla iscrizione": "it", "disiscrivimi": "it",
    "توقف": "ar", "ايقاف": "ar", "الغاء الاشتراك": "ar", "الغاء": "ar",
}  # fmt: skip
"""Folded word -> its language, where it is of one only."""

_START = frozenset({
    "start", "unstop", "subscribe", "resume", "opt in", "opt-in", "demarrer", "reprendre", "redemarrer", "iniciar",
    "empezar", "reanudar", "alta", "comecar", "retomar", "starten", "anmelden", "riprendi", "inizia",
    "ابدا", "بدء", "استئناف",
})  # fmt: skip

_LANGUAGE_OF_NUMBER: Mapping[str, str] = {
    "33": "fr", "34": "es", "52": "es", "54": "es", "56": "es", "57": "es", "51": "es", "58": "es", "55": "pt",
    "351": "pt", "244": "pt", "258": "pt", "49": "de", "43": "de", "39": "it", "20": "ar", "212": "ar", "213": "ar",
    "216": "ar", "218": "ar", "249": "ar", "961": "ar", "962": "ar", "963": "ar", "964": "ar", "965": "ar",
    "966": "ar", "967": "ar", "968": "ar", "971": "ar", "973": "ar", "974": "ar",
    "221": "fr", "223": "fr", "225": "fr", "226": "fr", "227": "fr", "228": "fr", "229": "fr", "237": "fr",
    "241": "fr", "242": "fr", "243": "fr", "261": "fr",
}  # fmt: skip
"""Country code -> the language that is understood there, of those that we have words in."""

_STOPPED: Mapping[str, str] = {
    "en": "You will get no more automatic answers here. Write START to get them again.",
    "fr": "Vous ne recevrez plus de réponses automatiques ici. Écrivez START pour les recevoir à nouveau.",
    "es": "No recibirá más respuestas automáticas aquí. Escriba START para volver a recibirlas.",
    "pt": "Não receberá mais respostas automáticas aqui. Escreva START para voltar a recebê-las.",
    "ar": "لن تتلقى المزيد من الردود الآلية هنا. اكتب START لتلقيها من جديد.",
    "de": "Sie bekommen hier keine automatischen Antworten mehr. Schreiben Sie START, um sie wieder zu bekommen.",
    "it": "Qui non riceverà più risposte automatiche. Scriva START per riceverle di nuovo.",
}

_STARTED: Mapping[str, str] = {
    "en": "You can get automatic answers here again. Write STOP to end them.",
    "fr": "Vous pouvez à nouveau recevoir des réponses automatiques ici. Écrivez STOP pour y mettre fin.",
    "es": "Puede volver a recibir respuestas automáticas aquí. Escriba STOP para dejar de recibirlas.",
    "pt": "Pode voltar a receber respostas automáticas aqui. Escreva STOP para deixar de recebê-las.",
    "ar": "يمكنك تلقي الردود الآلية هنا من جديد. اكتب STOP لإيقافها.",
    "de": "Sie können hier wieder automatische Antworten bekommen. Schreiben Sie STOP, um sie zu beenden.",
    "it": "Qui può ricevere di nuovo risposte automatiche. Scriva STOP per non riceverle più.",
}


def wish(texts: Iterable[str | None], stop_words: Iterable[str] = ()) -> Wish | None:
    """The last wish among these messages; each must be one word, or one of the short phrases, and nothing else.
    `stop_words`: of the profile. A word is no START where the profile calls it a STOP."""
    own = {_bare(word) for word in stop_words}
    last = None
    for text in texts:
        bare = _bare(text or "")
        if bare and (bare in own or bare in _STOP):
            last = Wish.STOP
        elif bare in _START:
            last = Wish.START
    return last


def confirmation(heeded: Wish, word: str | None, wa_id: str | None) -> str:
    """What the customer reads, once: in the language of their word, or of their number's country, else in English."""
    number = wa_id or ""
    of_number = next((_LANGUAGE_OF_NUMBER[code] for n in (3, 2) if (code := number[:n]) in _LANGUAGE_OF_NUMBER), "en")
    texts = _STOPPED if heeded is Wish.STOP else _STARTED
    return texts[_STOP.get(_bare(word or "")) or of_number]


def _bare(text: str) -> str:
    """Without the signs around it, emoji and the marks of writing direction included; what is all signs stays."""
    if len(text) > 2 * MAX_STOP_WORD_CHARACTERS:
        return ""
    folded = fold(text)
    kept = [place for place, character in enumerate(folded) if not _is_sign(character)]
    return folded[kept[0] : kept[-1] + 1] if kept else folded


def _is_sign(character: str) -> bool:
    """Punctuation, symbols, separators, control and format characters; and what turns a character into an emoji."""
    return unicodedata.category(character)[0] in "PSZC" or character in "\ufe0e\ufe0f\u20e3"
