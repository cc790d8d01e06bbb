"""Metering without code: a proxy asks before each request (`api`), and tells afterwards how it was answered (`outcomes`)."""
