"""Metering by message: events that other services send, over HTTP (`api`) or a stream, recorded once each."""
