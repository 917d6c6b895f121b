"""Streaming without a broker: what each stage makes of its messages, as plain synchronous code.

    usage.raw -> mediation -> journal -> fold -> outputs -> landing

Nothing here knows Kafka or Faust but `kafka`: a driver hands messages in with their offsets and sends what comes out,
and whatever is handed in again gives the same or is skipped.
"""
