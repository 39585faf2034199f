"""What Horovod has and this version of scalecom lacks."""


def missing(name, remedy):
    """A class in the place of Horovod's function or class `name`: scripts may import it and pass it
    to isinstance; a call raises NotImplementedError, which says what is missing and the remedy."""

    def refuse(*arguments, **named):
        raise NotImplementedError(f"{name} is not in this version of scalecom; {remedy}")

    return type(name.rpartition(".")[2], (), {"__new__": refuse, "__doc__": f"Missing: {remedy}."})
