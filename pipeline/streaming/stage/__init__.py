"""The stages of a worker, each a task for one partition, without Faust: what comes in is a Delivery, what goes out is
published through a callable. pipeline/streaming/worker/agents.py joins them to Faust's agents.

    usage.raw -> Mediate -> journal -> Rate -> usage.rated, actions, sim.status, usage.rejected -> Land
    commands  -> Accept  -> journal

A stage acknowledges a message only once everything that follows from it is durable. What goes wrong ends the worker:
started again it goes on from what is durable, as after kill -9.
"""
