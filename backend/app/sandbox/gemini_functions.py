# ruff: noqa: E501, RUF001 - patterns and the letters of five languages, not code
"""When the stand-in asks for a function: one whose description says that it calls a person, if the customer asks for one.

It reads the description, not the name, and the customer's last words in English, French, Spanish, Portuguese and
Arabic. A person in another sense ("a cake for one person", "who is the agent for Paris?") is none. It knows no irony and
no context; what it is for is to tell whether the way from the words to the call is whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.domain.folding import fold
from app.sandbox.webhooks import JsonObject

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_CALLS_A_PERSON = re.compile(r"\bcalls?\b.*\b(?:person|human|colleague)\b", re.IGNORECASE | re.DOTALL)
_ASKED = re.compile(r"ask", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Declaration:
    name: str
    description: str
    properties: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Language:
    """How customers ask for a person, as patterns over folded text (lower case, no accents), and what they read then."""

    asks: re.Pattern[str]
    message: str


def _language(message: str, *ways: str, **parts: str) -> _Language:
    """`<name>` in a way stands for one of the parts."""
    for name, part in parts.items():
        ways = tuple(way.replace(f"<{name}>", f"(?:{part})") for way in ways)
    return _Language(re.compile("|".join(f"(?:{way})" for way in ways)), message)


_ENGLISH = _language(
    "Of course. A colleague has been told and will answer you here.",
    r"\b(?:talk|speak|chat|connect(?: me)?|transfer(?: me)?|pass me(?: on)?|put me(?: through)?|hand me over|switch(?: me)?|"
    r"escalate(?: this)?)(?: directly)? (?:over )?(?:to|with) <a><someone>\b",
    r"\b(?:need|want|prefer|like|get me|get|give me|reach|contact|ask for|looking for|fetch|bring me) <a><human>\b(?!-| for)",
    r"\b(?:get|bring|fetch|call)(?: me)? <a>(?:manager|supervisor|boss|owner)\b",
    r"\b(?:can|could|have|get|let|make|would|will|please have) <a>(?:someone|somebody|anyone|<human>|manager|owner|person|staff)"
    r"(?: please)? (?:call|phone|ring|contact|answer|reply to|write to|get back to|take over)(?: me| this|$)",
    r"\b(?:someone|somebody|anyone|person|<human>) (?:(?:that |who )?i can|to) (?:talk|speak|chat)\b",
    r"\b(?:is|are) (?:there <a><human>|(?:there )?(?:anyone|anybody|someone|somebody) real)\b",
    r"\b(?:not|no|don't|stop|instead of)(?: (?:want|talk|talking|speak|speaking|to|with))* (?:a |the |this |another |more )?"
    r"(?:ro)?bots?\b",
    r"^(?:hi |hello |please )?<a>(?:<human>|person|manager|supervisor|customer service)(?: please| now| pls)*$",
    r"\bcall me(?: back)?(?: please| now| today)?$",
    a=r"(?:(?:a|an|the|some|any|your|one of your|with|real|actual|live|human) )*",
    human=r"(?:human|human being|human agent|(?:real|actual|live|human) (?:person|people|agent|someone|human)|"
    r"someone (?:real|human)|agent|representative|rep|operator|staff member|member of staff|customer (?:service|support|care))",
    someone=r"(?:human|person|people|agent|representative|rep|operator|manager|supervisor|colleagues?|employee|staff|"
    r"someone|somebody|anyone|owner|boss|team|support|customer (?:service|support|care)|member of (?:the |your )?(?:staff|team))",
)
_FRENCH = _language(
    "Bien sûr. Un collègue est prévenu et vous répondra ici.",
    r"\b(?:parler|discuter|echanger|communiquer)(?: directement)? (?:a|avec|au|aux) <a><someone>\b",
    r"\b(?:veux|voudrais|souhaite|aimerais|prefere|besoin d'|besoin de|passez-moi|passe-moi|passez moi|donnez-moi|avoir|voir|"
    r"joindre|contacter|appelez-moi|appelez|demande) ?<a><human>\b",
    r"\b(?:transfere[rz]?|mett(?:ez|re)|passe[rz]?)(?:[- ]moi)?(?: en (?:relation|contact))? (?:avec|a|au|vers) "
    r"<a><someone>\b",
    r"\b(?:quelqu'un|une (?:vraie )?personne|un humain|un conseiller|un responsable|un collegue)(?: de chez vous)? "
    r"(?:peut|pourrait|pour|puisse)(?:[- ]il| elle)? ?(?:me |m')?(?:rappeler|appeler|repondre|contacter|parler)",
    r"\b(?:y a-t-il|y a t il|il y a) <a><human>",
    r"\bpas (?:a |avec |parler a |parler avec )?(?:un |au |le |ce |d'un |de )?(?:robot|bot|machine)\b",
    r"^(?:bonjour |svp )?<a><human>(?: svp| s'il vous plait| merci)*$",
    r"\b(?:(?:rappelez|appelez)[- ]moi|(?:souhaite|voudrais|veux|aimerais) etre rappelee?)\b",
    r"\b(?:me|nous) passer <a><someone>\b",
    r"^(?:il )?y a(?:-t-il)? quelqu'un$",
    a=r"(?:(?:un|une|l'|le|la|les|votre|vos|un de vos|l'un de vos|vrai|vraie|autre|d'|de|des) ?)*",
    human=r"(?:humain|humaine|etre humain|vraie? personne|personne (?:reelle|humaine|physique)|conseill(?:er|ere)|operateur|"
    r"operatrice|service client|interlocuteur)",
    someone=r"(?:humain|humaine|etre humain|personne|conseill(?:er|ere)|agent|operateur|operatrice|responsable|employee?|"
    r"collegues?|vendeur|vendeuse|quelqu'un|service client|membre de l'equipe|equipe|patron|patronne|gerante?|direction)",
)
_SPANISH = _language(
    "Claro. Un compañero está avisado y le responderá aquí.",
    r"\b(?:hablar|chatear|conversar|comunicar(?:me)?|contactar|hablo|comunic(?:a|o|que)(?:me)?)(?: directamente)? con <a>"
    r"<someone>\b",
    r"\b(?:quiero|quisiera|necesito|prefiero|deme|dame|busco|llame(?:n)? a|ponme|pongame|hay|atencion de)(?: con)? <a>"
    r"<human>\b",
    r"\b(?:pas(?:a|e|en)me|pasar(?:me)?|transfier(?:a|e)(?:me)?|transferir(?:me)?|ponme|pongame)(?: con| a) <a><someone>\b",
    r"\b(?:alguien|una persona|un humano|un encargado)(?: real| humana| de ustedes)? (?:que )?(?:me )?(?:pued[ea] |podria )?"
    r"(?:me )?(?:atender|atienda|llamar|llame|contestar|conteste|responder|responda)(?:me)?\b",
    r"\bque me (?:atienda|llame|conteste|responda) <a><someone>\b",
    r"^(?:hola )?hay alguien(?: ahi)?$",
    r"\bme (?:puede|podria) (?:atender|llamar|contestar|responder) (?:alguien|<a><human>|una persona)",
    r"\bno (?:quiero |hablar |con )*(?:un |el |este |mas )?(?:robot|bot|maquina)\b",
    r"^(?:hola )?<a><human>(?: por favor| ya| porfa)*$",
    r"\b(?:me pueden llamar|llamenme|llameme)\b",
    a=r"(?:(?:un|una|el|la|los|algun|alguna|su|sus|otro|otra|verdader[oa]|alguno de sus) )*",
    human=r"(?:ser humano|human[oa]|persona (?:real|humana|de verdad)|agente(?: humano)?|asesora?|operadora?|representante|"
    r"atencion al cliente|alguien (?:real|de verdad))",
    someone=r"(?:ser humano|human[oa]|persona|agente|asesora?|operadora?|encargad[oa]|responsable|emplead[oa]|alguien|"
    r"representante|atencion al cliente|companer[oa]|duen[oa]|gerente|supervisora?)",
)
_PORTUGUESE = _language(
    "Claro. Um colega já foi avisado e vai responder aqui.",
    r"\b(?:falar|conversar|falo|contato)(?: diretamente)? com <a><someone>\b",
    r"\b(?:quero|queria|preciso(?: de)?|gostaria de(?: ter)?|prefiro|chama(?:r|e)?|cad[ea]|tem|atendimento por) <a><human>\b",
    r"\b(?:pass(?:a|e|ar)|transfer(?:e|ir)|transfira|encaminh(?:a|e|ar))(?:[- ]me)?(?: esta conversa)? (?:para|pra|pro|a|ao|"
    r"com) <a><someone>\b",
    r"\b(?:alguem|uma pessoa|um humano|um atendente)(?: real| de voces)? (?:pode|poderia|que possa|para|pra) (?:me )?"
    r"(?:ligar|atender|responder|contatar|falar)",
    r"\bcham(?:a|ar|e) <a><someone>\b",
    r"^(?:ola |oi )?tem alguem(?: ai)?$",
    r"\bnao (?:quero |falar |com )*(?:um |o |este |mais )?(?:robo|bot|maquina)\b",
    r"^(?:oi |ola )?<a><human>(?: por favor| ja| pfv)*$",
    r"\b(?:me liga|me ligue|me liguem|liguem para mim)\b",
    a=r"(?:(?:um|uma|o|a|os|algum|alguma|seu|sua|outro|outra|de|verdadeir[oa]) )*",
    human=r"(?:ser humano|human[oa]|pessoa (?:real|humana|de verdade)|atendente(?: humano)?|operadora?|representante|"
    r"atendimento humano|alguem (?:real|de verdade))",
    someone=r"(?:ser humano|human[oa]|pessoa|atendente|operadora?|responsavel|funcionari[oa]|gerente|alguem|representante|"
    r"suporte|atendimento|don[oa]|colega|supervisora?|equipe)",
)
_ARABIC = _language(
    "بالتأكيد. تم إبلاغ أحد الزملاء وسيرد عليك هنا.",
    r"(?:اتكلم|التكلم|نتكلم|اتحدث|التحدث|احكي|تكلم|الحديث|الكلام|اتواصل|التواصل|الدردشه)(?: مباشره)? (?:مع|الي) <someone>",
    r"(?:اكلم|كلم|تكليم|مكالمه|مخاطبه) <someone>",
    r"(?:حولني|حولوني|تحويلي|وصلني|وصلوني|اوصلني)(?: لو سمحت| من فضلك)? (?:الي|ل|مع|ب|علي) ?<someone>",
    r"(?:اريد|اود|ابغي|ابي|عايز|عاوز|بدي|احتاج|محتاج|اطلب|اعطني|هل يوجد|هل هناك|فيه?|وين|اين) (?:الي )?<human>",
    r"(?:احد|شخص|موظف|حدا?)(?: منكم| من الموظفين)? (?:يمكنه |ممكن |ان |يقدر )?(?:يتصل|يكلمني|يرد علي|يتواصل معي|الاتصال بي)",
    r"(?:اتصلوا بي|اتصل بي|كلموني|خلي حد يكلمني)",
    r"(?:لا اريد|مش عايز|ما بدي|ما ابي|لست|ليس)(?: التحدث| اتكلم| الكلام)?(?: مع| الي)? (?:ال)?(?:روبوت|بوت|اله)",
    r"^(?:مرحبا )?<human>(?: من فضلك| لو سمحت)*$",
    someone=r"(?:ال|لل|احد ال|اي )?(?:شخص|انسان|بشر|بشري|موظف|موظفه|موظفين|احد|حد|مسوول|مدير|خدمه العملاء|عملاء|ممثل|وكيل|صاحب المحل|"
    r"فريق)\b",
    human=r"(?:ال)?(?:شخص حقيقي|شخصا حقيقيا|انسان|انسانا|موظف خدمه العملاء|موظف|موظفا|موظف بشري|خدمه العملاء|ممثل خدمه|مسوول بشري|بشري)(?! \w*ه\b)\b",
)
LANGUAGES = (_ENGLISH, _FRENCH, _SPANISH, _PORTUGUESE, _ARABIC)

_SIGNS = re.compile(r"[^\w' -]+|(?<=\s)-|-(?=\s)")


def read_declarations(tools: object) -> tuple[Declaration, ...]:
    """Of a request's `tools`. Raises `ValueError` with what the API would complain of."""
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise ValueError("tools must be a list.")
    return tuple(_declaration(found) for tool in tools for found in _functions_of(tool))


