"""What it costs to train in many processes, and whether the losses are those of one.

    nox -s distributed               # measures and prints tables
    nox -s distributed -- write      # puts them into docs/distributed.md

``losses`` trains the language model of the examples in 1, 2 and 4 processes. ``cost``
counts and times a step beside DDP and FSDP2 by hand. ``word`` times what our layer adds
to a step, one all-reduce of 16 bytes, between more processes than anybody trains in
here. ``page`` makes tables of it, and of what follows for 8, 64 and 1,024 GPUs.
"""
