# ruff: noqa: E501 - patterns and the letters of five languages, not code
"""Does a text promise that a person will see to the customer? Pure; English, French, Spanish, Portuguese and Arabic.

A model may write "a colleague will call you" and call none. A promise is a sentence in which

    1. a person of the business, or "we", will call, write, answer or take over
    2. or a person of the business was told, or will be
    3. or the customer will be called, or put through

An offer is none: a question, or "if you like". Nor is what people do anyway ("our colleagues bake at night"), or what would
happen if the customer called. Judged sentence by sentence, on folded text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.domain.folding import fold

MAX_CHARACTERS = 8192
"""Of a text, two messages of WhatsApp: what is behind that is not looked at."""

_EMPHASIS = str.maketrans("", "", "*_~")
"""WhatsApp's signs around words: "a colleague will *call* you"."""
_SENTENCE = re.compile(r"[^.!?؟\n;\u2600-\u27bf\U0001f000-\U0001faff]+[.!?؟\n;]*")
"""In a chat a picture may end one, too."""


@dataclass(frozen=True, slots=True)
class _Language:
    """`stems`: a text with none of them holds no promise. Looking for them costs a tenth of the patterns."""

    stems: tuple[str, ...]
    promises: re.Pattern[str]
    offers: re.Pattern[str]


def _language(stems: str, *ways: str, offers: str, **parts: str) -> _Language:
    """`<name>` in a way stands for one of the parts."""
    for name, part in parts.items():
        ways = tuple(way.replace(f"<{name}>", f"(?:{part})") for way in ways)
    return _Language(tuple(stems.split()), re.compile("|".join(f"(?:{way})" for way in ways)), re.compile(offers))


