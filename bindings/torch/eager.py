"""What torch.compile leaves as it is: Dynamo traces the Python that a compiled function calls, and knows nothing of
the library below."""

from torch._C._dynamo import eval_frame


def eager(function):
    """Makes Dynamo call the function, and neither trace it nor what it calls, as torch.compiler.disable would,
    which imports Dynamo at the first call: a second. With torch below 2.7 nothing is changed. Returns it."""
    if hasattr(eval_frame, "set_code_exec_strategy"):
        skip = eval_frame._FrameAction.SKIP
        eval_frame.set_code_exec_strategy(function.__code__, eval_frame._FrameExecStrategy(skip, skip))
        function._torchdynamo_disable = True
    return function
