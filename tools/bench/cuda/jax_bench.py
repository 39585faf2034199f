"""All-reduces of JAX's arrays inside of jit beside an identity, which waits for nobody, on every rank of a
job. A module for tools/test-gpu, which starts the ranks."""

import statistics
import time

import jax
import jax.numpy as jnp

import scalecom.jax as hvd
from scalecom.jax import primitives

SIZES = [4, 64 << 10, 1 << 20, 16 << 20, 64 << 20]
CALLS = 10  # Dispatched one behind the other, and then waited for.


def _summary(values):
    """The median and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high}


def _round(run, array):
    hvd.barrier()
    begin = time.perf_counter()
    results = array
    for _ in range(CALLS):
        results = run(results)
    dispatched = time.perf_counter()
    results.block_until_ready()
    return ((time.perf_counter() - begin) * 1e6 / CALLS, (dispatched - begin) * 1e6 / CALLS)


def measure(rounds, bytes_max):
    """Microseconds of a call by bytes and way: until the results are there, and until Python has control."""
    hvd.init()
    ways = {"all-reduce": jax.jit(lambda x: hvd.allreduce(x, name="bench")),
            "identity": jax.jit(lambda x: primitives.identity(hvd.global_process_set, [x])[0])}
    figures = {}
    for size in (size for size in SIZES if size <= bytes_max):
        array = jnp.ones(size // 4)
        for run in ways.values():
            _round(run, array)
        times = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                times[way].append(_round(run, array))
        figures[size] = {f"{way}{suffix}": _summary([one[place] for one in times[way]])
                         for way in ways for place, suffix in enumerate(("", ", dispatch"))}
    hvd.shutdown()
    return {"device": str(jax.devices()[0]), "call_us": figures}