_ENGLISH = _language(
    "colleague person human agent advis specialist representative manager supervisor team staff someone somebody customer owner call contact touch back reach follow phone transferred connected through hear",
    r"(?<!\bno )\b<person>(?: here)?(?:'ll| will| is going to| are going to| shall)(?: then| also| soon| shortly| gladly| personally| now| be (?:happy|glad|able) to)* (?:\w+ (?:\S+ ){0,4}and )?<does>",
    r"\b(?!(?:courier|driver|bank|it|this|that|which|system|nobody|one|none)\b)\w+(?:'ll| will)(?: then| also| soon| shortly| personally)* (?:call you back|"
    r"get back to you|be in touch|reply to you|answer you here|contact you|write to you)\b",
    r"\b(?:let me|while i|i) (?:pass|forward|hand|transfer|connect|put|ask) (?:\S+ ){0,5}?<person>\b",
    r"\b(?:has|have) been (?:forwarded|passed|sent|handed|transferred|escalated)(?: on| over)? to <person>\b",
    r"\b<person>(?:'s| has| have) (?:already |now |just )?been (?:told|informed|notified|alerted)\b",
    r"\b<person>(?:'s| is| are) (?:already |now )?(?:on (?:his|her|their|the) way|joining|taking over|going to take over)\b",
    r"\b(?:i|we)(?:'ll| will|'m| am|'ve| have|'re| are)(?: now| just| already| going to| gladly| happily)* (?:pass(?:ed|ing)?|"
    r"forward(?:ed|ing)?|hand(?:ed|ing)?|transferr?(?:ed|ing)?|connect(?:ed|ing)?|escalat(?:e|ed|ing)|refer(?:red|ring)?|"
    r"inform(?:ed|ing)?|notif(?:y|ied|ying)|alert(?:ed|ing)?|let|told|tell(?:ing)?|ask(?:ed|ing)?|call(?:ed|ing)?) "
    r"(?:\S+ ){0,5}?<person>\b",
    r"\b(?:i|we)(?:'ll| will) (?:have|get) <person>\b",
    r"\b(?:i|we)(?:'ll| will)(?: (?!not\b)\w+)? (?:call you|phone you|contact you|get back to you|be in touch|get in touch|reach out|"
    r"follow up with you|come back to you|call back)\b",
    r"\byou(?:'ll| will)(?: soon| shortly)? (?:be (?:contacted|called|transferred|connected|put through)|hear (?:back )?from "
    r"(?:us|<person>)|(?:get|receive) (?:a|an) (?:call|reply|answer|message) from)\b",
    person=r"(?:(?:a|an|one of (?:my|our|the)|my|our|the|another|some) )?(?:(?:human|real|live|senior) )?(?:colleagues?|person|"
    r"human|agent|advisor|adviser|specialist|representative|manager|supervisor|(?:team|staff) member|member of (?:our|the) "
    r"(?:team|staff)|(?:someone|somebody)(?: (?:from|on|in|at) (?:our |the )?\w+)?|(?:\w+ )?team|staff|customer "
    r"(?:service|support|care)|owner|human being)",
    does=r"(?:call|phone|ring|contact|reach out|get back|come back to you|get in touch|be in touch|follow up|answer|reply|"
    r"respond|write|message you|text you|take over|take care of (?:this|it|your request)|join|be with you|step in|look into|"
    r"(?:assist|help) you (?:shortly|soon|here|right away|in a moment|as soon as|personally|further|with (?:this|that|your)))\b",
    offers=r"\b(?:would you like|do you want|shall i|should i|may i|if you(?:'d| would)? (?:like|want|wish|prefer|need|call|visit|"
    r"come|phone|ring|drop|e-?mail|order)|when you (?:come|visit|call|order|arrive)|once you)\b",
)
_FRENCH = _language(
    "collegue conseill responsable collaborat equipe humain agent personne quelqu'un service gerant patron rappel contact reviendrons revenons transfer relation revient",
    r"\b<person>(?: \w+ment)? (?:vous |te |t')?(?:va|vont)(?: \w+ment| vite| bientot)? <do>\b",
    r"(?<!\baucun )(?<!\baucune )\b<person>(?: \w+ment)? (?:vous |te |t')?(?:rappellera|recontactera|contactera|repondra|appellera|ecrira|reviendra vers|"
    r"prendra (?:contact|le relais|en charge)|reprendra contact|rejoindra)(?:ont)?\b",
    r"\b<person>(?: \w+ment)? (?:vous |te |t')?(?:rappelleront|recontacteront|contacteront|repondront|appelleront|reviendront vers|"
    r"prendront (?:contact|le relais))\b",
    r"\b<person> (?:est|sont|a ete|ont ete|vient d'etre) (?:deja |bien )?(?:prevenu|informe|averti|alerte)e?s?\b",
    r"\b(?:je|j'ai|j'|nous)(?: ?(?:vais|viens de|avons|allons|ai|l'ai|tout de suite|deja))* ?(?:(?:le |la |l'|vous |les |votre |cela ))?"
    r"(?:transmets|transmis|transmettre|transmettons|transfere|transferer|passe|passer|previens|prevenu|prevenir|informe|informer|demande|demander|"
    r"avertis|averti|avertir|fais suivre|fait suivre|mets|mettre|appelle|contacte) (?:\S+ ){0,6}?<person>\b",
    r"\b(?:nous|on) (?:(?:vous|te|allons|va) )*(?:rappellerons|rappelons|recontacterons|recontactons|contacterons|reviendrons vers|"
    r"revenons vers|recontacter|rappeler|contacter|revient vers|rappelle|recontacte)\b",
    r"\b(?!(?:livreur|coursier|transporteur|ne)\b)\w+ (?:vous|te) (?:rappellera|recontactera|contactera|reviendra vers|repondra ici)\b",
    r"\b(?:a|ont) ete (?:transmis|envoye|transfere)e?s? (?:a |aux? )?<person>\b",
    r"\b(?:vous (?:serez|allez etre)|tu (?:seras|vas etre)) (?:bientot |vite |tres vite )?(?:rappele|contacte|recontacte|transfere|"
    r"mise? en relation)",
    person=r"(?:(?:un|une|l'un|l'une|notre|nos|mon|ma|mes|le|la|les|l'|au|aux|a|d'un)(?: de (?:nos|mes))? ?)?(?:autre )?(?:collegues?|"
    r"conseill(?:er|ere|ers)|responsables?|collaborat(?:eur|rice)s?|membre de (?:l'|notre |mon )equipe|equipe|humain|agent|"
    r"(?:vraie )?personne(?: de (?:l'|notre )equipe)?|quelqu'un(?: de (?:l'|notre |chez )?\w+)?|service client|gerante?|patronne?)",
    do=r"(?:vous |te |t')?(?:rappeler|recontacter|contacter|appeler|repondre|ecrire|revenir vers|prendre (?:contact|le relais|en "
    r"charge)|reprendre contact|rejoindre|s'en occuper|s'occuper)",
    offers=r"\b(?:si vous (?:le |nous )?(?:souhaitez|voulez|preferez|desirez|appelez|venez|passez|commandez)|si tu (?:veux|preferes)|"
    r"souhaitez-vous|voulez-vous|puis-je|dois-je|quand vous)\b",
)
_SPANISH = _language(
    "companer coleg agente asesor persona humano responsable encargad equipo alguien miembro representante gerente duen llam contact respond escribiremos contestaremos atendid transferid",
    r"(?<!\bningun )\b<person>(?: ya| pronto)? (?:(?:le|te|lo|la|os|les|se) )*(?:llamara|contactara|respondera|escribira|contestara|atendera|"
    r"comunicara|encargara|pondra en contacto|devolvera la llamada)n?\b",
    r"\b<person>(?: ya| pronto)? (?:(?:le|te|lo|la|se) )?van? a (?:llamar|contactar|responder|escribir|contestar|atender|comunicar|"
    r"poner)(?:le|te|lo|la|se)?\b",
    r"(?<!\bnadie )(?<!\bno )\b(?:(?:le|te|lo|la|se) )+(?:llamara|contactara|respondera|escribira|contestara|atendera|pondra en contacto)n? (?:\S+ ){0,3}?"
    r"<person>\b",
    r"\b<person> (?:ya )?(?:esta|estan|ha sido|han sido|fue) (?:ya )?(?:avisad|informad|notificad)[oa]s?\b",
    r"\b(?:paso|pasare|transfiero|transferire|comunico|comunicare|aviso|avisare|avise|he avisado|informo|informare|he informado|"
    r"voy a (?:pasar|transferir|avisar|informar|comunicar|llamar)\w*|pondre en contacto|derivo|derivare|he pasado|pedire|he pedido) "
    r"(?:\S+ ){0,5}?(?:a|con|al) <person>\b",
    r"\b(?:llamaremos|contactaremos|responderemos|escribiremos|contestaremos|pondremos en contacto|devolveremos la llamada)\b",
    r"(?<!\bningun )\b(?!(?:repartidor|mensajero|transportista|que|nadie|no)\b)\w+ (?:le|te|lo|la) (?:llamara|contactara|respondera)\b",
    r"\bha sido (?:enviad|transmitid|pasad|transferid|derivad)[oa] al? <person>\b",
    r"\b(?:sera (?:contactad|llamad|atendid|transferid)[oa]|recibira una (?:llamada|respuesta) de)\b",
    person=r"(?:(?:uno|una|un|nuestr[oa]s?|mis?|el|la|los|las|algun|alguna)(?: de (?:nuestr[oa]s|mis|los|las))? )?(?:companer[oa]s?|"
    r"coleg[ao]s?|agente|asesora?|persona(?: de nuestro equipo)?|humano|responsable|encargad[oa]|equipo(?: de \w+)?|alguien"
    r"(?: (?:de|del) (?:nuestro )?\w+)?|miembro (?:del|de nuestro) equipo|representante|gerente|duen[oa])",
    offers=r"\b(?:si (?:lo |nos )?(?:desea|quiere|quieres|prefiere|prefieres|gusta|deseas|llama|viene|pasa|visita)|quiere que|desea que|"
    r"le gustaria|cuando (?:venga|llame))\b",
)
_PORTUGUESE = _language(
    "coleg atendente pessoa humano responsavel gerente equip alguem membro funcionari consultor especialista representante time don ligar ligaremos contat retornar responderemos atendid transferid",
    r"\b<person>(?: ja| logo)? (?:vai|vao|ira|irao) (?:(?:te|lhe|o|a) )?(?:ligar|contatar|contactar|responder|entrar em contato|escrever|"
    r"retornar|falar|atender|chamar|assumir)\b",
    r"\b<person>(?: ja| logo)? (?:(?:te|lhe|o|a) )?(?:ligara|contatara|respondera|entrara em contato|retornara|escrevera|atendera|"
    r"assumira|falara)\b",
    r"\b<person> (?:ja )?(?:foi|foram|esta|estao) (?:ja )?(?:avisad|informad|notificad)[oa]s?\b",
    r"\b(?:(?:vou|ja|estou|irei|acabei de) )+(?:(?:te|lhe|o|a) )?(?:passar|passei|passando|transferir|transferi|transferindo|avisar|avisei|"
    r"avisando|encaminhar|encaminhei|encaminhando|informar|informei|chamar|chamei|chamando|pedir|pedi|conectar|acionar) "
    r"(?:\S+ ){0,5}?<person>\b",
    r"\b(?:(?:vamos|iremos) (?:(?:te|lhe) )?(?:ligar|entrar em contato|contatar|retornar)|ligaremos|entraremos em contato|retornaremos|"
    r"responderemos|contataremos)\b",
    r"\b(?!(?:entregador|motoboy|que|ninguem|nao)\b)\w+ vai (?:(?:te|lhe) (?:ligar|responder|chamar|contatar)|(?:ligar|retornar) para voce)\b",
    r"\bfoi (?:encaminhad|enviad|passad|transferid)[oa] (?:a|para|pra)? ?<person>\b",
    r"\b(?:sera (?:contatad|atendid|transferid)[oa]|recebera uma (?:ligacao|resposta) d)",
    person=r"(?:(?:um|uma|o|a|os|as|ao|noss[oa]s?|meus?|minhas?|algum|alguma)(?: (?:dos|das|de) (?:noss[oa]s|meus|minhas))? )?(?:noss[oa]s? )?"
    r"(?:coleg[ao]s?|atendente|pessoa(?: da (?:nossa )?equipe)?|humano|responsavel|gerente|equipe|equipa|alguem(?: d[aoe] (?:nossa )?\w+)?|"
    r"membro da (?:nossa )?equipe|funcionari[oa]|consultora?|especialista|representante|time|don[oa])",
    offers=r"\b(?:se (?:voce )?(?:quiser|desejar|preferir|ligar|vier|passar|visitar)|gostaria (?:que|de)|quer que|deseja que|"
    r"quando (?:voce )?(?:vier|ligar))\b",
)
_ARABIC = _language(
    "زملا زميل موظف فريق شخص مسوول مدير خدمه ممثل مختص سنتصل سنتواصل سنعاود نتصل نتواصل سنرد سيتم",
    r"(?:سوف [يت]|س[يت])(?:تصل|تواصل|رد|كلم|جيب|عاود|راسل|تولي|نضم|كتب)\w* (?:\S+ ){0,4}?<person>",
    r"<person>(?: \S+){0,3}? (?:سوف [يت]|س[يت])(?:تصل|تواصل|رد|كلم|جيب|عاود|راسل|تولي|نضم|كتب)",
    r"تم (?:ابلاغ|اخبار|اعلام|تنبيه) (?:\S+ )?<person>",
    r"(?:ابلغت|اخبرت|اعلمت) (?:\S+ )?<person>",
    r"(?:ساحول|سوف احول|احول|ساوصل|سابلغ|ساخبر|ساعلم|ساطلب من|ساقوم ب)\w* (?:\S+ ){0,5}?<person>",
    r"(?:سنتصل|سنتواصل|سنعاود|سوف نتصل|سوف نتواصل|سنرد عليك)",
    r"سيقوم (?:\S+ )?<person> ب(?:الرد|الاتصال|التواصل|مساعد)",
    r"تم (?:تحويل|ارسال|احاله) (?:\S+ ){1,2}?(?:الي )?<person>",
    r"سيتم (?:التواصل معك|الاتصال بك|تحويلك)",
    person=r"(?:احد |اي )?(?:ل?ال|لل|ل)?(?:زملا\w*|زميل\w*|موظف\w*|فريق\w*|شخص(?: من \w+)?|مسوول|مدير|خدمه العملاء|ممثل|مختص)",
    offers=r"(?:اذا (?:اردت|رغبت|احببت|كنت تريد|كنت ترغب|اتصلت|زرت)|ان اردت|هل (?:تريد|ترغب|تود))",
)
_LANGUAGES = (_ENGLISH, _FRENCH, _SPANISH, _PORTUGUESE, _ARABIC)


def promises_person(text: str) -> bool:
    """Is there a sentence in it that says that a person will see to the customer?"""
    told = text[:MAX_CHARACTERS]
    folded = fold(told)
    languages = [language for language in _LANGUAGES if any(stem in folded for stem in language.stems)]
    return bool(languages) and any(
        language.promises.search(sentence) and not language.offers.search(sentence)
        for sentence in _statements(told)
        for language in languages
    )


def _statements(text: str) -> list[str]:
    """The sentences that are no questions."""
    found = (match[0].rstrip() for match in _SENTENCE.finditer(text))
    return [fold(sentence.translate(_EMPHASIS)) for sentence in found if not sentence.endswith(("?", "؟"))]