def _functions_of(tool: object) -> Sequence[object]:
    functions = tool.get("functionDeclarations") if isinstance(tool, Mapping) else None
    if not isinstance(functions, list):
        raise ValueError("tools[].functionDeclarations must be a list: the sandbox has no other tools.")
    return functions


def _declaration(found: object) -> Declaration:
    declared = found if isinstance(found, Mapping) else {}
    name, description, parameters = (declared.get(key) for key in ("name", "description", "parameters"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("Invalid function name. Must start with a letter or an underscore.")
    if not isinstance(description, str) or not description:
        raise ValueError(f"Function {name} has no description.")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else {}
    if not isinstance(properties, Mapping) or (parameters and str(parameters.get("type")).lower() != "object"):
        raise ValueError(f"parameters of function {name} must be a schema of type OBJECT with properties.")
    return Declaration(name, description, properties)


def declared_in(schema: object) -> tuple[Declaration, ...]:
    """The objects with a description among the properties of a schema for the whole answer: a function as JSON."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    described = {
        name: found
        for name, found in (properties.items() if isinstance(properties, Mapping) else ())
        if isinstance(found, Mapping) and found.get("type") == "object" and found.get("description")
    }
    return tuple(_declaration({"name": name, "parameters": found, **found}) for name, found in described.items())


def call_of(declarations: Sequence[Declaration], asked: str) -> JsonObject | None:
    """`functionCall` if one of the functions calls a person, and the customer's words `asked` ask for one."""
    function = next((one for one in declarations if _CALLS_A_PERSON.search(one.description)), None)
    language = _asked_for_a_person(asked) if function else None
    if function is None or language is None:
        return None
    arguments = {name: _argument(schema, language) for name, schema in function.properties.items()}
    return {"name": function.name, "args": arguments}


def _argument(schema: object, language: _Language) -> object:
    choices = schema.get("enum") if isinstance(schema, Mapping) else None
    if isinstance(choices, list) and choices:
        return next((choice for choice in choices if _ASKED.search(str(choice))), choices[0])
    return language.message


def _asked_for_a_person(asked: str) -> _Language | None:
    lines = [" ".join(_SIGNS.sub(" ", fold(sentence)).split()) for sentence in re.split(r"[\n.!?؟;]+", asked)]
    return next((language for line in lines for language in LANGUAGES if language.asks.search(line)), None)
