"""How programs with collectives are handed to XLA.

The calls of a program are a chain of tokens (scalecom.jax.primitives), and JAX makes the chain's ends an argument
and a result of it. Such a program it calls from Python each time, which takes 0.3 ms and more. Where a process has
one device alone, its CPU, XLA runs the programs of a thread one by one anyway, in the order of the calls, each when
the one before has ended, well or badly. There the chain begins and ends within the program: to JAX it is one without
effects, which its C++ calls. Elsewhere, in programs with other effects besides and in exported ones, it goes
through as JAX has it.
"""

import atexit
import inspect
import os

import jax
import jax.extend.backend
from jax._src.interpreters import pxla
from jax.extend import core
from jax.interpreters import mlir
from jax.interpreters import partial_eval as pe

_has_made_any = False
_process = os.getpid()


def are_chains_inside():
    """Whether a process's one device, its CPU, runs programs in the order of their calls anyway."""
    backends = jax.extend.backend.backends()
    return list(backends) == ["cpu"] and backends["cpu"].device_count() == 1


def _as_one_call(primitive, program):
    """A program without effects: a call of `program`."""
    arguments = [core.Var(aval) for aval in program.in_avals]
    results = [core.Var(aval) for aval in program.out_avals]
    call = core.new_jaxpr_eqn(arguments, results, primitive, {"call_jaxpr": program}, core.no_effects)
    return core.ClosedJaxpr(core.Jaxpr((), arguments, results, [call], core.no_effects, program.debug_info), ())


def _make_primitive(effect):
    """What calls a program with a chain of its own."""
    primitive = core.Primitive("scalecom_program")
    primitive.multiple_results = True
    primitive.def_abstract_eval(lambda *_, call_jaxpr: call_jaxpr.out_avals)

    def lower(context, *operands, call_jaxpr):
        inside = context.replace(tokens_in=mlir.TokenSet.create([effect]))
        return mlir.core_call_lowering(inside, *operands, name="scalecom_program", call_jaxpr=call_jaxpr)

    def leave_out_unused(used_results, call):
        used_arguments, call = pe.dce_jaxpr_closed_call_rule(used_results, call)
        return used_arguments, call.replace(effects=core.no_effects)

    mlir.register_lowering(primitive, lower, platform="cpu")
    pe.dce_rules[primitive] = leave_out_unused
    return primitive


def keep_chains_inside(effect):
    """From here on the chains of this ordered effect stay inside their programs, where that is right. JAX has no
    place for it: its function that lowers a program is replaced. A JAX without what that takes keeps its way."""
    lower_as_jax = getattr(pxla, "lower_sharding_computation", None)
    if lower_as_jax is None or not hasattr(core, "new_jaxpr_eqn") or not {
            "lowering_platforms", "lowering_parameters"} <= set(inspect.signature(lower_as_jax).parameters):
        return
    primitive = _make_primitive(effect)

    def lower(program, *arguments, lowering_platforms, lowering_parameters, **named):
        if (set(program.effects) == {effect} and program.out_avals and lowering_platforms is None
                and not lowering_parameters.for_export and are_chains_inside()):
            global _has_made_any
            _has_made_any = True
            program = _as_one_call(primitive, program)
        return lower_as_jax(program, *arguments, lowering_platforms=lowering_platforms,
                            lowering_parameters=lowering_parameters, **named)

    pxla.lower_sharding_computation = lower
    atexit.register(_end)


@jax.jit
def _nothing(number):
    return number + 1


def wait_for_dispatched():
    """Waits for the programs that this thread has dispatched whose chains are inside: this one is behind them."""
    if _has_made_any and os.getpid() == _process:  # A forked one has none of XLA's threads.
        with jax.ensure_compile_time_eval():
            _nothing(0).block_until_ready()


def _end():
    """At the process's exit, before JAX takes its device away."""
    wait_for_dispatched()
    global _has_made_any
    _has_made_any = False
