"""Served by scalecom."""


def vars_to_refs(variables):
    """What can be a key in the place of variables: a tuple for a list of them."""
    if isinstance(variables, (list, tuple)):
        return tuple(vars_to_refs(one) for one in variables)
    return variables.ref()


def refs_to_vars(references):
    """The variables again."""
    if isinstance(references, (list, tuple)):
        return [refs_to_vars(one) for one in references]
    return references.deref()
