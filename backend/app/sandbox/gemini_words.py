"""Words for the stand-in's replies: which language, what a word is about, and the phrases around a quoted fact."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_WORD = re.compile(r"[a-z0-9]+")
_ENDINGS = ("ements", "ement", "ations", "ation", "ings", "ing", "aient", "ies", "ees", "ed", "ee", "er", "ez", "es",
            "e", "s", "x", "y")  # fmt: skip
_MIN_STEM = 4
_MIN_PLURAL = 3


@dataclass(frozen=True, slots=True)
class Phrases:
    """One language. `hints` are the words it is recognised by."""

    hints: frozenset[str]
    hello: str
    hello_named: str
    leads: tuple[str, ...]
    closings: tuple[str, ...]
    unknown: str
    welcome: str
    thanks: str


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LANGUAGES = {
    "en": Phrases(
        _words("the is are you your do does what where when how much many can could i we it my of and to for have has "
               "hello hi hey please thanks thank would like want on at any there with"),
        "Hello! ", "Hello {name}! ",
        ("", "Of course. ", "Happy to help. ", "Sure. "),
        ("Would you like to know anything else?", "Shall I tell you more about something in particular?",
         "What can I do next for you?"),
        "I don't have that information here, and I would rather not guess. Shall I ask the team to get back to you?",
        "How can I help you today?",
        "You're welcome! Is there anything else I can do for you?",
    ),
    "fr": Phrases(
        _words("le la les des est sont vous votre vos nous je tu il elle et pour avec quel quelle quels quelles "
               "combien comment quand que qui dans sur une un du de au aux ce cette bonjour bonsoir salut merci "
               "avez etes faites peut puis pouvez voudrais souhaite aussi oui non svp plait mon ma mes ne pas ou y a t "
               "c d l j"),
        "Bonjour ! ", "Bonjour {name} ! ",
        ("", "Bien sûr. ", "Avec plaisir. ", "Volontiers. "),
        ("Souhaitez-vous savoir autre chose ?", "Puis-je vous renseigner sur autre chose ?",
         "Que puis-je faire d'autre pour vous ?"),
        "Je n'ai pas cette information et je préfère ne rien inventer. Voulez-vous que l'équipe vous réponde ?",
        "Que puis-je faire pour vous ?",
        "Avec plaisir ! Puis-je faire autre chose pour vous ?",
    ),
    "es": Phrases(
        _words("el los las es son usted su y para con que cual cuanto cuesta como cuando donde en una un del al hola "
               "buenos dias buenas gracias tienen tiene puedo quiero quisiera mi por favor hay"),
        "¡Hola! ", "¡Hola {name}! ",
        ("", "Claro. ", "Con mucho gusto. "),
        ("¿Quiere saber algo más?", "¿Qué más puedo hacer por usted?"),
        "No tengo esa información y prefiero no inventar nada. ¿Quiere que el equipo le responda?",
        "¿En qué puedo ayudarle?",
        "¡De nada! ¿Puedo ayudarle en algo más?",
    ),
    "de": Phrases(
        _words("der die das ist sind sie ihr ihre und fur mit was wo wann wie viel kann konnen ich wir ein eine haben "
               "hallo guten tag danke bitte gibt es am im zu mein auch nicht"),
        "Hallo! ", "Hallo {name}! ",
        ("", "Gerne. ", "Natürlich. "),
        ("Möchten Sie noch etwas wissen?", "Was kann ich sonst noch für Sie tun?"),
        "Das weiß ich leider nicht und möchte nicht raten. Soll sich das Team bei Ihnen melden?",
        "Wie kann ich Ihnen helfen?",
        "Gern geschehen! Kann ich noch etwas für Sie tun?",
    ),
}  # fmt: skip

SMALL_TALK = _words("hello hi hey bonjour bonsoir salut coucou hola hallo guten tag buenos dias buenas")
THANKS = _words("thanks thank merci gracias danke super parfait perfect great ok")
FILLER = frozenset().union(*(phrases.hints for phrases in LANGUAGES.values()), SMALL_TALK, THANKS, _words(
    "this that these those some more than also just only very well so if or an as be been was were will am not no yes "
    "in out up over since by from into about beaucoup mucho muchas vielen sell sells vendez vend vendre offer propose "
    "proposez "
    "know tell give please me us our they them ou donc si plus tres bien savoir dire moi toi lui leur leurs se sa son "
    "ses par est-ce qu n s m avoir etre fait ai suis serait veux veut get got make made take question need thing"
))  # fmt: skip

_CONCEPTS = {
    "#hours": "hour hours open opens opening opened close closes closed closing heure heures ouvert ouverte ouverts "
              "ouvre ouvrez ouverture horaire horaires ferme fermez fermeture horario horarios abierto abren cierran "
              "offnet geoffnet offnungszeiten",
    "#price": "price prices cost costs much combien prix coute coutent tarif tarifs cher cuanto precio precios cuesta "
              "preis preise kostet kosten eur euro euros",
    "#place": "where address located location find adresse trouver situe situes donde direccion wo",
    "#delivery": "deliver delivers delivery delivered livraison livrer livrez livre livres entrega lieferung liefern",
    "#order": "order orders ordering ordered commande commandes commander pedido pedir encargar bestellen bestellung",
    "#pay": "pay paying payment card cards cash paiement payer carte cartes especes pago pagar tarjeta zahlen karte",
    "#book": "book booking reserve reservation reserver reserva reservar reservieren table",
    "#bread": "bread breads loaf loaves pain pains pan panes brot brote",
    "#cake": "cake cakes gateau gateaux pastel pasteles tarta tartas kuchen torte",
    "#birthday": "birthday anniversaire cumpleanos geburtstag",
    "#vegan": "vegan vegane vegetalien vegetarian vegetarien vegetarienne vegano",
    "#parking": "parking park car garer stationner stationnement aparcar parken",
    "#phone": "phone call telephone appeler telefono telefon",
    "#refund": "refund refunds return returns remboursement rembourser retour retours cancel annuler annulation",
    "#monday": "monday lundi lunes montag", "#tuesday": "tuesday mardi martes dienstag",
    "#wednesday": "wednesday mercredi miercoles mittwoch", "#thursday": "thursday jeudi jueves donnerstag",
    "#friday": "friday vendredi viernes freitag", "#saturday": "saturday samedi sabado samstag",
    "#sunday": "sunday dimanche domingo sonntag",
    "#weekend": "weekend", "#today": "today aujourd hui hoy heute", "#breakfast": "breakfast petit-dejeuner desayuno",
}  # fmt: skip
_CONCEPT_OF = {word: concept for concept, words in _CONCEPTS.items() for word in words.split()}


def plain_words(text: str) -> list[str]:
    """Lower-case words without accents."""
    decomposed = unicodedata.normalize("NFKD", text.lower())
    return _WORD.findall("".join(char for char in decomposed if not unicodedata.combining(char)))


def stems(text: str) -> frozenset[str]:
    """What a text is about: concepts and crude stems; filler and lone digits left out."""
    # Without its accent "où" (where) would be "ou" (or).
    words = plain_words(text.replace("où", "where").replace("Où", "where"))
    telling = (word for word in words if word in _CONCEPT_OF or (word not in FILLER and len(word) > 1))
    return frozenset(_stem(word) for word in telling)


def _stem(word: str) -> str:
    if word in _CONCEPT_OF:
        return _CONCEPT_OF[word]
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= (_MIN_PLURAL if ending == "s" else _MIN_STEM):
            return word.removesuffix(ending)
    return word


def language_of(*texts: str) -> Phrases:
    """By the first text that gives itself away; English if none does."""
    for text in texts:
        words = plain_words(text)
        score = {name: sum(word in phrases.hints for word in words) for name, phrases in LANGUAGES.items()}
        best = max(score, key=lambda name: score[name])
        if score[best] and list(score.values()).count(score[best]) == 1:
            return LANGUAGES[best]
    return LANGUAGES["en"]
