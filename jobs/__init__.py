"""The command line and the batch jobs."""
