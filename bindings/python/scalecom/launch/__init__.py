"""How the processes of a job are started: what scalecomrun is made of."""
