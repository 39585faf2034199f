"""What is compressed, how, and why: a table of the parameters."""

import weakref

from scalecom import _library
from scalecom.compression import ScaleComCompressor, check_compression, gradient_options
from scalecom.process_sets import used
from scalecom.torch.parameters import checked_pairs
from scalecom.torch.submit import DEVICE_KINDS, DTYPES, device_kind

# What reduces gradients in this process.
_reducers = weakref.WeakKeyDictionary()


def watch(reducer, describe):
    """compression_plan() covers it as long as it lives. describe(reducer) has named_parameters(),
    compression and process_set."""
    _reducers[reducer] = describe


def forget(reducer):
    """compression_plan() covers it no more."""
    _reducers.pop(reducer, None)


class CompressionPlan(list):
    """Rows of compression_plan(); print() shows a table."""

    _COLUMNS = (("parameter", "name", "<", "{}"), ("elements", "elements", ">", "{:,}"),
                ("FLOPs", "flops", ">", "{:,.0f}"),
                ("mode", "mode", "<", "{}"), ("rate", "rate", ">", "{}"),
                ("dense us", "dense_us", ">", "{:.1f}"), ("sparse us", "sparse_us", ">", "{:.1f}"),
                ("dense bytes", "dense_bytes", ">", "{:,}"), ("bytes sent", "bytes_sent", ">", "{:,}"),
                ("why", "reason", "<", "{}"))

    def __str__(self):
        total = {"name": f"all {len(self)}", "mode": "", "rate": "", "reason": "", "flops": None}
        columns = [column for column in self._COLUMNS if column[1] != "flops" or any("flops" in row for row in self)]
        for key in ("elements", "dense_us", "sparse_us", "dense_bytes", "bytes_sent"):
            total[key] = sum(row[key] or 0 for row in self)
        lines = [[title for title, _, _, _ in columns]]
        lines += [["" if row[key] is None else form.format(row[key])
                   for _, key, _, form in columns] for row in [*self, total]]
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join("  ".join(f"{cell:{side}{width}}" for cell, width, (_, _, side, _)
                                   in zip(line, widths, columns)).rstrip() for line in lines)


def compression_plan(named_parameters=None, compression=None, flops=None):
    """What happens to each parameter's gradient, and why: a list of dicts to read or to print.

    Without arguments for every DistributedOptimizer, DDPState and FSDPState that lives in this
    process, of the last one for the shards, with padding; else for named_parameters with
    `compression`, as DistributedOptimizer takes them, before anything is trained. name, elements;
    mode: "dense", "cyclic", "sharded" or "hierarchical"; rate, None where it is dense; dense_us and
    sparse_us: the tensor's share of its batch by the cost model and the figures measured at init,
    for a CUDA parameter with the first CUDA tensors of mode "auto" (one on the meta device counts
    as in host memory); sparse_us None where compression was not asked for; dense_bytes and
    bytes_sent: by a rank in a step; reason in words. flops: what flops_per_gradient() gives; the
    plan then has each parameter's FLOPs a gradient element, too. Rates and modes are those after
    warm-up and ramp. The same on every rank. After init() only.
    """
    if (named_parameters is None) != (compression is None):
        raise ValueError("named_parameters and compression go together; give both or none")
    plan = CompressionPlan()
    if named_parameters is not None:
        pairs = checked_pairs(named_parameters)
        check_compression(compression)
        if isinstance(compression, ScaleComCompressor):
            compression.check_patterns([name for name, _ in pairs])
        plan += [_row(name, parameter, compression) for name, parameter in pairs
                 if parameter.requires_grad]
    for reducer, describe in () if compression is not None else list(_reducers.items()):
        described = describe(reducer)
        with used(described.process_set):
            plan += [_row(name, parameter, described.compression)
                     for name, parameter in described.named_parameters()]
    for row in plan if flops is not None else ():
        row["flops"] = flops.get(row["name"])
    return plan


def _row(name, parameter, compression):
    options, asked = gradient_options(compression, name, parameter), "compression is not ScaleCom"
    if isinstance(compression, ScaleComCompressor):
        asked = compression.choice_of(name, parameter)[1]
    dtype = compression.compress(parameter.detach().new_empty(0))[0].dtype
    if dtype not in DTYPES:
        raise ValueError(f"parameter {name}: dtype {dtype} is not supported; allowed are "
                         f"{', '.join(map(str, DTYPES))}")
    # A model that is planned before it is built has no device yet.
    kind = DEVICE_KINDS["cpu"] if parameter.is_meta else device_kind(parameter)
    explanation = _library.read_json(_library.lib.scalecom_explain_compression, parameter.numel(),
                                     DTYPES[dtype], kind,
                                     options or _library.CompressionOptions())
    ways = {way["mode"]: way for way in explanation["alternatives"]}
    chosen = ways[explanation["mode"]]
    sparse = ways.get("sharded", {"time_us": None}) if chosen["mode"] == "dense" else chosen
    reason = asked if options is None else f"{asked}; {explanation['reason']}"
    return {"name": name, "elements": parameter.numel(), "mode": chosen["mode"],
            "rate": None if chosen["mode"] == "dense" else explanation["rate"],
            "dense_us": ways["dense"]["time_us"],
            "sparse_us": sparse["time_us"],
            "dense_bytes": round(ways["dense"]["bytes_sent"]),
            "bytes_sent": round(chosen["bytes_sent"]), "reason": reason}
