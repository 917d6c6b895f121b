"""Workers, brokers and sinks that are killed, stopped and filled up under load; python -m tests.faults.run."""
