"""What replicas agree on through Redis, beside cache, circuits and queue. Each works through a `Door`, on the server's
clock, and raises `Unavailable` while Redis is away.

    registry   which replicas live                  probe_board  one of them looks, all of them know
    lease      one of them does it                  pacing       an upstream's rate limits, kept by all together
    allowance  so many times an hour                minutes      counts by the minute
"""
