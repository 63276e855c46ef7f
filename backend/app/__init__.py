"""Chorus: a WhatsApp AI-bot backend whose replicas act as one."""

__version__ = "0.1.0"
