"""A real Kafka broker on this machine: one node, for tests and for trying Weir's streaming mode."""

from pipeline.broker.fetch import kafka_jars, lacking
from pipeline.broker.server import Broker, free_port

__all__ = ["Broker", "free_port", "kafka_jars", "lacking"]
