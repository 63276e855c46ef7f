"""Which generateContent requests the stand-in turns down."""

from __future__ import annotations

from typing import Any

import pytest

from app.sandbox.gemini import Invalid, Question, read_question

USER = {"role": "user", "parts": [{"text": "Hi"}]}
MODEL = {"role": "model", "parts": [{"text": "Hello"}]}


def request(**config: Any) -> dict[str, Any]:
    return {"contents": [USER], "generationConfig": config}


def test_a_request_is_read() -> None:
    payload = {
        "systemInstruction": {"parts": [{"text": "You are"}, {"text": "a bot"}]},
        "contents": [USER, MODEL, {"parts": [{"text": "Bread?"}]}],
        "generationConfig": {"maxOutputTokens": 1024, "thinkingConfig": {"thinkingLevel": "MINIMAL"}},
    }
    turns = (("user", "Hi"), ("model", "Hello"), ("user", "Bread?"))
    assert read_question(payload) == Question("You are\na bot", turns, 1024, thought_tokens=0)


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        ([], "Invalid JSON payload"),
        ({}, "contents is not specified"),
        ({"contents": []}, "contents is not specified"),
        ({"contents": [USER], "content": 1}, 'Unknown name "content"'),
        ({"contents": [MODEL, USER]}, "start with a user turn"),
        ({"contents": [USER, MODEL]}, "end with a user turn"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "valid role"),
        ({"contents": [{"role": "user", "parts": []}]}, "parts must not be empty"),
        ({"contents": [{"role": "user", "parts": [{"text": ""}]}]}, "initialized field"),
        ({"contents": [{"role": "user", "parts": [{"inlineData": {}}]}]}, "initialized field"),
        (request(thinkingConfig={"thinkingLevel": "LOW", "thinkingBudget": 0}), "only one of"),
        (request(thinkingConfig={"thinkingLevel": "MAXIMAL"}), "thinking_level"),
        (request(presencePenalty=0.5), "presencePenalty is not supported"),
        (request(frequencyPenalty=0.5), "frequencyPenalty is not supported"),
        (request(maxOutputTokens=0), "maxOutputTokens"),
        ({"contents": [USER], "tools": {}}, "tools must be a list"),
        ({"contents": [USER], "tools": [{"googleSearch": {}}]}, "no other tools"),
        ({"contents": [USER], "tools": [{"functionDeclarations": [{"name": "1st"}]}]}, "function name"),
        ({"contents": [USER], "tools": [{"functionDeclarations": [{"name": "f"}]}]}, "no description"),
        (
            {
                "contents": [USER],
                "tools": [{"functionDeclarations": [{"name": "f", "description": "d", "parameters": {"type": "x"}}]}],
            },
            "type OBJECT",
        ),
        (request(maxOutputTokens="many"), "maxOutputTokens"),
    ],
)
def test_what_is_wrong_is_named(payload: Any, complaint: str) -> None:
    with pytest.raises(Invalid, match=complaint):
        read_question(payload)


def test_sampling_parameters_are_tolerated() -> None:
    assert read_question(request(temperature=0.5, topP=0.9, topK=40))
