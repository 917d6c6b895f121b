"""The common parts of a worker's stages, independent of Faust.

A stage is one task for one partition: it takes each message as a `Delivery` and sends messages through a `Publish`
callable. pipeline/streaming/worker/agents.py connects stages to Faust's agents.

    usage.raw -> Mediate -> journal -> Rate -> usage.rated, actions, sim.status, usage.rejected
    commands  -> Accept  -> journal            usage.rated -> Land -> history

A stage acknowledges a message only once everything that follows from the message is durable. An error in a stage ends
the worker process. After a restart the stage continues from what is durable, as after kill -9.
"""
