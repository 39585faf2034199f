"""CLT-k against a reference of a few lines: docs in the issue's words, algorithm.md section 2.

Vocabulary: n ranks, rank i, step t, chunk length C (the rate), gradient g, residual m, p = m + g.
A chunk's leader selects its largest |p|; everybody sends its p there. Cyclic: t mod n leads. Sharded:
rank r leads the chunks that begin in shard (r + t) mod n of the elements. Hierarchical: sharded, where g
is the average over the ranks of a host, and all ranks are on one here.
"""

import copy

import numpy
import pytest
import torch

import scalecom.torch as hvd


class Reference:
    """All ranks of one tensor, serially, in float64."""

    def __init__(self, ranks, shape, rate, beta, mode="cyclic", values="float32"):
        self.count = int(numpy.prod(shape))
        self.shape, self.rate, self.beta, self.step = shape, rate, beta, 0
        self.mode, self.values = mode, values
        self.residuals = numpy.zeros((ranks, self.count))

    def reduce(self, gradients):
        """One step: gradients of all ranks -> their averaged selected values, zero elsewhere."""
        if self.mode == "hierarchical":
            gradients = numpy.broadcast_to(gradients.mean(0), gradients.shape)
        p = self.residuals + gradients.reshape(len(gradients), self.count)
        chosen = [begin + int(numpy.argmax(numpy.abs(p[self.leader(begin, len(p)),
                                                       begin:begin + self.rate])))
                  for begin in range(0, self.count, self.rate)]
        sent = numpy.zeros_like(p)
        sent[:, chosen] = self.rounded(p[:, chosen])
        self.residuals = (1 - self.beta) * self.residuals + self.beta * (p - sent)
        self.step += 1
        return sent.mean(0).reshape(self.shape)

    def leader(self, begin, ranks):
        """Of the chunk that begins there."""
        if self.mode == "cyclic":
            return self.step % ranks
        shard = max(s for s in range(ranks) if self.count * s // ranks <= begin)
        return (shard - self.step) % ranks

    def rounded(self, p):
        wire = torch.from_numpy(p.astype(numpy.float32)).to(getattr(torch, self.values))
        return wire.double().numpy() if self.values != "float32" else p


def _gradient(name, step, rank, shape):
    seed = [sum(name.encode()), step, rank]
    return numpy.random.default_rng(seed).standard_normal(shape).astype(numpy.float32)


def _check_steps(name, shape, rate, beta, steps, call=hvd.allreduce_, mode="cyclic",
                 values="float32"):
    """Compares `steps` steps of one tensor with the reference, and every rank's residual.

    Tolerance: float32 sums of at most 8 terms of size 1 to 10, kept over at most 12 steps; sums on
    the wire are rounded to the values' dtype.
    """
    ranks, rank = hvd.size(), hvd.rank()
    compression = hvd.Compression.scalecom(rate=rate, beta=beta, warmup_steps=0, mode=mode,
                                           values=values)
    reference = Reference(ranks, shape, rate, beta, mode, values)
    slack = 1e-5 + {"float32": 0.0, "float16": 2**-11, "bfloat16": 2**-8}[values] * 3 * ranks
    for step in range(steps):
        gradients = numpy.stack([_gradient(name, step, other, shape) for other in range(ranks)])
        mine = torch.tensor(numpy.array(gradients[rank]))
        result = call(mine, name=name, op=hvd.Average, compression=compression).cpu().numpy()
        wanted = reference.reduce(gradients.astype(numpy.float64))
        assert numpy.array_equal(result != 0, wanted != 0), f"{name}: other choice at step {step}"
        assert numpy.allclose(result, wanted, rtol=1e-5, atol=slack), (name, step)
        residual = hvd.compression_state()[name]
        assert residual.dtype == torch.float32 and tuple(residual.shape) == tuple(shape)
        assert numpy.allclose(residual.numpy().ravel(), reference.residuals[rank], rtol=1e-5,
                              atol=1e-5), f"{name}: other residual at step {step}"


def the_issues_call_is_one_step_of_the_algorithm():
    _check_steps("w", (1000,), rate=100, beta=0.1, steps=9)


def sharded_steps_follow_their_leaders():
    for shape, rate in (((1000,), 10), ((3,), 2), ((), 5), ((257, 3), 100), ((4099,), 400)):
        _check_steps(f"sharded {shape}", shape, rate=rate, beta=0.3, steps=7, mode="sharded")


def hierarchical_steps_choose_from_the_average_of_the_host():
    for shape, rate in (((1000,), 10), ((5,), 2), ((4099,), 400)):
        _check_steps(f"hierarchical {shape}", shape, rate=rate, beta=0.3, steps=7,
                     mode="hierarchical")


def values_of_16_bits_lose_nothing_but_the_rounding_of_sums():
    for mode in ("cyclic", "sharded"):
        for values in ("float16", "bfloat16"):
            _check_steps(f"{mode} {values}", (640,), rate=16, beta=0.5, steps=5, mode=mode,
                         values=values)


def every_beta_filters_as_the_reference():
    for beta in (1.0, 0.3, 0.1, 0.01):
        _check_steps(f"beta {beta}", (64, 33), rate=25, beta=beta, steps=8)


def every_size_and_shape_is_compressed_when_asked_for():
    for shape in ((1,), (), (7,), (3, 5), (256,), (257,), (2, 3, 4, 5), (1, 1), (4099,)):
        for rate in (1, 2, 7, 100, 256, 257, 400, 65_536):
            _check_steps(f"{shape} at {rate}", shape, rate=rate, beta=0.5, steps=3)


def a_large_tensor_agrees_with_the_reference():
    _check_steps("large", (800, 1500), rate=112, beta=0.1, steps=3)


def out_of_place_calls_do_the_same():
    _check_steps("apart", (30, 30), rate=10, beta=0.3, steps=6, call=hvd.allreduce)


def asynchronous_calls_do_the_same():
    def in_place(tensor, **named):
        return hvd.synchronize(hvd.allreduce_async_(tensor, **named))

    def apart(tensor, **named):
        return hvd.synchronize(hvd.allreduce_async(tensor, **named))

    _check_steps("async in place", (500,), rate=20, beta=0.3, steps=5, call=in_place)
    _check_steps("async apart", (500,), rate=20, beta=0.3, steps=5, call=apart)


def each_name_counts_its_own_steps():
    for repetition in range(3):
        for name in ("first", "second"):
            if name == "first" or repetition > 0:
                compression = hvd.Compression.scalecom(rate=4, beta=1.0)
                mine = torch.zeros(4)
                mine[hvd.rank() % 4] = 1.0
                before = hvd.compression_state().get(name)
                result = hvd.allreduce(mine, name=name, op=hvd.Sum, compression=compression)
                if before is None:  # Step 0: rank 0 leads and chooses its largest, place 0.
                    assert (result != 0).tolist() == [True, False, False, False]


def sum_is_size_times_average():
    mine = torch.tensor(_gradient("both", 0, hvd.rank(), (640,)))
    compression = hvd.Compression.scalecom(rate=16)
    total = hvd.allreduce(mine, name="total", op=hvd.Sum, compression=compression)
    average = hvd.allreduce(mine, name="mean", op=hvd.Average, compression=compression)
    assert torch.allclose(total, average * hvd.size(), rtol=1e-6)


def warmup_steps_are_dense_and_keep_no_residual():
    compression = hvd.Compression.scalecom(rate=10, beta=0.5, warmup_steps=2)
    for step in range(4):
        mine = torch.tensor(_gradient("warm", step, hvd.rank(), (100,)))
        dense = hvd.allreduce(mine, name="dense")
        result = hvd.allreduce(mine, name="warm", compression=compression)
        assert int((result != 0).sum()) == (100 if step < 2 else 10)
        if step < 2:
            assert torch.equal(result, dense)
            residual = hvd.compression_state().get("warm")
            assert residual is None or not residual.any()


def what_was_not_sent_is_in_the_residual():
    """Conservation, for each coordinate and rank: sum of sent = sum of g - m / beta."""
    for beta in (1.0, 0.3, 0.1):
        name = f"conserved {beta}"
        compression = hvd.Compression.scalecom(rate=8, beta=beta)
        received = torch.zeros(400, dtype=torch.float64)
        given = torch.zeros(400, dtype=torch.float64)
        for step in range(20):
            mine = torch.tensor(_gradient(name, step, hvd.rank(), (400,)))
            given += mine.double()
            received += hvd.allreduce(mine, name=name, op=hvd.Sum, compression=compression)
        kept = hvd.compression_state()[name].to(given) / beta
        missing = hvd.allreduce(given - kept, name="missing", op=hvd.Sum)
        assert torch.allclose(received, missing, rtol=1e-5, atol=1e-3), (received - missing).abs()


def sixteen_bit_tensors_are_compressed():
    for dtype in (torch.float16, torch.bfloat16):
        compression = hvd.Compression.scalecom(rate=10, mode="cyclic")
        mine = torch.tensor(_gradient("short", 0, hvd.rank(), (100,))).to(dtype)
        result = hvd.allreduce(mine, name=f"{dtype}", op=hvd.Average, compression=compression)
        assert result.dtype == dtype and int((result != 0).sum()) == 10
        leader = hvd.broadcast(mine, 0, name="leader").float().abs().reshape(10, 10).argmax(1)
        assert torch.equal(result.reshape(10, 10).float().abs().argmax(1), leader)


def all_ranks_hold_the_same_bits():
    compression = hvd.Compression.scalecom(rate=7, beta=0.1)
    for step in range(4):
        mine = torch.tensor(_gradient("bits", step, hvd.rank(), (999,)))
        result = hvd.allreduce(mine, name="bits", compression=compression)
        everyone = hvd.allgather(result.view(torch.int32).reshape(1, -1), name="every bit")
        assert (everyone == everyone[0]).all()


def residuals_are_restored():
    compression = hvd.Compression.scalecom(rate=5, beta=0.3)

    def steps(begin, end):
        return [hvd.allreduce(torch.tensor(_gradient("r", step, hvd.rank(), (6, 10))),
                              name="restored", compression=compression)
                for step in range(begin, end)]

    steps(0, 3)
    saved, counts = hvd.compression_state(), hvd.compression_steps()
    assert counts["restored"] == 3
    wanted = steps(3, 6)
    hvd.load_compression_state({"restored": saved["restored"]}, counts)
    assert torch.equal(hvd.compression_state()["restored"], saved["restored"])
    for first, second in zip(wanted, steps(3, 6)):
        assert torch.equal(first, second)


def a_restored_residual_may_go_on_with_another_beta():
    compression = hvd.Compression.scalecom(rate=5, beta=0.5)
    for step in range(3):
        mine = torch.from_numpy(_gradient("beta", step, hvd.rank(), (6, 10)))
        hvd.allreduce(mine, name="of a beta", compression=compression)
    saved, counts = hvd.compression_state()["of a beta"], hvd.compression_steps()
    betas = hvd.compression_betas()
    assert betas["of a beta"] == 0.5
    owed = hvd.allreduce(saved / 0.5).to(torch.get_default_device())
    hvd.load_compression_state({"of a beta": saved}, counts, betas)
    # At rate 1 and beta 1 a step delivers everything.
    delivered = hvd.allreduce(torch.zeros(6, 10), name="of a beta",
                              compression=hvd.Compression.scalecom(rate=1, beta=1.0))
    assert torch.allclose(delivered, owed, rtol=1e-5, atol=1e-6)


def what_cannot_be_restored_changes_nothing():
    for name in ("kept", "changed"):
        hvd.allreduce(torch.randn(6, 10), name=name, compression=hvd.Compression.scalecom(rate=5))
    saved, counts, betas = hvd.compression_state(), hvd.compression_steps(), hvd.compression_betas()
    changed = saved["changed"]
    bad = changed.clone()
    bad[1, 2:4] = float("nan")
    for given, steps, beta, message in (
            (torch.zeros(3, 3), 1, 1.0, r"residual of changed has shape \(3, 3\); the session's .*\(6, 10\)"),
            (bad, 1, 1.0, "residual of changed has 2 values of 60 that are NaN or Inf"),
            (bad.nan_to_num().int(), 1, 1.0, "residual of changed is of dtype torch.int32; an array of floating"),
            ([1.0, 2.0], 1, 1.0, r"residual of changed is \[1.0, 2.0\]; an array"),
            (changed, -1, 1.0, "step of changed is -1; it must be a whole number of 0 or more"),
            (changed, "x", 1.0, "step of changed is 'x'"),
            (changed, 1, -2.0, "beta of changed is -2.0; allowed are"),
            (changed, 1, float("nan"), "beta of changed is nan")):
        with pytest.raises(ValueError, match=message):
            hvd.load_compression_state({"kept": saved["kept"] * 3, "changed": given},
                                       {**counts, "kept": 9, "changed": steps}, {"changed": beta})
    for state, message in (({"kept": saved["kept"] * 3, "": changed}, "has the name ''; .* text of 1 to"),
                           (None, "is None; a dict"), ({3: changed}, "has the name 3")):
        with pytest.raises(ValueError, match=message):
            hvd.load_compression_state(state)
    found = hvd.compression_state()
    assert all(torch.equal(value, saved[name]) for name, value in found.items())
    assert (hvd.compression_steps(), hvd.compression_betas()) == (counts, betas)


def states_that_do_not_belong_together_are_not_folded():
    one = {"residuals": {"w": torch.zeros(4)}, "steps": {"w": 7}}
    places = [{**one, "rank": rank, "size": 2} for rank in (0, 1)]
    assert "rank" not in hvd.fold_compression_states(places[::-1])
    for states, message in (([places[0]] * 2, "ranks 0 of 2, 0 of 2; give one of each"),
                            (places[:1], "ranks 0 of 2; give"), ([one, places[0]], "None of None, 0 of 2"),
                            ([{"scalecom": one}], r"states\[0\] is .*'scalecom'.*a dict with 'residuals'")):
        with pytest.raises(ValueError, match=message):
            hvd.fold_compression_states(states)
    with pytest.raises(ValueError, match="other betas"):
        hvd.fold_compression_states([{**one, "betas": {"w": 0.1}}, {**one, "betas": {"w": 1.0}}])
    with pytest.raises(ValueError, match="states is empty"):
        hvd.fold_compression_states([])
    with pytest.raises(ValueError, match=r"states\[1\] has other tensors"):
        hvd.fold_compression_states([one, {"residuals": {"w": torch.zeros(5)}, "steps": {"w": 7}}])
    with pytest.raises(ValueError, match=r"states\[1\] was saved at other steps"):
        hvd.fold_compression_states([one, {**one, "steps": {"w": 8}}])


def a_checkpoint_of_another_place_gives_the_steps_alone():
    layer = torch.nn.Linear(64, 64, bias=False)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(layer.parameters(), 0.01), [("resumed", layer.weight)],
                                         compression=hvd.Compression.scalecom(rate=8))

    def step():
        optimizer.zero_grad()
        layer(torch.full((4, 64), 1.0 + hvd.rank())).square().sum().backward()
        optimizer.step()

    def owed():
        return hvd.compression_state()["resumed"]

    step()
    saved = copy.deepcopy(optimizer.state_dict())
    step()
    former = owed()
    if hvd.rank() == 0:  # Horovod's usual way.
        optimizer.load_state_dict(saved)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    assert hvd.compression_steps()["resumed"] == 1
    assert torch.equal(owed(), saved["scalecom"]["residuals"]["resumed"] if hvd.rank() == 0 else torch.zeros_like(former))
    step()
    former = owed()
    if hvd.rank() == 0:  # At the steps that the others are at as well.
        optimizer.load_state_dict(optimizer.state_dict())
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    assert torch.equal(owed(), former)
    step()
    for change in ({"size": hvd.size() + 1}, {"rank": hvd.rank() + 1}, {"residuals": {}, "steps": {}}):
        step()
        resets = hvd.stats()["residual_resets"]
        saved = optimizer.state_dict()
        saved["scalecom"].update(change)
        optimizer.load_state_dict(saved)
        assert not owed().any() and hvd.stats()["residual_resets"] == resets + 1
        assert hvd.compression_steps()["resumed"] == saved["scalecom"]["steps"].get("resumed", 0)
    step()


