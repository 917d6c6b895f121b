"""The worker process: Faust, HTTP, metrics and logs."""
