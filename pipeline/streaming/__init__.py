"""Streaming without Faust: what each stage makes of its messages, as plain synchronous code.

    usage.raw -> mediation -> journal -> fold -> outputs -> landing

Whoever drives it hands messages in with their offsets and sends what comes out, and whatever is handed in again gives
the same or is skipped. `stages` does so in a worker, `kafka` alone knows Kafka's client, and nothing here knows Faust.
"""