def another_shape_starts_a_new_residual():
    compression = hvd.Compression.scalecom(rate=4)
    before = hvd.stats()["residual_resets"]
    hvd.allreduce(torch.randn(20), name="reshaped", compression=compression)
    hvd.allreduce(torch.randn(40), name="reshaped", compression=compression)
    assert hvd.compression_state()["reshaped"].shape == (40,)
    assert hvd.stats()["residual_resets"] == before + 1


def nan_and_infinity_pass_as_in_a_dense_allreduce():
    compression = hvd.Compression.scalecom(rate=10)
    for bad in (float("nan"), float("inf"), -float("inf")):
        name = f"bad {bad}"
        before = hvd.stats()["nonfinite_tensors"]
        mine = torch.ones(40)
        if hvd.rank() == hvd.size() - 1:
            mine[17] = bad
        result = hvd.allreduce(mine, name=name, compression=compression)
        if mine.is_cuda:  # The device asks nobody: the whole tensor says so.
            assert result.isnan().all() and not hvd.compression_state()[name].any()
            continue
        dense = hvd.allreduce(mine, name="dense bad")
        assert torch.equal(result.isnan(), dense.isnan()) and not result[17].isfinite()
        assert torch.equal(result.nan_to_num(), dense.nan_to_num())
        assert hvd.stats()["nonfinite_tensors"] == before + 1


def only_floats_are_compressed():
    compression = hvd.Compression.scalecom(rate=10)
    for dtype in (torch.int32, torch.float64, torch.bool):
        with pytest.raises(ValueError, match="ScaleCom compresses float32, float16 and bfloat16"):
            hvd.allreduce(torch.ones(20, dtype=dtype), name="wrong", op=hvd.Sum,
                          compression=compression)
    for op in (hvd.Min, hvd.Max, hvd.Product):
        with pytest.raises(ValueError, match="sum and average"):
            hvd.allreduce(torch.ones(20), name="wrong", op=op, compression=compression)
