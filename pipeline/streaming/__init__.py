"""The streaming driver: each stage turns the messages of one topic partition into messages of the next topic.

    usage.raw -> mediate -> journal -> rate -> usage.rated -> land -> history

Each stage can read the same message again: it either produces the same bytes or skips the message. Only `kafka` uses
the Kafka client, and only `worker` uses Faust.
"""
