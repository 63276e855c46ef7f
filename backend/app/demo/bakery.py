# ruff: noqa: E501 - sentences, not code
"""The demo's business: a neighbourhood bakery with hours, offers, procedures and the odd special case."""

from __future__ import annotations

from typing import Any

BAKERY: dict[str, Any] = {
    "business_name": "Maison Levain",
    "description": (
        "A neighbourhood bakery in Lyon since 1987. Sourdough bread, viennoiserie and celebration cakes, all made on site."
    ),
    "address": "12 rue des Tables Claudiennes, 69001 Lyon; metro Croix-Paquet, two minutes on foot",
    "hours": "Tuesday to Saturday 7:00-19:30, Sunday 7:00-13:00, closed on Monday",
    "knowledge_base": (
        "The sourdough rests for 24 hours and is baked twice a day: it is warm at 7:30 and again at 16:30.\n"
        "We mill part of our flour from Drome wheat. All our bread is free of additives.\n"
        "Croissants are made with AOP butter from Charentes-Poitou."
    ),
    "custom_fields": {"parking": "Delivery bay in front, 15 minutes", "payment": ["cash", "card", "meal vouchers"]},
    "template_config": {
        "system_rules": ["Address customers politely.", "Use at most one emoji per message."],
        "company": {"owner": "Claire and Hugo Levain", "team": "nine bakers and pastry chefs"},
        "offers": [
            {"name": "Country sourdough, 1 kg", "price": "6.40 EUR"},
            {"name": "Butter croissant", "price": "1.40 EUR, six for 7.50 EUR"},
            {"name": "Strawberry cake, 8 people", "price": "38 EUR", "season": "April to September"},
            {"name": "Chocolate praline cake, 8 people", "price": "36 EUR", "season": "all year"},
        ],
        "conditions": [
            "Celebration cakes are ordered at least 48 hours ahead.",
            "A deposit of 30 % is paid when ordering a cake; it is returned if you cancel 24 hours before.",
        ],
        "procedures": {
            "ordering a cake": "Tell us the date, the number of people and the flavour; we confirm after the deposit.",
            "delivery": "We deliver within Lyon 1 and Lyon 4 from Tuesday to Saturday for 5 EUR; elsewhere please collect.",
        },
        "faq": [
            {
                "question": "Do you have gluten-free bread?",
                "answer": "No. We work with wheat everywhere, so we cannot rule out traces and sell nothing as gluten-free.",
            },
            {
                "question": "Do you have vegan pastries?",
                "answer": "Yes: the apple turnover and the seed roll are vegan every day.",
            },
            {
                "question": "Can I reserve bread?",
                "answer": "Yes, until 18:00 on the day before; we keep it until noon.",
            },
        ],
        "special_cases": [
            "Nut allergy: our praline, almond and hazelnut products share a workshop with everything else; say so clearly.",
            "24 and 31 December: open 7:00-16:00, orders only by 20 December.",
        ],
        "links": {"menu": "https://maison-levain.example/menu", "map": "https://maison-levain.example/find-us"},
        "escalation": "Complaints, invoices and orders over 200 EUR go to Claire: say that she calls back the same day.",
        "special_rules": ["Never confirm that a cake order is accepted; only the shop does that."],
    },
    "fallback_text": "Thank you for your message! Our team will answer you personally in a moment.",
    "interim_text": "Thank you! We are a little slower than usual; your answer follows here in a few minutes.",
    "non_text_reply": "Thank you! I cannot open this one. Could you please write it to me in a few words?",
}
