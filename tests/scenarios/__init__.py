"""One set of scenarios for every driver: the fold in process, the embedded driver, workers on Kafka."""
