"""What a session chooses by, and where it has it from."""

import scalecom.torch as hvd


def show():
    hvd.init()
    session = hvd.info()["session"]
    return session["tuning_source"], session["tuning"]
