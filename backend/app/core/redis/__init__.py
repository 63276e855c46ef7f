"""Redis, as the rest of the product knows it.

    door = Door.to("redis://127.0.0.1:6379/0", timings=DoorTimings(answer_seconds=1.0))
    await door.ask("SET", "name", "value")              # the answer within a second, or `Unavailable`
    await door.run(Script("pace"), [key], [arg])
    await door.aclose()

    door          every command and script; bounds, cancels and translates      url          REDIS_URL in all its forms
    subscription  one channel on a connection of its own                        trouble      what went wrong, in words
    listening     a channel that is opened anew whenever it is lost
    script        Lua scripts from core/lua/, run by their digest               client       redis-py's clients, built
                                                                                corrections  what redis-py gets wrong

Nothing is imported here: `app/settings.py` reads URLs without loading redis-py.
"""
